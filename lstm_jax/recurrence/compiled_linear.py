"""Part of the backend `compiled` that runs cells whose step is linear in their state, h' = a h + b.

This module runs all cells of this kind that a user defines. It also runs the cells minLSTM and minGRU if the batch has only one row and the
matrix products are in the dtype of the parameters. In all other cases, compiled.py runs minLSTM and minGRU.

JAX computes a and b of all steps, and the C++ code in native/linear.cc goes through the steps. The C++ code reads and writes each number
once, while the parallel scan of the backend `associative` makes about 2 log2(T) passes over arrays (T, B, H).

B is the batch size, T the number of steps and H the number of units.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lstm_jax import native
from lstm_jax.primitives.operation import Operation, apply
from lstm_jax.primitives.partition import call_partitioned
from lstm_jax.recurrence.associative import coefficients
from lstm_jax.recurrence.operands import Call, Options


def run_linear(options: Options, call: Call):
    """Run a cell with linear steps (`cell.is_linear` is true) over time in C++. The arguments and results are those of `reference.run`."""
    a, b, starts = coefficients(options, call)
    h = apply(LinearSteps(), a, b, call.state.h, starts)
    return h if options.sequences else None, jax.tree.map(lambda _: h[-1], call.state)


@dataclass(frozen=True)
class LinearSteps(Operation):
    """Operation that computes the steps h' = a h + b of a linear recurrence in C++, and returns h after each step (T, B, H).

    Its arguments are a (T, B, H), b (T, B, H), the initial h (B, H), and flags, bool (T, B) or None. A flag is True where the state is
    reset before a step. At such a step h' is b.
    """

    def runs_on(self):
        return ("cpu",)

    def rows(self, args: tuple) -> list[int | None]:
        return [1, 1, 0] if args[3] is None else [1, 1, 0, 1]

    def output_rows(self, outputs) -> list[int]:
        del outputs
        return [1]

    def forward(self, keep, *args):
        """Run all steps in C++ and return (h of all steps, residuals). The residuals are h of all steps, or None if `keep` is false."""
        a, b, h, starts = args
        resets = starts is not None  # JAX keeps `call`, so that it must not hold arrays of this trace

        def call(*args):
            return native.call("lstm_jax_linear_forward", [args[0]], args, {}, resets=resets)

        h = call_partitioned(call, [(a, 1), (b, 1), (h, 0), (starts, 1)], [1])[0]
        return h, h if keep else None

    def backward(self, wanted, args, residuals, cotangents):
        del wanted
        a, _, h, starts = args
        resets = starts is not None  # as in `forward`, `call` must not hold arrays

        def call(*args):
            return native.call("lstm_jax_linear_backward", [args[0], args[0], args[1]], args, {}, resets=resets)

        return *call_partitioned(call, [(a, 1), (h, 0), (residuals, 1), (cotangents, 1), (starts, 1)], [1, 1, 0]), None

    def plain_forward(self, keep, *args):
        a, b, start, starts = args

        def body(h, step):
            a, b, at = step
            h = a * (h if at is None else jnp.where(at[:, None], 0, h)) + b
            return h, h

        h = jax.lax.scan(body, start, (a, b, starts))[1]
        return h, h if keep else None
