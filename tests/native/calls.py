"""Calls of the compiled functions directly through `jax.ffi`, without the checks of the
Python code.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from lstm_jax.native import library

STEPS, BATCH, FEATURES, UNITS = 3, 2, 5, 4
RATES = {"b1": 0.9, "b2": 0.99}


class Shape(NamedTuple):
    """Sizes of a recurrent cell in native/cells.h.

    Attributes:
        number: number of the cell in the table of cells.
        gates: number of gates.
        kept: number of residuals (B, H) of a step, which the forward pass keeps for the
            backward pass.
        cells: number of arrays (B, H) that are concatenated in the state c, 0 without
            c.
        extras: number of vectors (H,) in a further parameter.
        recurrent: whether the cell has a recurrent kernel U.
        parts: number of arrays (B, H) that are concatenated in the state h, such as 4
            for h and three gates.
    """

    number: int
    gates: int = 4
    kept: int = 4
    cells: int = 1
    extras: int = 0
    recurrent: bool = True
    parts: int = 1


SHAPES = {
    "lstm": Shape(0),
    "gru": Shape(1, 3, 4, 0, 3),
    "simple_rnn": Shape(2, 1, 0, 0),
    "gru_reset_before": Shape(3, 3, 3, 0),
    "lstm_layernorm": Shape(4, 4, 12, 1, 10),
    "lstm_peephole": Shape(5, 4, 4, 1, 3),
    "lstm_coupled": Shape(9, 3, 3),
    "min_lstm": Shape(12, 3, 4, 0, recurrent=False),
    "min_gru": Shape(13, 2, 2, 0, recurrent=False),
    "lstm_full_gate_recurrence": Shape(14, 4, 1, parts=4),
    "slstm": Shape(15, 4, 5, 2),
}


class Call(NamedTuple):
    """Call of a compiled function.

    Attributes:
        function: name of the function.
        operands: dict from name to array. Error messages contain these names.
        results: dict from name to shape and dtype of a result. Error messages contain
            these names, too.
        attributes: attributes of the call.
    """

    function: str
    operands: dict[str, Any]
    results: dict[str, jax.ShapeDtypeStruct]
    attributes: dict[str, Any]

    def run(self, threads: int = 1) -> list[np.ndarray]:
        """Make the call with the given number of threads, and return its results.

        Raises:
            jax.errors.JaxRuntimeError: if the compiled function rejects the call.
        """
        return [np.asarray(result) for result in self.traced(threads)]

    def traced(self, threads: int = 1, always: bool = False) -> list[jax.Array]:
        """Make the call, and return its results as JAX arrays. The method may be called
        while JAX traces a function.

        If `always` is true, XLA makes the call even if no result is used.
        """
        library.register()
        call = jax.ffi.ffi_call(
            self.function, list(self.results.values()), has_side_effect=always
        )
        return call(*self.operands.values(), **self.fixed(threads))

    def fixed(self, threads: int) -> dict[str, Any]:
        """Return all attributes of the call."""
        attributes = {"threads": threads, **self.attributes}
        if self.function in ("lstm_jax_forward", "lstm_jax_backward"):
            attributes["operands"] = ",".join(self.operands)
            attributes["results"] = ",".join(self.results)
        return {
            name: np.int64(value) if type(value) is int else value
            for name, value in attributes.items()
        }

    def batch_first(self) -> "Call":
        """Return the same call for arrays whose first axis is the batch.

        The arrays are x, its gradient and the gradient of the outputs, all (B, T, ...),
        and the outputs (B, T, H).
        """
        swapped = {
            name: np.swapaxes(self.operands[name], 0, 1)
            for name in ("x", "d of outputs")
            if name in self.operands
        }
        results = dict(self.results)
        if "d of x" in results:
            steps, batch, features = results["d of x"].shape
            results["d of x"] = _like(
                results["d of x"].dtype.name, batch, steps, features
            )
        if self.function == "lstm_jax_forward" and "h of all steps" in results:
            shape = next(
                shape
                for shape in SHAPES.values()
                if shape.number == self.attributes["cell"]
            )
            steps, batch, width = self.results["h of all steps"].shape
            results["outputs"] = _like(
                results["h of all steps"].dtype.name,
                batch,
                steps - 1,
                width // shape.parts,
            )
            if not results.keys() & {"kept", "c of all steps"}:
                del results["h of all steps"]
        return self._replace(
            operands=self.operands | swapped,
            results=results,
            attributes=self.attributes | {"batch_first": True},
        )

    def but(self, name: str, value: Any) -> "Call":
        """Return the call with `value` in place of the operand, result or attribute
        `name`.

        The name is looked up in the operands first, then in the results, and then in
        the attributes.
        """
        part = next(
            part
            for part in ("operands", "results", "attributes")
            if name in getattr(self, part)
        )
        return self._replace(**{part: getattr(self, part) | {name: value}})


def refusals(calls: Sequence[Call]) -> list[str]:
    """Return the error message of each call. The calls are branches of one program,
    which is compiled once and runs one call at a time.

    Raises:
        pytest.fail.Exception: if a call does not raise an error of the kind
            INVALID_ARGUMENT.
    """

    def branch(call: Call) -> Callable[[], int]:
        return lambda: len(call.traced(always=True))

    run = jax.jit(
        lambda number: jax.lax.switch(number, [branch(call) for call in calls])
    )
    return [refusal(lambda n=n: run(np.int32(n))) for n in range(len(calls))]


def refusal(run: Callable[[], Any]) -> str:
    """Check that `run` raises an error of the kind INVALID_ARGUMENT, and return its
    message.
    """
    with pytest.raises(
        (ValueError, jax.errors.JaxRuntimeError), match="INVALID_ARGUMENT"
    ) as caught:
        jax.block_until_ready(run())
    return str(caught.value)


def _like(dtype: str, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def recurrence(
    backward: bool,
    dtype: str = "float32",
    sizes: tuple[int, int, int, int] = (STEPS, BATCH, FEATURES, UNITS),
    ids: bool = False,
    kinds: tuple[int, int] = (0, 0),
    masked: bool = True,
    tokens: bool = False,
    keep: bool = True,
    resets: bool = True,
    cell: str = "lstm",
    products: int = 0,
    sequences: bool | None = None,
) -> Call:
    """Return a valid call of the forward or backward pass of a cell.

    Args:
        backward: whether the call is the backward pass.
        dtype: dtype of the parameters.
        sizes: T, B, E and H.
        ids: whether the inputs are ids instead of features.
        kinds: number of input masks and number of recurrent masks (dropout).
        masked: whether a mask of valid steps is given.
        tokens: whether the ids of the inputs are given besides x.
        keep: whether the forward pass keeps residuals.
        resets: whether the state is reset at some steps.
        cell: name of the cell in `SHAPES`.
        products: dtype of the products, as a number of `PRODUCT_NUMBERS`.
        sequences: whether the forward pass returns h of all steps. If None, it does if
            `keep` is true.
    """
    steps, batch, features, units = sizes
    shape = SHAPES[cell]
    width, columns = shape.parts * units, shape.gates * units
    rng = np.random.default_rng(0)

    def normal(*extents: int) -> np.ndarray:
        return (rng.standard_normal(extents) * 0.5).astype(dtype)

    def states(name: str, *leading: int) -> dict[str, np.ndarray]:
        parts = {"h": width, "c": shape.cells * units} if shape.cells else {"h": width}
        return {
            name.format(part): normal(*leading, size) for part, size in parts.items()
        }

    def mask(kind: int, size: int) -> np.ndarray:
        return normal(kind, batch, size) if kind > 1 else normal(batch, size)

    words = rng.integers(0, max(1, features), (steps, batch)).astype(np.int32)
    inputs = {"ids": words} if ids else {"x": normal(steps, batch, features)}
    kernels = {"kernel": normal(features, columns)} | (
        {"recurrent kernel": normal(width, columns)} if shape.recurrent else {}
    )
    bias = {"bias": normal(columns)}
    extras = {"extras": normal(shape.extras * units)} if shape.extras else {}
    initial, reset = (
        states("{}", batch),
        states("{} of resets", batch) if resets else {},
    )
    all_steps = states("{} of all steps", steps + 1, batch)
    kept = {"kept": normal(steps, batch, shape.kept * units)} if shape.kept else {}
    last = {
        **({"input mask": mask(kinds[0], features)} if kinds[0] else {}),
        **({"recurrent mask": mask(kinds[1], width)} if kinds[1] else {}),
        **(
            {"valid": rng.integers(0, 2, (steps, batch)).astype(bool)} if masked else {}
        ),
        **({"tokens": words} if tokens else {}),
        **({"resets": rng.random((steps, batch)) < 0.3} | reset if resets else {}),
    }
    attributes = {"cell": shape.number, "products": products, "batch_first": False}
    if backward:
        function = "lstm_jax_backward"
        given = states("d of final {}", batch) | {
            "d of outputs": normal(steps, batch, units)
        }
        operands = inputs | kernels | extras | kept | all_steps | given | last
        differentiated = (
            initial | kernels | bias | extras | ({} if ids else inputs) | reset
        )
        results = {f"d of {name}": array for name, array in differentiated.items()}
    else:
        sequences = keep if sequences is None else sequences
        function = "lstm_jax_forward"
        operands = inputs | kernels | bias | extras | initial | last
        returned = (
            all_steps | kept
            if keep
            else {"h of all steps": all_steps["h of all steps"]}
            if sequences
            else {}
        )
        results = {f"final {name}": array for name, array in initial.items()} | returned
    return Call(
        function,
        operands,
        {name: _like(dtype, *array.shape) for name, array in results.items()},
        attributes,
    )


def linear(
    backward: bool,
    dtype: str = "float32",
    sizes: tuple[int, int, int] = (STEPS, BATCH, UNITS),
    resets: bool = True,
    is_complex: bool = False,
    constant: bool = False,
    batch_first: bool = False,
) -> Call:
    """Return a valid call of the forward or backward pass of the linear recurrence h' =
    a h + b.

    `sizes` are T, B and H. If `is_complex` is true, the arrays have 2 H columns. If
    `constant` is true, a has no axes T and B. If `batch_first` is true, arrays of all
    steps are (B, T, ...).
    """
    rng = np.random.default_rng(0)
    steps, batch, units = sizes
    lead = (batch, steps) if batch_first else (steps, batch)
    width = 2 * units if is_complex else units
    a, b, all_h = (rng.standard_normal((*lead, width)).astype(dtype) for _ in range(3))
    a, h = a[0, 0] if constant else a, rng.standard_normal((batch, width)).astype(dtype)
    last: dict[str, Any] = {"resets": rng.random(lead) < 0.3} if resets else {}
    attributes = {
        "complex": is_complex,
        "constant": constant,
        "resets": resets,
        "batch_first": batch_first,
    }
    of_steps, of_row = _like(dtype, *b.shape), _like(dtype, *h.shape)
    if not backward:
        return Call(
            "lstm_jax_linear_forward",
            {"a": a, "b": b, "h": h, **last},
            {"h of all steps": of_steps},
            attributes,
        )
    operands = {"a": a, "h": h, "h of all steps": all_h, "d of outputs": b, **last}
    results = {
        "d of a": of_row if constant else of_steps,
        "d of b": of_steps,
        "d of h": of_row,
    }
    return Call("lstm_jax_linear_backward", operands, results, attributes)


def table(
    rows: bool,
    dtype: str = "float32",
    at: int = 2,
    words: int = 6,
    columns: int = 5,
    ids: int | None = 3,
    scales: int = 4,
) -> Call:
    """Return a valid call of a function of the row-sparse Adam, for a table (`words`,
    `columns`) whose rows have taken no step yet.

    The call makes the steps 0 to `at` - 1 without gradients for the first `ids` rows of
    the table or, if `ids` is None, for all rows. If `rows` is true, the call then makes
    the step `at` with gradients for the same rows. `scales` is the number of steps in
    an epoch.
    """
    operands: dict[str, Any] = {
        name: np.ones((words, columns), dtype) for name in ("table", "m", "v")
    }
    operands |= {
        "steps done": np.zeros(words, np.int32),
        "scales": np.ones(scales, dtype),
        "eps": np.full(scales, 1e-7, dtype),
    }
    operands |= {"number of the step": np.asarray(at, np.int32)}
    operands |= {} if ids is None else {"ids": np.arange(ids, dtype=np.int32)}
    operands |= {"gradients": np.ones((ids or 0, columns), dtype)} if rows else {}
    results = {
        f"new {name}": _like(dtype, words, columns) for name in ("table", "m", "v")
    } | {"new steps done": _like("int32", words)}
    return Call(
        "lstm_jax_adam_rows" if rows else "lstm_jax_adam_catch_up",
        operands,
        results,
        RATES,
    )


def mask(shape: tuple[int, ...] = (2, 7)) -> Call:
    """Return a valid call that draws a dropout mask."""
    attributes = {"keep": np.float32(0.5), "scale": np.float32(2)}
    return Call(
        "lstm_jax_mask",
        {"key": np.arange(2, dtype=np.uint32)},
        {"mask": _like("float32", *shape)},
        attributes,
    )
