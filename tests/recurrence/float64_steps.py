"""The equations of each cell's paper in float64 NumPy for one row and one step."""

from collections.abc import Callable
from typing import Any

import numpy as np
from cases import Arrays, Case

from lstm_jax import CELLS

Vector = np.ndarray


def sigmoid(z: Vector) -> Vector:
    return 1 / (1 + np.exp(-z))


def normalised(z: Vector) -> Vector:
    return (z - z.mean()) / np.sqrt(z.var() + 1e-5)


class Row:
    """Parameters and operands of one row of the batch at one step, and the
    pre-activations of its gates.

    For gate g, `x(g)` is the product of the input and the kernel, `h(g)` is the product
    of the state h and the recurrent kernel, and `z(g)` is the sum of both and the bias.
    """

    def __init__(self, params: Any, x: Vector, h: Vector, of_x: Vector, of_h: Vector):
        self.p = {
            name: np.asarray(array, np.float64)
            for name, array in params._asdict().items()
        }
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

    u, r = (
        sigmoid(row.x(gate) + row.part("bias", gate) + inner(gate)) for gate in (0, 1)
    )
    n = np.tanh(row.x(2) + row.part("bias", 2) + r * inner(2))
    return {"h": u * state["h"] + (1 - u) * n}


def gru_reset_before(row: Row, state: State) -> State:
    u, r = sigmoid(row.z(0)), sigmoid(row.z(1))
    n = np.tanh(
        row.x(2)
        + row.part("bias", 2)
        + (r * state["h"] * row.of_h[2]) @ row.part("recurrent_kernel", 2)
    )
    return {"h": u * state["h"] + (1 - u) * n}


def lstm_peephole(row: Row, state: State) -> State:
    p_i, p_f, p_o = np.split(row.p["peepholes"], 3)
    c = state["c"]
    new = sigmoid(row.z(1) + p_f * c) * c + sigmoid(row.z(0) + p_i * c) * np.tanh(
        row.z(2)
    )
    return {"h": sigmoid(row.z(3) + p_o * new) * np.tanh(new), "c": new}


def lstm_layernorm(row: Row, state: State) -> State:
    by_x = (
        normalised(np.concatenate([row.x(gate) for gate in range(4)]))
        * row.p["input_gain"]
    )
    by_h = (
        normalised(np.concatenate([row.h(gate) for gate in range(4)]))
        * row.p["recurrent_gain"]
    )
    i, f, g, o = np.split(by_x + by_h + row.p["bias"], 4)
    c = sigmoid(f) * state["c"] + sigmoid(i) * np.tanh(g)
    return {
        "h": sigmoid(o)
        * np.tanh(normalised(c) * row.p["memory_gain"] + row.p["memory_bias"]),
        "c": c,
    }


def ablation(gates: str, **changed: Any) -> Callable[[Row, State], State]:
    """Return the step of an LSTM in which only the gates in `gates` have weights. A
    gate without weights is 1.

    `changed` may contain `coupled=True`, which sets f = 1 - i; a function `input`,
    which replaces the tanh that yields the candidate g; and a function `output`, which
    replaces the tanh that is applied to c.
    """

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


def rg_lru(row: Row, state: State) -> State:
    r, i, x = (row.x(gate) + row.part("bias", gate) for gate in range(3))
    a = sigmoid(row.p["decay"]) ** (8 * sigmoid(r))
    return {"h": a * state["h"] + np.sqrt(1 - a**2) * sigmoid(i) * x}


def lru(row: Row, state: State) -> State:
    """The paper's equation in complex numbers, whose real and imaginary parts have
    masks of their own.
    """
    units = len(row.p["nu"])
    (by_real, by_imaginary), (real, imaginary) = (
        np.split(row.p["kernel"], 2, axis=1),
        np.split(state["h"], 2),
    )
    eigenvalues = np.exp(-np.exp(row.p["nu"]) + 1j * np.exp(row.p["theta"]))
    given = (row.input * row.of_x[0]) @ by_real + 1j * (
        row.input * row.of_x[1]
    ) @ by_imaginary
    new = eigenvalues * (real + 1j * imaginary) + np.exp(row.p["gamma"]) * given
    assert new.shape == (units,)
    return {"h": np.concatenate([new.real, new.imag])}


def slstm(row: Row, state: State) -> State:
    """The paper's equations, whose cell state is c N and whose normaliser is N =
    exp(n).
    """
    i, f, g, o = (
        np.exp(row.z(0)),
        sigmoid(row.z(1)),
        np.tanh(row.z(2)),
        sigmoid(row.z(3)),
    )
    before = np.exp(state["n"])
    cell, normaliser = f * state["c"] * before + i * g, f * before + i
    return {"h": o * cell / normaliser, "c": cell / normaliser, "n": np.log(normaliser)}


def mlstm(row: Row, state: State) -> State:
    """The paper's equations, with q divided in place of k. c and n are the paper's C^T
    and n divided by exp(m).
    """
    heads = len(state["m"])
    q, k, v, o = (row.x(gate) + row.part("bias", gate) for gate in range(4))
    q, k, v = (part.reshape(heads, -1) for part in (q / np.sqrt(len(q) / heads), k, v))
    of_gates = [
        (row.input * row.of_x[1 + gate])
        @ row.p["gate_kernel"].reshape(-1, 2, heads)[:, gate]
        for gate in (0, 1)
    ]
    i, f = (
        np.exp(of_gates[0] + row.p["gate_bias"][:heads]),
        sigmoid(of_gates[1] + row.p["gate_bias"][heads:]),
    )
    before, after = np.exp(state["m"]), np.maximum(f * np.exp(state["m"]), i)
    n = (f * before)[:, None] * state["n"].reshape(heads, -1) + i[:, None] * k
    c = (f * before)[:, None, None] * state["c"].reshape(heads, k.shape[1], -1) + i[
        :, None, None
    ] * k[:, :, None] * v[:, None]
    size = np.maximum(np.abs((n * q).sum(1)), 1)
    h = sigmoid(o) * (np.einsum("hk,hkv->hv", q, c) / size[:, None]).reshape(-1)
    return {
        "h": h,
        "c": (c / after[:, None, None]).reshape(-1),
        "n": (n / after[:, None]).reshape(-1),
        "m": np.log(after),
    }


def same(c: Vector) -> Vector:
    return c


STEPS: dict[str, Callable[[Row, State], State]] = {
    "lstm": ablation("ifgo"),
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
    "rg_lru": rg_lru,
    "lru": lru,
    "slstm": slstm,
    "mlstm": mlstm,
}


def by_hand(cell: str, case: Case, arrays: Arrays) -> tuple[Vector, State]:
    """Return outputs (B, T, H) or (B, H) and the final state from the equations in
    `STEPS`, one row and one step at a time.
    """
    gates = CELLS[cell].gates
    batch, steps, features, units = case.shape
    x = (
        np.eye(features)[np.asarray(arrays.x)]
        if case.ids
        else np.asarray(arrays.x, np.float64)
    )

    def factors(mask: Any, row: int, width: int) -> Vector:
        if mask is None:
            return np.ones((gates, width))
        mask = np.asarray(mask, np.float64)
        return mask[:, row] if mask.ndim == 3 else np.stack([mask[row]] * gates)

    zeros = CELLS[cell].initial_state(batch, units)
    restart, start = (
        {
            name: np.array(part, np.float64)
            for name, part in (given or zeros)._asdict().items()
        }
        for given in (arrays.reset_state, arrays.state or arrays.reset_state)
    )
    width = CELLS[cell].output_size(units)
    outputs, final = np.zeros((batch, steps, width)), start
    for row in range(batch):
        shown, own = np.zeros(width), {name: part[row] for name, part in start.items()}
        for place, step in enumerate(
            range(steps)[::-1] if case.backwards else range(steps)
        ):
            border = step + 1 if case.backwards else step
            if (
                arrays.resets is not None
                and border < steps
                and arrays.resets[row, border]
            ):
                shown, own = (
                    np.zeros(width),
                    {name: part[row] for name, part in restart.items()},
                )
            valid = arrays.mask is None or bool(arrays.mask[row, step])
            if valid:
                masks = (
                    factors(arrays.dropout.input, row, features),
                    factors(arrays.dropout.recurrent, row, units),
                )
                own = STEPS[cell](
                    Row(arrays.params, x[row, step], own["h"], *masks), own
                )
                shown = own["h"]
            outputs[row, place] = 0 if case.zero_output and not valid else shown
        for name, part in own.items():
            final[name][row] = part
    return (outputs if case.return_sequences else outputs[:, -1]), final
