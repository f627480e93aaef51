"""Part of the backend `compiled`: cells whose step is linear in their state, h' = a h + b.

JAX computes a and b of all steps, and the C++ code in native/linear.cc goes through the steps. It reads and writes each number once, while
the parallel scan of the backend `associative` makes about 2 log2(T) passes over arrays (T, B, H).

B is the batch size, T the number of steps and H the number of units.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lstm_jax import native
from lstm_jax.cells import Cell
from lstm_jax.dropout import DropoutMasks
from lstm_jax.primitives.operation import Operation, apply
from lstm_jax.primitives.partition import partitioned
from lstm_jax.recurrence.associative import coefficients
from lstm_jax.recurrence.resets import Resets


def run_linear(cell: Cell, params, x, state, valid, dropout: DropoutMasks, resets: Resets | None, sequences: bool):
    """Run a cell that is linear in its state over time. The arguments and results are those of `reference.run`."""
    a, b = coefficients(cell, params, x, valid, dropout, resets)
    h = apply(LinearSteps(), a, b, state.h)
    return h if sequences else None, jax.tree.map(lambda _: h[-1], state)


@dataclass(frozen=True)
class LinearSteps(Operation):
    """Operation that computes h after each of the steps h' = a h + b, (T, B, H), in C++. Its arguments are a, b (T, B, H) and h (B, H)."""

    def runs_on(self):
        """Return ("cpu",), since the C++ code is compiled for the CPU; see `Operation.runs_on`."""
        return ("cpu",)

    def rows(self, args: tuple) -> list[int | None]:
        """Return the index of the batch axis of each argument; see `Operation.rows`."""
        del args
        return [1, 1, 0]

    def output_rows(self, outputs) -> list[int]:
        """Return the index of the batch axis of the output; see `Operation.output_rows`."""
        del outputs
        return [1]

    def forward(self, keep, *args):
        """Run all steps in C++. The residuals are the output; see `Operation.forward`."""

        def call(a, b, h):
            return native.call("lstm_jax_linear_forward", [a], [a, b, h], {})

        h = partitioned(call, [1, 1, 0], [1])(*args)[0]
        return h, h if keep else None

    def backward(self, wanted, args, residuals, cotangents):
        """Return the gradients with respect to a, b and h, computed in C++; see `Operation.backward`."""
        del wanted
        a, _, h = args

        def call(a, h, all_h, d_h):
            return native.call("lstm_jax_linear_backward", [a, a, h], [a, h, all_h, d_h], {})

        return tuple(partitioned(call, [1, 0, 1, 1], [1, 1, 0])(a, h, residuals, cotangents))

    def plain_forward(self, keep, *args):
        """Return the same results as `forward`, computed in JAX; see `Operation.plain_forward`."""

        def body(h, step):
            h = step[0] * h + step[1]
            return h, h

        a, b, start = args
        h = jax.lax.scan(body, start, (a, b))[1]
        return h, h if keep else None

    def plain_backward(self, wanted, args, residuals, cotangents):
        """Return the same results as `backward`, computed in JAX; see `Operation.plain_backward`."""
        del wanted
        a, _, start = args
        before = jnp.concatenate([start[None], residuals[:-1]])

        def body(d, step):
            d = d + step[1]
            return step[0] * d, d

        d_start, d_b = jax.lax.scan(body, jnp.zeros_like(start), (a, cotangents), reverse=True)
        return d_b * before, d_b, d_start
