"""GradBench's evaluation `lstm`: the tool's answers are those of the equations, in
NumPy, with derivatives by a complex step.
"""

import json
import subprocess
import sys
from itertools import pairwise

import jax
import numpy as np
import pytest
from rows import ROOT

import bench.gradbench.__main__ as tool
from bench.gradbench.race import make_input

STEP = 1e-30


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def loss(main, extra, state, sequence):
    """Return the loss of P models whose parameters are main (P, 2l, 4H) and extra (P,
    3, H).
    """
    state = list(state)
    total = 0
    for x, gold in pairwise(sequence):
        x = x * extra[:, 0]
        for n in range(0, len(state), 2):
            (f, i, o, g), (b_f, b_i, b_o, b_g) = (
                np.split(main[:, k], 4, axis=-1) for k in (n, n + 1)
            )
            h, c = state[n : n + 2]
            c = c * sigmoid(x * f + b_f) + sigmoid(h * i + b_i) * np.tanh(h * g + b_g)
            x = sigmoid(x * o + b_o) * np.tanh(c)
            state[n : n + 2] = x, c
        y = x * extra[:, 1] + extra[:, 2]
        total = total + (gold * (y - np.log(np.exp(y).sum(-1, keepdims=True) + 2))).sum(
            -1
        )
    return -total / sequence[1:].size


def by_equations(operands, chosen):
    """Return the loss, and its derivatives with respect to the chosen parameters."""
    main, extra, state, sequence = operands
    parameters = np.concatenate([main.ravel(), extra.ravel()])
    moved = parameters + 1j * STEP * np.eye(len(parameters))[chosen]
    values = loss(
        moved[:, : main.size].reshape(-1, *main.shape),
        moved[:, main.size :].reshape(-1, *extra.shape),
        state,
        sequence,
    )
    return values.real[0], values.imag / STEP


def answer(operands, function):
    given = dict(
        zip(tool.LSTM, (array.tolist() for array in operands), strict=True)
    ) | {"min_runs": 2, "min_seconds": 0}
    with jax.enable_x64(True):
        found = tool.respond(
            {"kind": "evaluate", "module": "lstm", "function": function, "input": given}
        )
    assert [timing["name"] for timing in found["timings"]] == [
        "prepare",
        "evaluate",
        "evaluate",
    ]
    return np.array(found["output"])


@pytest.mark.parametrize(
    ("layers", "characters", "bits"),
    [(2, 24, 3), pytest.param(6, 1024, 14, marks=pytest.mark.slow)],
)
def test_loss_and_derivatives(layers, characters, bits):
    operands = make_input(layers, characters, bits)
    count = operands[0].size + operands[1].size
    chosen = np.random.default_rng(1).permutation(count)[:60]
    value, derivatives = by_equations(operands, chosen)
    np.testing.assert_allclose(answer(operands, "objective"), value, rtol=1e-13)
    gradient = answer(operands, "jacobian")
    assert gradient.size == count
    np.testing.assert_allclose(gradient[chosen], derivatives, rtol=1e-10, atol=1e-15)


def test_messages():
    """The program answers each line with its id; GradBench's evaluation `hello` is the
    square and its derivative.
    """
    asked = [
        {"kind": "start", "eval": "hello"},
        {"kind": "define", "module": "gmm"},
        {"kind": "define", "module": "hello"},
        *(
            {"kind": "evaluate", "module": "hello", "function": name, "input": 3.5}
            for name in ("square", "double")
        ),
        {"kind": "analysis", "of": 4, "valid": True},
    ]
    lines = "".join(
        json.dumps(message | {"id": n}) + "\n" for n, message in enumerate(asked)
    )
    run = subprocess.run(
        [sys.executable, "-m", "bench.gradbench"],
        input=lines,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert [answer.pop("id") for answer in answers] == list(range(6))
    assert answers[:3] == [{"tool": "lstm_jax"}, {"success": False}, {"success": True}]
    assert [answer["output"] for answer in answers[3:5]] == [12.25, 7.0]
    assert answers[5] == {}
