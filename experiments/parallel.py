"""Study of Newton's method for recurrent cells (DEER): how many iterations does it
need, and when is it faster than a loop over the steps?

    python -m experiments.parallel --preset toy                     # seconds
    # 20 minutes; one process, so that programs are compiled only once
    LSTM_JAX_DATA=... python -m experiments.parallel --where here

Newton's method computes the states of all steps in parallel (see
`experiments.newton.solve_states`). In this study, an LSTM and a GRU read
newspaper articles, character by character, with batch size 1 and in float64. Four
settings are varied:

- Length: 100 to 100,000 characters.
- Method: Newton's method uses the full Jacobian of a step (DEER, 8 units) or only its
  diagonal blocks (quasi-DEER, 8 and 64 units). A block has the derivatives of one
  unit's state, (h, c) for an LSTM, with respect to the state of the same unit one step
  earlier. At 8 units, DEER and quasi-DEER are also run with damping (ELK).
- Gain: the initial recurrent kernel is multiplied by 0.5 to 8, which makes the network
  less or more chaotic.
- Training: the network is measured before it is trained, and after 100, 1,000 and 5,000
  updates.

The residual is the largest difference between a state and the result of the cell's step
from the state before it. The iterations end when each such difference is at most 1e-8
times max(1, absolute value of the result). They also end when the number of iterations
reaches a limit. A run has converged if the residual is at most 1e-8 times max(1,
largest absolute value of a state). The largest Lyapunov exponent of each network is
measured, too. If the exponent is positive, the network is chaotic.

Expected: If the exponent is negative, the number of iterations grows at most with the
logarithm of the length. If the exponent is positive, the number grows in proportion to
the length, and Newton's method gains nothing. Diagonal blocks need several times as
many iterations as the full Jacobian.
"""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from scipy.stats import spearmanr

from bench import groups
from experiments import runs
from experiments.lyapunov import largest_lyapunov_exponent
from experiments.newton import Newton, solve_states
from experiments.study import (
    CELL_STYLES,
    Metrics,
    Row,
    Rows,
    Study,
    flat,
    main,
    means,
    plot_means,
    rows_with,
)
from experiments.training import fit, random_batches
from lstm_jax import unroll
from lstm_jax.cells import CELLS, Cell
from lstm_jax.cells.initializers import glorot_uniform
from lstm_jax.lab.generation import data
from lstm_jax.lab.inspection.figures import INK, log_axis

TOLERANCE = 1e-8
STEP_DEPTH = 10
"""Assumed length of the longest chain of operations in a step of the cell. In a chain,
each operation needs the result of the one before. The additions inside the matrix
product are not counted (see `lanes`)."""


@dataclass(frozen=True)
class Config:
    """Config of one run: a network, a text, and a method that computes the states."""

    cell: str = "lstm"
    units: int = 8
    jacobian: Literal["full", "diagonal"] = "full"
    damping: float = 0.0
    steps: int = 1000
    gain: float = 1.0
    """Factor of the initial recurrent kernel."""
    updates: int = 0
    """Number of training updates before the measurement."""
    limit: int = 1000
    """Largest number of iterations of Newton's method."""
    text: str = runs.ARTICLES
    seed: int = 0


def states_by_steps(cell: Cell, params, ids: Array, state) -> Any:
    """Compute the states of a cell by a loop over the steps."""

    def step(state, z):
        new = cell.step(params, state, z, None, None)
        return new, new

    return lax.scan(step, state, cell.project(params, ids, None, None))[1]


@cache
def characters(text: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the ids of the training characters, the ids of the held-out last tenth of
    the text, and the number of distinct characters.
    """
    corpus = runs.corpus_of(text)
    return (
        np.asarray(corpus.train[:], np.int32),
        np.asarray(corpus.validation, np.int32),
        corpus.characters.size,
    )


@cache
def network(
    cell: str, units: int, gain: float, updates: int, text: str, seed: int
) -> Any:
    """Train a recurrent cell to predict the next character, and return its parameters
    as arrays of float32.
    """
    ids, _, size = characters(text)
    of_cell, of_head, of_rows = jax.random.split(jax.random.key(seed), 3)
    params = CELLS[cell].init(of_cell, size, units)
    params = params._replace(recurrent_kernel=gain * params.recurrent_kernel)
    if not updates:
        return params
    x, y = (jnp.asarray(part) for part in data.windows(ids, 64, 16))

    def loss(both, batch):
        of_cell, kernel = both
        ids, last = batch
        h, _ = unroll(CELLS[cell], of_cell, ids)
        targets = jnp.concatenate([ids[:, 1:], last[:, None]], axis=1)
        return optax.softmax_cross_entropy_with_integer_labels(
            h @ kernel, targets
        ).mean()

    head = glorot_uniform(of_head, (units, size))
    return fit(loss, (params, head), random_batches(of_rows, 32, x, y), updates, 3e-3)[
        0
    ][0]


@cache
def programs(
    cell: str, options: Newton, steps: int
) -> tuple[Callable, Callable, Callable]:
    """Return three functions for a cell, compiled with `jax.jit`. They read T input ids
    as an array (T, 1).
    """
    return (
        jax.jit(partial(solve_states, CELLS[cell], options=options)),
        jax.jit(partial(states_by_steps, CELLS[cell])),
        jax.jit(partial(largest_lyapunov_exponent, CELLS[cell], skip=steps // 10)),
    )


def run(config: Config) -> Metrics:
    """Compute the states of a network over a text by Newton's method and by a loop, and
    return measurements of Newton's method.
    """
    _, held, _ = characters(config.text)
    trained = network(
        config.cell, config.units, config.gain, config.updates, config.text, config.seed
    )
    cell = CELLS[config.cell]
    by_newton, by_steps, exponent_of = programs(
        config.cell,
        Newton(config.jacobian, config.damping, TOLERANCE, config.limit),
        config.steps,
    )
    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), trained
        )
        ids = jnp.asarray(np.resize(held, config.steps)[:, None])
        state = cell.initial_state(1, config.units, jnp.float64)
        found, want = by_newton(params, ids, state), by_steps(params, ids, state)
        error = max(
            float(jnp.abs(a - b).max()) for a, b in zip(found.states, want, strict=True)
        )
        exponent = exponent_of(params, ids, state)
        return {
            "iterations": int(found.iterations),
            "converged": bool(
                found.residual
                <= TOLERANCE
                * max(1.0, *(float(jnp.abs(part).max()) for part in found.states))
            ),
            "residual": float(found.residual),
            "error": error,
            "exponent": float(exponent[0]),
        }


def lanes(row: Row) -> int | None:
    """Estimate the number of lanes of a device at which Newton's method becomes faster
    than a loop over the steps.
    """
    cell, units, steps, full = (
        CELLS[row["cell"]],
        row["units"],
        row["steps"],
        row["jacobian"] == "full",
    )
    arrays = len(cell.initial_state(1, 1))
    size, copies = (arrays * units, 1) if full else (arrays, units)
    product, depth = cell.gates * units**2, math.log2(units) + STEP_DEPTH
    evaluation = steps * product * (1 + size if full else 2)
    scan, scan_depth = (
        2 * steps * copies * (size**3 + size**2),
        2 * math.log2(steps) * (math.log2(size) + 1),
    )

    def is_faster(count):
        newton = row["iterations"] * (
            max(evaluation / count, depth) + max(scan / count, scan_depth)
        )
        return newton < steps * max(product / count, depth)

    return next((2**power for power in range(41) if is_faster(2**power)), None)


def named(row: Row) -> Metrics:
    """Return a row with the number of lanes, with the name of the method, and with the
    number of updates plus 1.
    """
    damping = f", damping {row['damping']:g}" * bool(row["damping"])
    method = f"{row['cell']}, {row['jacobian']}{damping}, {row['units']} units"
    return flat(
        row["config"] | {"method": method, "shifted": row["updates"] + 1},
        row["result"] | {"lanes": lanes(row)},
    )


def verdict(rows: Rows) -> Iterator[str]:
    """Return the conclusion of the study."""
    known = [named(row) for row in rows]
    for (name,), group in groups(known, ["method"]).items():
        untrained = rows_with(group, "updates", 0)
        parts = []
        for title, chosen, field in (
            ("T", rows_with(untrained, "gain", 1), "steps"),
            ("gain", [row for row in untrained if row["gain"] != 1], "gain"),
            ("updates", [row for row in group if row["updates"]], "updates"),
        ):
            found = means(chosen, [field]).items()
            counts = [
                f"{value:g}: {own['iterations'].mean:g}"
                + "+" * (own["converged"].mean < 1)
                for (value,), own in found
            ]
            parts += [f"{title} {', '.join(counts)}"] if counts else []
        yield f"{name}: iterations by {'; by '.join(parts)}"
    of_1000 = rows_with(rows, "steps", 1000)
    exponents = [row["exponent"] for row in of_1000]
    if len(set(exponents)) > 2:
        correlation: Any = spearmanr(exponents, [row["iterations"] for row in of_1000])
        yield (
            "T 1000: rank correlation of exponent and iterations "
            f"{correlation.statistic:.2f}"
        )
    wins = [row for row in known if row["converged"] and row["lanes"]]
    yield (
        f"faster than the loop on some number of lanes: {len(wins)} of {len(rows)} runs"
    )
    if wins:
        row = min(wins, key=lambda row: row["lanes"])
        yield f"fewest lanes: {row['lanes']} ({row['method']}, T {row['steps']})"


def draw(rows: Rows, figure) -> None:
    """Draw four panels about Newton's method, which computes the states of all time
    steps in parallel.
    """
    by_length, by_exponent, by_updates, by_lanes = figure.subplots(2, 2).ravel()
    known = [named(row) for row in rows]
    styles = {
        row["method"]: CELL_STYLES[row["cell"]]
        | {
            "marker": "o" if row["jacobian"] == "full" else "s",
            "linestyle": "-" if row["units"] <= 8 else ":",
            "fillstyle": "none" if row["damping"] else "full",
        }
        for row in known
    }
    plain, here = (
        rows_with(rows_with(known, "updates", 0), "gain", 1),
        rows_with(known, "steps", 1000),
    )
    plot_means(by_length, plain, "iterations", "steps", "method", styles)
    plot_means(
        by_updates,
        rows_with(here, "gain", 1),
        "iterations",
        "shifted",
        "method",
        styles,
    )
    plot_means(by_lanes, plain, "lanes", "steps", "method", styles)
    for row in here:
        by_exponent.plot(
            row["exponent"], row["iterations"], **styles[row["method"]], alpha=0.7
        )
    for axes, x, y in (
        (by_length, "steps T, untrained", "iterations"),
        (by_exponent, "largest Lyapunov exponent (T 1000)", "iterations"),
        (by_updates, "training updates + 1 (T 1000)", "iterations"),
        (by_lanes, "steps T, untrained", "lanes from which it would be faster"),
    ):
        axes.set(xlabel=x, ylabel=y)
        for direction in ("y",) if axes is by_exponent else ("x", "y"):
            # some panels are empty in the preset "toy", and a logarithmic axis needs
            # values
            if axes.lines:
                log_axis(
                    axes,
                    direction,
                    (3, 10, 30, 100, 300, 1000)
                    if (direction, y) == ("y", "iterations")
                    else (),
                )
    by_exponent.axvline(0, color=INK, linestyle=":")
    title = "cell, Jacobian (full or diagonal blocks), damping, units"
    figure.legend(
        *by_length.get_legend_handles_labels(),
        title=title,
        loc="outside lower center",
        ncols=3,
    )


KINDS = [
    kind
    for cell in ("lstm", "gru")
    for kind in (
        Config(cell),
        Config(cell, 8, "diagonal"),
        Config(cell, 64, "diagonal"),
    )
]
DAMPED = [replace(kind, damping=0.01) for kind in KINDS if kind.units == 8]
LENGTHS = [
    replace(kind, steps=steps, limit=min(1000, 10_000_000 // steps))
    for kind in KINDS
    for steps in (100, 1000, 10_000, 100_000)
]
GAINS = [
    replace(kind, gain=gain) for kind in KINDS + DAMPED for gain in (0.5, 2.0, 4.0)
] + [replace(kind, gain=8.0) for kind in KINDS]
STAGES = [
    replace(kind, updates=updates) for kind in KINDS for updates in (100, 1000, 5000)
]
SMALL = Config(units=4, steps=40, text="")
TOY = [
    SMALL,
    replace(SMALL, steps=1000, jacobian="diagonal", cell="gru", gain=2.0),
    replace(SMALL, updates=2, damping=0.1),
]
FULL = [
    replace(config, seed=seed)
    for config in LENGTHS + STAGES + DAMPED + GAINS
    for seed in range(2)
]
STUDY = Study("parallel", run, {"toy": TOY, "full": FULL}, draw, (11.0, 8.6), verdict)

if __name__ == "__main__":
    sys.exit(main(STUDY))
