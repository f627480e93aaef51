"""Tests that compare every cell except the LSTM with the equations of its paper in float64; test_contract.py has the LSTM."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Arrays, Case, cases, differentiate_case, make_arrays, run_case, run_compiled, weigh
from float64_steps import FACTS, STEPS, Row, State, Vector
from hypothesis import assume, given, settings
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads
from tables import SHAPES, Shape, assert_close

from lstm_jax import CELLS, InputError
from lstm_jax.cell_names import TRAITS, cell_traits
from lstm_jax.runtime.sharding import DATA, make_mesh, on

pytestmark = pytest.mark.usefixtures("quick_compiles")


def by_hand(cell: str, case: Case, arrays: Arrays) -> tuple[Vector, State]:
    """Return outputs (B, T, H) or (B, H) and the final state from the equations in `STEPS`, one row and one step at a time."""
    gates = CELLS[cell].gates
    batch, steps, features, units = case.shape

    def factors(mask: Any, row: int, width: int) -> Vector:
        if mask is None:
            return np.ones((gates, width))
        mask = np.asarray(mask, np.float64)
        return mask[:, row] if mask.ndim == 3 else np.stack([mask[row]] * gates)

    like = CELLS[cell].initial_state(batch, units) if arrays.state is None else arrays.state
    state = {name: np.array(part, np.float64) for name, part in like._asdict().items()}
    outputs = np.zeros((batch, steps, units))
    for row in range(batch):
        shown = np.zeros(units)
        for place, step in enumerate(range(steps)[::-1] if case.backwards else range(steps)):
            valid = arrays.mask is None or bool(arrays.mask[row, step])
            if valid:
                own = {name: part[row] for name, part in state.items()}
                masks = factors(arrays.dropout.input, row, features), factors(arrays.dropout.recurrent, row, units)
                new = STEPS[cell](Row(arrays.params, np.asarray(arrays.x[row, step], np.float64), own["h"], *masks), own)
                for name, part in new.items():
                    state[name][row] = part
                shown = new["h"]
            outputs[row, place] = 0 if case.zero_output and not valid else shown
    return (outputs if case.return_sequences else outputs[:, -1]), state


def test_every_cell_is_here() -> None:
    assert {"lstm", *STEPS} == set(CELLS)


def test_facts_of_cells() -> None:
    """The attributes of the cells in `CELLS` equal those in `FACTS`, and so do the properties that `cell_traits` returns for configs."""
    found = {name: (row.gates, row.has_recurrent_kernel, row.has_cell_state, row.linear is not None) for name, row in CELLS.items()}
    assert found == FACTS
    traits = {name: cell_traits(name) for name in CELLS}
    assert {name: (found.has_recurrent_kernel, found.has_cell_state) for name, found in traits.items()} == {
        name: facts[1:3] for name, facts in FACTS.items()
    }
    assert len(TRAITS) == 4


@pytest.mark.slow(keep=7)
@pytest.mark.parametrize("cell", STEPS)
def test_reference_is_the_definition(cell: str) -> None:
    @settings(max_examples=4)
    @given(cases)
    def check(case: Case) -> None:
        with jax.enable_x64(True):
            arrays = make_arrays(case, "float64", cell)
            assume(arrays.dropout.recurrent is None or CELLS[cell].linear is None)
            outputs, state = run_compiled(case, arrays, "reference", cell)
            assert_close((outputs, state._asdict()), by_hand(cell, case, arrays), "float64", f"{case} ")

    check()


@pytest.mark.parametrize("cell", [name for name, row in CELLS.items() if row.linear])
def test_nothing_of_the_state_to_drop(cell: str) -> None:
    case = Case(dropout="recurrent, shared")
    with pytest.raises(InputError, match="multiplies no state by a kernel"):
        run_case(case, make_arrays(case, "float32", cell), "reference", cell)


def test_gates_that_are_zero_in_the_minimal_lstm() -> None:
    """The outputs of minLSTM are finite if its gates i and f both round to 0, although its equation divides by f + i."""
    shape = SHAPES[2]
    arrays = make_arrays(Case(shape), "float32", "min_lstm")
    params = arrays.params._replace(bias=jnp.full_like(arrays.params.bias, -200.0))
    outputs, _ = run_case(Case(shape), arrays._replace(params=params), None, "min_lstm")
    assert np.isfinite(outputs).all()


OF_EACH_KIND = ("gru_reset_before", "lstm_layernorm", "lstm_coupled", "lstm_full_gate_recurrence", "min_lstm")
"""Cells that represent all kinds of steps, states and projections. Only these are used to test derivatives, split batches and `remat`."""


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("cell", OF_EACH_KIND)
def test_derivatives_are_those_of_differences(x64: None, cell: str) -> None:
    """Derivatives with respect to parameters, x and initial state equal finite differences, in reverse and forward mode."""
    linear = CELLS[cell].linear is not None
    case = Case(Shape(2, 3, 2, 2), mask="gaps", dropout="input, per gate" if linear else "both, per gate")
    arrays = make_arrays(case, "float64", cell)

    @jax.jit
    def function(params, x, state):
        return weigh(run_case(case, arrays._replace(params=params, x=x, state=state), None, cell))

    check_grads(function, arrays[:3], order=1, modes=["rev", "fwd"], atol=1e-6, rtol=1e-6)


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("cell", OF_EACH_KIND)
def test_batch_over_two_devices_and_in_segments(cell: str) -> None:
    """Results and gradients do not change if the batch is split over two devices, or if `remat` computes segments again."""
    if jax.device_count() < 2:
        pytest.skip(f"needs two devices, JAX shows {jax.device_count()}")
    case = Case(Shape(4, 5, 3, 2), mask="gaps")
    arrays = make_arrays(case, "float32", cell)
    want = differentiate_case(case, arrays, None, cell)
    mesh = make_mesh(2)
    rows = NamedSharding(mesh, PartitionSpec(DATA))
    split = arrays._replace(x=jax.device_put(arrays.x, rows), mask=jax.device_put(arrays.mask, rows))
    with on(mesh):
        assert_close(differentiate_case(case, split, None, cell), want, "float32")
    assert_close(differentiate_case(case, arrays, None, cell, remat=2), want, "float32")
