"""Tests of the choice of a backend, of the table of capabilities, and of the one-line errors for unsupported or wrong calls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, make_arrays, run_case
from tables import BACKENDS, EVERY_CASE, lacking

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax import DropoutMasks, InputError, native, unroll
from lstm_jax.recurrence import BACKENDS as BACKEND_TABLE
from lstm_jax.recurrence import Backend, Request, backends, capability_rows, cpu_devices, lacks, resolve_backend

pytestmark = pytest.mark.usefixtures("quick_compiles")


def test_auto_takes_the_first_that_serves() -> None:
    assert resolve_backend(None).name == BACKENDS[0]
    assert resolve_backend("reference").name == "reference"
    arrays = make_arrays(Case())
    jax.tree.map(np.testing.assert_array_equal, run_case(Case(), arrays, None), run_case(Case(), arrays, BACKENDS[0]))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("serves", lambda cell: cell.name == "gru", "no cell lstm"),
        ("platforms", ("moon",), "does not run on"),
        ("compute_dtypes", ("float64",), "no products in float32"),
        ("dtypes", ("float64",), "no parameters in float32"),
        ("dropouts", ("input dropout", "recurrent dropout"), "no input dropout per gate"),
        ("masks", ("lengths",), "no mask"),
        ("largest", 4, "no 5 units, 4 at most"),
    ],
)
def test_a_named_backend_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, column: str, value: tuple | int, message: str) -> None:
    row = vars(BACKEND_TABLE["hoisted"]) | {"name": "poor", column: value}
    monkeypatch.setattr(backends, "BACKENDS", {"poor": Backend(**row)} | backends.BACKENDS)
    case = Case(mask="gaps", dropout="both, per gate")
    with pytest.raises(InputError, match=f"^backend poor: {message}"):
        run_case(case, make_arrays(case), "poor")
    run_case(case, make_arrays(case), None)  # passes it over
    shown = backends.capability_rows()[0]
    assert shown["backend"] == "poor"
    assert shown["here"] == (
        message + f" {jax.default_backend()}" * (column == "platforms") if column in ("platforms", "compute_dtypes", "dtypes") else "yes"
    )


def test_unknown_cell() -> None:
    with pytest.raises(InputError, match=r"^cell: nonsense; give a Cell, or one of lstm, "):
        resolve_backend(None, "nonsense")


def test_unknown_backend() -> None:
    with pytest.raises(InputError, match=f"^backend: cudnnn; give one of {', '.join(BACKEND_TABLE)}"):
        run_case(Case(), make_arrays(Case()), "cudnnn")
    with pytest.raises(InputError, match="no products in int8"):
        run_case(Case(), make_arrays(Case()), "hoisted", compute_dtype=jnp.int8)


@pytest.mark.parametrize("cell", ["lstm", "gru", "lstm_full_gate_recurrence"])
def test_a_cell_that_equals_one_of_the_library(cell: str) -> None:
    """A copy of a cell of the library gives exactly the same outputs as the cell, since cells are compared by their attributes."""
    arrays, same = make_arrays(Case(), cell=cell), dataclasses.replace(CELL_TABLE[cell])
    found = [jax.jit(lambda params, x, row=row: unroll(row, params, x)[0])(arrays.params, arrays.x) for row in (CELL_TABLE[cell], same)]
    np.testing.assert_array_equal(*found)


EVERY_CELL = (
    "lstm gru gru_reset_before simple_rnn lstm_layernorm lstm_peephole lstm_no_input_gate lstm_no_forget_gate lstm_no_output_gate "
    "lstm_coupled lstm_no_input_activation lstm_no_output_activation lstm_full_gate_recurrence min_lstm min_gru"
)
COMPILED = EVERY_CELL
NEWTON = (
    "lstm gru simple_rnn lstm_peephole lstm_no_input_gate lstm_no_forget_gate lstm_no_output_gate lstm_coupled lstm_no_input_activation "
    "lstm_no_output_activation"
)
PAIRS = [
    ("float32", "float32"),
    ("float32", "bfloat16"),
    ("float32", "int8"),
    ("float64", "float64"),
    ("bfloat16", "bfloat16"),
    ("float16", "float16"),
]
FLOATS = [pair for pair in PAIRS if "int8" not in pair]
SERVED_ON_A_CPU = {  # backend -> (dtype of the parameters, dtype of the products) -> cells; other backends are not checked
    "compiled": {
        ("float32", "float32"): COMPILED,
        ("float32", "bfloat16"): COMPILED,
        ("float32", "int8"): COMPILED.replace("lstm_full_gate_recurrence ", ""),
        ("float64", "float64"): COMPILED,
    },
    "hoisted": dict.fromkeys(FLOATS, "lstm"),
    "cudnn": {},
    "pallas": {},
    "associative": dict.fromkeys(FLOATS, "min_lstm min_gru"),
    "reference": dict.fromkeys(PAIRS, EVERY_CELL),
    "parallel": {("float32", "float32"): NEWTON, ("float64", "float64"): NEWTON},
}


@pytest.mark.parametrize("backend", SERVED_ON_A_CPU)
def test_cells_and_dtypes_served_on_a_cpu(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_not_products", lambda dtype: "")  # as if the processor had AVX512-BF16 and AVX512-VNNI
    row = dataclasses.replace(BACKEND_TABLE[backend], why_not=str)  # as if the compiled code were built
    found = {}
    for dtypes in PAIRS:
        cells = [cell for cell in EVERY_CELL.split() if not lacks(row, Request(cell, *dtypes), "cpu")]
        if cells:
            found[dtypes] = " ".join(cells)
    assert found == SERVED_ON_A_CPU[backend]


ALL = "input and recurrent, per gate or shared"
CAPABILITIES = [
    ("compiled", COMPILED, "cpu", "float32 float64 bfloat16 int8", ALL, "yes", "yes", "any", "reverse and forward"),
    ("hoisted", "lstm", "cpu gpu tpu", "float32 float64 bfloat16 float16", ALL, "yes", "yes", "any", "reverse and forward"),
    ("cudnn", "lstm", "gpu", "float32", "input dropout", "lengths", "no", "any", "reverse, of order 1"),
    ("pallas", "lstm", "gpu", "float32 bfloat16", ALL, "yes", "yes", "up to 256", "reverse and forward"),
    (
        "associative",
        "min_lstm min_gru",
        "cpu gpu tpu",
        "float32 float64 bfloat16 float16",
        "input dropout, input dropout per gate",
        "yes",
        "yes",
        "any",
        "reverse and forward",
    ),
    (
        "reference",
        "all, other activations, your own",
        "cpu gpu tpu",
        "float32 float64 bfloat16 float16 int8",
        f"{ALL}, zoneout",
        "yes",
        "yes",
        "any",
        "reverse and forward",
    ),
    ("parallel", NEWTON, "cpu gpu tpu", "float32 float64", ALL, "yes", "yes", "any", "reverse and forward"),
]
COLUMNS = ("backend", "cells", "platforms", "products in", "dropout", "mask, lengths", "resets", "units", "derivatives")
HERE = {
    "hoisted": "yes",
    "cudnn": "does not run on cpu",
    "pallas": "does not run on cpu",
    "associative": "yes",
    "reference": "yes",
    "parallel": "yes",
}


def test_capability_rows() -> None:
    """`capability_rows` has one row per backend, in the order of `BACKEND_TABLE`.

    The rows of the backends in `SERVED_ON_A_CPU` equal the expected rows in `CAPABILITIES`.
    """
    table = capability_rows()
    assert [row["backend"] for row in table] == list(BACKEND_TABLE)
    assert [row for row in (tuple(row[column] for column in COLUMNS) for row in table) if row[0] in SERVED_ON_A_CPU] == CAPABILITIES
    assert {tuple(row) for row in table} == {(*COLUMNS, "here", "what")}
    assert all(row["what"] for row in table)
    if jax.default_backend() == "cpu":
        lacking = {dtype: native.why_not_products(dtype) for dtype in ("bfloat16", "int8")}
        without = "".join(f"; no products in {dtype}: {why}" for dtype, why in lacking.items() if why)
        compiled = f"yes{without}" if "compiled" in BACKENDS else BACKEND_TABLE["compiled"].why_not()
        assert {row["backend"]: row["here"] for row in table if row["backend"] in SERVED_ON_A_CPU} == HERE | {"compiled": compiled}


@pytest.mark.parametrize(
    ("backend", "dtype", "cell", "devices"),
    [
        (None, "float32", "lstm", 1),
        ("auto", "float64", "lstm", 1),
        ("compiled", "float32", "lstm", 1),
        ("auto", "float32", "gru", 1),
        ("auto", "float32", "lstm_full_gate_recurrence", 1),
        ("auto", "float16", "lstm", 0),
        ("hoisted", "float32", "lstm", 0),
    ],
)
def test_cpu_devices(backend: str | None, dtype: str, cell: str, devices: int) -> None:
    assert cpu_devices(backend, dtype, cell) == (devices if "compiled" in BACKENDS else 0)


@pytest.mark.parametrize("lacks", ["", "this processor lacks avx512_bf16"])
def test_products_in_bfloat16_on_a_cpu(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in bfloat16 run on `compiled` if the processor has the instructions, else on `hoisted`.

    If the processor lacks them, the reason why `compiled` does not support such products names the missing instructions.
    """
    row = dataclasses.replace(BACKEND_TABLE["compiled"], why_not=str)
    monkeypatch.setitem(BACKEND_TABLE, "compiled", row)
    monkeypatch.setattr(backends, "_COMPILED", row)
    monkeypatch.setattr(native, "why_not_products", lambda dtype: lacks)
    if jax.default_backend() == "cpu":
        assert resolve_backend(None, compute_dtype="bfloat16").name == ("hoisted" if lacks else "compiled")
    assert cpu_devices("auto", "bfloat16") == (0 if lacks else 1)
    assert lacking("compiled", compute_dtype="bfloat16") == (lacks if jax.default_backend() == "cpu" else "does not run on gpu")
    assert "no parameters in bfloat16" in lacking("compiled", dtype="bfloat16", compute_dtype="bfloat16") or jax.default_backend() != "cpu"


WRONG = {
    "no steps": (lambda a: {"x": a.x[:, :0]}, "x: (5, 0, 3); give 1 or more time steps"),
    "no steps, time first": (lambda a: {"x": a.x[:0], "time_major": True}, "x: (0, 7, 3); give 1 or more time steps"),
    "two axes": (lambda a: {"x": a.x[0]}, "x: (7, 3); give (B, T, E), or (T, B, E) if time_major"),
    "features": (lambda a: {"x": a.x[:, :, :2]}, "x: (5, 7, 2); the kernel reads 3 features"),
    "mask and lengths": (
        lambda a: {"mask": jnp.ones((5, 7), bool), "lengths": jnp.ones(5, jnp.int32)},
        "lengths: given with mask; give one of the two",
    ),
    "mask": (lambda a: {"mask": jnp.ones((7, 5), bool)}, "mask: (7, 5); give (B, T), or (T, B) if time_major"),
    "tokens": (lambda a: {"tokens": jnp.ones((7, 5), int)}, "tokens: (7, 5); give (B, T), or (T, B) if time_major"),
    "tokens that are no ints": (lambda a: {"tokens": jnp.ones((5, 7))}, "tokens: float32; give ints"),
    "lengths": (lambda a: {"lengths": jnp.ones(7, jnp.int32)}, "lengths: (7,); give shape (5,)"),
    "initial state": (
        lambda a: {"initial_state": jax.tree.map(lambda s: s[:, :2], a.state)},
        "initial_state.h: (5, 2); give shape (5, 5)",
    ),
    "initial memory": (
        lambda a: {"initial_state": a.state._replace(c=a.state.c[:1])},
        "initial_state.c: (1, 5); give shape (5, 5)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line(name: str) -> None:
    change, message = WRONG[name]
    arrays = make_arrays(Case())
    with pytest.raises(InputError) as caught:
        unroll(CELL_TABLE["lstm"], arrays.params, **({"x": arrays.x, "initial_state": arrays.state} | change(arrays)))
    assert str(caught.value) == message


@pytest.mark.parametrize("backend", EVERY_CASE)
@pytest.mark.parametrize(
    ("masks", "name"),
    [
        (DropoutMasks(np.ones((1, 3), np.float32)), "dropout.input"),
        (DropoutMasks(np.ones((5, 2), np.float32)), "dropout.input"),
        (DropoutMasks(None, np.ones((3, 5, 5), np.float32)), "dropout.recurrent"),
        (DropoutMasks(None, np.ones((4, 1, 5), np.float32)), "dropout.recurrent"),
    ],
)
def test_wrong_dropout_masks_are_named(backend: str, masks: DropoutMasks, name: str) -> None:
    arrays = make_arrays(Case())
    with pytest.raises(InputError, match=rf"^{name}: \("):
        run_case(Case(), arrays._replace(dropout=jax.tree.map(jnp.asarray, masks)), backend)
