"""Every cell but the LSTM against its paper's equations, a row and a step at a time, in float64; test_contract.py has the LSTM."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Arrays, Case, cases, differentiate_case, make_arrays, run_case, run_compiled, weigh
from hypothesis import assume, given, settings
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads
from tables import SHAPES, Shape, assert_close

from lstm_jax import CELLS, InputError
from lstm_jax.cell_names import TRAITS, cell_traits
from lstm_jax.runtime.sharding import DATA, make_mesh, on

pytestmark = pytest.mark.usefixtures("quick_compiles")

Vector = np.ndarray


def sigmoid(z: Vector) -> Vector:
    return 1 / (1 + np.exp(-z))


def normalised(z: Vector) -> Vector:
    return (z - z.mean()) / np.sqrt(z.var() + 1e-5)


class Row:
    """One row's products at one step: `x(g)` is the input's part of gate g's sum, `h(g)` the state's, without biases."""

    def __init__(self, params: Any, x: Vector, h: Vector, of_x: Vector, of_h: Vector):
        self.p = {name: np.asarray(array, np.float64) for name, array in params._asdict().items()}
        self.input, self.state, self.of_x, self.of_h = x, h, of_x, of_h
        self.units = len(h)

    def part(self, name: str, gate: int) -> Vector:
        return self.p[name][..., gate * self.units : (gate + 1) * self.units]

    def x(self, gate: int) -> Vector:
        return (self.input * self.of_x[gate]) @ self.part("kernel", gate)

    def h(self, gate: int) -> Vector:
        return (self.state * self.of_h[gate]) @ self.part("recurrent_kernel", gate)

    def z(self, gate: int) -> Vector:
        return self.x(gate) + self.h(gate) + self.part("bias", gate)


State = dict[str, Vector]


def simple_rnn(row: Row, state: State) -> State:
    return {"h": np.tanh(row.z(0))}


def gru(row: Row, state: State) -> State:
    def inner(gate: int) -> Vector:
        return row.h(gate) + row.part("recurrent_bias", gate)

    u, r = (sigmoid(row.x(gate) + row.part("bias", gate) + inner(gate)) for gate in (0, 1))
    n = np.tanh(row.x(2) + row.part("bias", 2) + r * inner(2))
    return {"h": u * state["h"] + (1 - u) * n}


def gru_reset_before(row: Row, state: State) -> State:
    u, r = sigmoid(row.z(0)), sigmoid(row.z(1))
    n = np.tanh(row.x(2) + row.part("bias", 2) + (r * state["h"] * row.of_h[2]) @ row.part("recurrent_kernel", 2))
    return {"h": u * state["h"] + (1 - u) * n}


def lstm_peephole(row: Row, state: State) -> State:
    p_i, p_f, p_o = np.split(row.p["peepholes"], 3)
    c = state["c"]
    new = sigmoid(row.z(1) + p_f * c) * c + sigmoid(row.z(0) + p_i * c) * np.tanh(row.z(2))
    return {"h": sigmoid(row.z(3) + p_o * new) * np.tanh(new), "c": new}


def lstm_layernorm(row: Row, state: State) -> State:
    by_x = normalised(np.concatenate([row.x(gate) for gate in range(4)])) * row.p["input_gain"]
    by_h = normalised(np.concatenate([row.h(gate) for gate in range(4)])) * row.p["recurrent_gain"]
    i, f, g, o = np.split(by_x + by_h + row.p["bias"], 4)
    c = sigmoid(f) * state["c"] + sigmoid(i) * np.tanh(g)
    return {"h": sigmoid(o) * np.tanh(normalised(c) * row.p["memory_gain"] + row.p["memory_bias"]), "c": c}


def ablation(gates: str, **changed: Any) -> Callable[[Row, State], State]:
    """gates: those with weights; changed: what else is otherwise."""

    def step(row: Row, state: State) -> State:
        z = {gate: row.z(number) for number, gate in enumerate(gates)}
        i, f, o = (sigmoid(z[gate]) if gate in z else 1.0 for gate in "ifo")
        f = 1 - i if changed.get("coupled") else f
        c = f * state["c"] + i * changed.get("input", np.tanh)(z["g"])
        return {"h": o * changed.get("output", np.tanh)(c), "c": c}

    return step


def lstm_full_gate_recurrence(row: Row, state: State) -> State:
    more = np.concatenate([state["i"], state["f"], state["o"]]) @ row.p["gate_kernel"]
    r_i, r_f, r_o = np.split(more, 3)
    i, f, o = sigmoid(row.z(0) + r_i), sigmoid(row.z(1) + r_f), sigmoid(row.z(3) + r_o)
    c = f * state["c"] + i * np.tanh(row.z(2))
    return {"h": o * np.tanh(c), "c": c, "i": i, "f": f, "o": o}


def min_lstm(row: Row, state: State) -> State:
    i, f, g = (row.x(gate) + row.part("bias", gate) for gate in range(3))
    i, f = sigmoid(i), sigmoid(f)
    return {"h": f / (f + i) * state["h"] + i / (f + i) * g}


def min_gru(row: Row, state: State) -> State:
    u = sigmoid(row.x(0) + row.part("bias", 0))
    return {"h": (1 - u) * state["h"] + u * (row.x(1) + row.part("bias", 1))}


def same(c: Vector) -> Vector:
    return c


STEPS: dict[str, Callable[[Row, State], State]] = {
    "simple_rnn": simple_rnn,
    "gru": gru,
    "gru_reset_before": gru_reset_before,
    "lstm_peephole": lstm_peephole,
    "lstm_layernorm": lstm_layernorm,
    "lstm_no_input_gate": ablation("fgo"),
    "lstm_no_forget_gate": ablation("igo"),
    "lstm_no_output_gate": ablation("ifg"),
    "lstm_coupled": ablation("igo", coupled=True),
    "lstm_no_input_activation": ablation("ifgo", input=same),
    "lstm_no_output_activation": ablation("ifgo", output=same),
    "lstm_full_gate_recurrence": lstm_full_gate_recurrence,
    "min_lstm": min_lstm,
    "min_gru": min_gru,
}


def by_hand(cell: str, case: Case, arrays: Arrays) -> tuple[Vector, State]:
    """Outputs (B, T, H) or (B, H) and the final state."""
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


FACTS = {  # number of gates, recurrent kernel, cell state, linear in the state
    "lstm": (4, True, True, False),
    "gru": (3, True, False, False),
    "gru_reset_before": (3, True, False, False),
    "simple_rnn": (1, True, False, False),
    "lstm_layernorm": (4, True, True, False),
    "lstm_peephole": (4, True, True, False),
    "lstm_no_input_gate": (3, True, True, False),
    "lstm_no_forget_gate": (3, True, True, False),
    "lstm_no_output_gate": (3, True, True, False),
    "lstm_coupled": (3, True, True, False),
    "lstm_no_input_activation": (4, True, True, False),
    "lstm_no_output_activation": (4, True, True, False),
    "lstm_full_gate_recurrence": (4, True, True, False),
    "min_lstm": (3, False, False, True),
    "min_gru": (2, False, False, True),
}


def test_facts_of_cells() -> None:
    """The facts in the rows of `CELLS`, and the traits that configs read without JAX."""
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


def test_another_cell_s_parameters() -> None:
    case = Case()
    with pytest.raises(InputError, match="params: LSTMParams; the cell gru has GRUParams"):
        run_case(case, make_arrays(case), None, "gru")


def test_gates_that_are_zero_in_the_minimal_lstm() -> None:
    """F / (f + i) of gates that both round to 0."""
    shape = SHAPES[2]
    arrays = make_arrays(Case(shape), "float32", "min_lstm")
    params = arrays.params._replace(bias=jnp.full_like(arrays.params.bias, -200.0))
    outputs, _ = run_case(Case(shape), arrays._replace(params=params), None, "min_lstm")
    assert np.isfinite(outputs).all()


OF_EACH_KIND = ("gru_reset_before", "lstm_layernorm", "lstm_coupled", "lstm_full_gate_recurrence", "min_lstm")
"""Whose step, state and projection differ in kind; derivatives are JAX's own of what the test above has seen."""


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("cell", OF_EACH_KIND)
def test_derivatives_are_those_of_differences(x64: None, cell: str) -> None:
    """Gradients by parameters, x and initial state."""
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
    """Values are the same with the batch's rows split over a mesh, and with segments computed again."""
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


@pytest.mark.parametrize("cell", CELLS)
def test_masked_steps_and_initial_gates(cell: str) -> None:
    """A row without a valid step keeps its state, all parts of it."""
    case = Case(mask="nothing valid")
    arrays = make_arrays(case, "float32", cell)
    _, state = run_compiled(case, arrays, None, cell)
    assert_close(state, arrays.state, "float32")
