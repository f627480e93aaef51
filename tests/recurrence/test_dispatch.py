"""The one place where a backend is chosen: what it takes, what its table says, and what it refuses, in a line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, make_arrays, run_case
from tables import BACKENDS, EVERY_CASE

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax import DropoutMasks, InputError, unroll
from lstm_jax.recurrence import BACKENDS as BACKEND_TABLE
from lstm_jax.recurrence import Backend, Request, api, capability_rows, lacks, resolve_backend

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
    monkeypatch.setattr(api, "BACKENDS", {"poor": Backend(**row)} | api.BACKENDS)
    case = Case(mask="gaps", dropout="both, per gate")
    with pytest.raises(InputError, match=f"^backend poor: {message}"):
        run_case(case, make_arrays(case), "poor")
    run_case(case, make_arrays(case), None)  # passes it over
    shown = api.capability_rows()[0]
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
    with pytest.raises(InputError, match="no products in float16"):
        run_case(Case(), make_arrays(Case()), "hoisted", compute_dtype=jnp.float16)


def test_capability_rows() -> None:
    table = capability_rows()
    assert [row["backend"] for row in table] == list(BACKEND_TABLE)
    for row, backend in zip(table, BACKEND_TABLE.values(), strict=True):
        assert all(isinstance(text, str) and text for text in row.values())
        assert row["derivatives"].startswith("reverse and forward" if backend.forward_mode else "reverse")
        assert ("order 1" in row["derivatives"]) is not backend.higher_orders
        assert row["cells"] == ("all, other activations, your own" if backend.any_cell else " ".join(backend.cells))
        assert row["here"] == (lacks(backend, Request(backend.cells[0]), jax.default_backend()) or "yes")
    assert len({tuple(row) for row in table}) == 1


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
