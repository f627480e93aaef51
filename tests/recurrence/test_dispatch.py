"""Tests of the choice of a backend, of the table of capabilities, and of the one-line
errors for unsupported calls.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, make_arrays, run_case
from tables import BACKENDS, lacking

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax import InputError, native, unroll
from lstm_jax.recurrence import BACKENDS as BACKEND_TABLE
from lstm_jax.recurrence import (
    Request,
    backends,
    capability_rows,
    cpu_devices,
    lacks,
    resolve_backend,
)


def test_auto_takes_the_first_that_serves() -> None:
    assert resolve_backend(None).name == BACKENDS[0]
    assert resolve_backend("reference").name == "reference"
    arrays = make_arrays(Case())
    jax.tree.map(
        np.testing.assert_array_equal,
        run_case(Case(), arrays, None),
        run_case(Case(), arrays, BACKENDS[0]),
    )


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("serves", lambda cell: cell.name == "gru", "no cell lstm"),
        ("platforms", ("moon",), "does not run on"),
        ("dtypes", (("float64", "float64"),), "no products in float32"),
        ("dtypes", (("float64", "float32"),), "no parameters in float32"),
        (
            "dtypes",
            (("float64", "float32"), ("float32", "float64")),
            "no products in float32 for parameters in float32",
        ),
        (
            "dropouts",
            ("input dropout", "recurrent dropout"),
            "no input dropout per gate",
        ),
        ("masks", ("lengths",), "no mask"),
        ("resets", False, "no resets"),
        ("why_not", lambda: "not here", "not here"),
    ],
)
def test_a_named_backend_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, column: str, value: Any, message: str
) -> None:
    poor = dataclasses.replace(BACKEND_TABLE["hoisted"], name="poor", **{column: value})
    monkeypatch.setattr(backends, "BACKENDS", {"poor": poor} | backends.BACKENDS)
    case = Case(mask="gaps", dropout="both, per gate", resets=True)
    with pytest.raises(InputError, match=f"^backend poor: {message}"):
        run_case(case, make_arrays(case), "poor")
    run_case(case, make_arrays(case), None)  # passes it over
    shown = backends.capability_rows()[0]
    assert shown["backend"] == "poor"
    assert (shown["here"] != "yes") == (column in ("platforms", "dtypes", "why_not"))


def test_unknown_names() -> None:
    with pytest.raises(
        InputError, match=r"^cell: nonsense; give a Cell, or one of lstm, "
    ):
        resolve_backend(None, "nonsense")
    with pytest.raises(
        InputError, match=f"^backend: cudnnn; give one of {', '.join(BACKEND_TABLE)}"
    ):
        run_case(Case(), make_arrays(Case()), "cudnnn")
    with pytest.raises(
        InputError,
        match=r"^backend: compiled: no products in int16; hoisted: no products in "
        r"int16; ",
    ):
        resolve_backend(None, "lstm", "float16", "int16")


@pytest.mark.parametrize("cell", ["lstm", "lstm_full_gate_recurrence"])
def test_a_cell_that_equals_one_of_the_library(cell: str) -> None:
    """A copy of a cell of the library gives exactly the same outputs as the cell, since
    cells are compared by their attributes.
    """
    arrays, same = make_arrays(Case(), cell=cell), dataclasses.replace(CELL_TABLE[cell])
    found = [
        jax.jit(lambda params, x, row=row: unroll(row, params, x)[0])(
            arrays.params, arrays.x
        )
        for row in (CELL_TABLE[cell], same)
    ]
    np.testing.assert_array_equal(*found)


EVERY_CELL = " ".join(CELL_TABLE)
COMPILED = EVERY_CELL.replace(" mlstm", "")
PAIRS = [
    ("float32", "float32"),
    ("float32", "bfloat16"),
    ("float32", "int8"),
    ("float64", "float64"),
    ("bfloat16", "bfloat16"),
    ("float16", "float16"),
]
FLOATS = [pair for pair in PAIRS if "int8" not in pair]
# backend -> (dtype of the parameters, dtype of the products) -> cells; other backends
# are not checked
SERVED_ON_A_CPU = {
    "compiled": {
        ("float32", "float32"): COMPILED,
        ("float32", "bfloat16"): COMPILED.replace(" rg_lru lru", ""),
        ("float32", "int8"): COMPILED.replace("lstm_full_gate_recurrence ", "").replace(
            " rg_lru lru", ""
        ),
        ("float64", "float64"): COMPILED,
    },
    "hoisted": dict.fromkeys(FLOATS, "lstm"),
    "cudnn": {},
    "chunkwise": dict.fromkeys(FLOATS, "mlstm"),
    "associative": dict.fromkeys(FLOATS, "min_lstm min_gru rg_lru lru"),
    "reference": dict.fromkeys(PAIRS, EVERY_CELL),
}


@pytest.mark.parametrize("backend", SERVED_ON_A_CPU)
def test_cells_and_dtypes_served_on_a_cpu(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as if the processor had AVX512-BF16 and AVX512-VNNI
    monkeypatch.setattr(native, "why_not_products", lambda dtype: "")
    # as if the compiled code were built
    row = dataclasses.replace(BACKEND_TABLE[backend], why_not=str)
    found = {}
    for dtypes in PAIRS:
        cells = [
            cell
            for cell in EVERY_CELL.split()
            if not lacks(row, Request(cell, *dtypes), "cpu")
        ]
        if cells:
            found[dtypes] = " ".join(cells)
    assert found == SERVED_ON_A_CPU[backend]


@pytest.mark.parametrize(
    ("backend", "asked", "why"),
    [
        ("cudnn", {}, "jaxlib has no cuDNN: install jax[cuda12]"),
        ("cudnn", {"resets": True}, "no resets"),
        ("cudnn", {"dropout": ("recurrent dropout",)}, "no recurrent dropout"),
        ("cudnn", {"mask": "lengths read backwards"}, "no lengths read backwards"),
        ("cudnn", {"compute_dtype": "bfloat16"}, "no products in bfloat16"),
        (
            "cudnn",
            {"dtype": "float64", "compute_dtype": "float64"},
            "no products in float64",
        ),
    ],
)
def test_what_is_served_on_a_gpu(backend: str, asked: dict[str, Any], why: str) -> None:
    if jax.default_backend() == "gpu" and "cuDNN" in why:
        pytest.skip("there is one")
    assert lacks(BACKEND_TABLE[backend], Request(**asked), "gpu") == why


def test_capability_rows() -> None:
    table = {row["backend"]: row for row in capability_rows()}
    assert list(table) == list(BACKEND_TABLE)
    columns = (
        "cells",
        "platforms",
        "products in",
        "dropout",
        "mask, lengths",
        "resets",
        "derivatives",
    )
    shown = {
        name: tuple(table[name][column] for column in columns)
        for name in ("cudnn", "reference")
    }
    every = "input and recurrent, per gate or shared"
    floats = "float32 float64 bfloat16 float16"
    assert shown == {
        "cudnn": (
            "lstm",
            "gpu",
            "float32",
            "input dropout",
            "lengths",
            "no",
            "reverse, of order 1",
        ),
        "reference": (
            "all, other activations, your own",
            "cpu gpu tpu",
            f"{floats} int8",
            f"{every}, zoneout",
            "yes",
            "yes",
            "reverse and forward",
        ),
    }
    if jax.default_backend() == "cpu":
        lacking = {
            dtype: native.why_not_products(dtype) for dtype in ("bfloat16", "int8")
        }
        without = "".join(
            f"; no products in {dtype}: {why}" for dtype, why in lacking.items() if why
        )
        assert table["compiled"]["here"] == (
            f"yes{without}"
            if "compiled" in BACKENDS
            else BACKEND_TABLE["compiled"].why_not()
        )
        assert (table["hoisted"]["here"], table["cudnn"]["here"]) == (
            "yes",
            "does not run on cpu",
        )


@pytest.mark.parametrize(
    ("backend", "dtype", "cell", "devices"),
    [
        (None, "float32", "lstm", 1),
        ("auto", "float64", "lstm", 1),
        ("compiled", "float32", "lstm_full_gate_recurrence", 1),
        ("auto", "float16", "lstm", 0),
        ("hoisted", "float32", "lstm", 0),
    ],
)
def test_cpu_devices(backend: str | None, dtype: str, cell: str, devices: int) -> None:
    assert cpu_devices(backend, dtype, cell) == (
        devices if "compiled" in BACKENDS else 0
    )


@pytest.mark.parametrize("lacks", ["", "this processor lacks avx512_bf16"])
def test_products_in_bfloat16_on_a_cpu(
    lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products in bfloat16 run on `compiled` if the processor has the instructions,
    else on `hoisted`.
    """
    monkeypatch.setitem(
        BACKEND_TABLE,
        "compiled",
        dataclasses.replace(BACKEND_TABLE["compiled"], why_not=str),
    )
    monkeypatch.setattr(native, "why_not_products", lambda dtype: lacks)
    assert cpu_devices("auto", "bfloat16") == (0 if lacks else 1)
    if jax.default_backend() == "cpu":
        assert resolve_backend(None, compute_dtype="bfloat16").name == (
            "hoisted" if lacks else "compiled"
        )
        assert lacking("compiled", compute_dtype="bfloat16") == lacks
        with pytest.raises(InputError, match="no products in int8"):
            run_case(Case(), make_arrays(Case()), "hoisted", compute_dtype=jnp.int8)
