"""Does a simple recurrent network overwrite its memory, and how far back does a gradient reach?

    python -m experiments.memory --preset toy       # seconds
    python -m experiments.memory                    # two hours on two cores by an estimate, not yet run

The source says that "the original RNN layer would tend to overwrite too much of its internal memory". Put to the test: simple RNN, GRU,
LSTM and minLSTM with as many parameters as an LSTM of 64 units, on tasks whose answer lies a lag back (Hochreiter & Schmidhuber 1997):

- adding: of numbers in [0, 1) two are marked, one in each half; the answer is their sum, its squared error 1/6 if one always says 1.
- order: two symbols of two kinds among distractors, a tenth and a half of the way in; the answer is which came in which order.
- copy: ten symbols of eight, then a lag of blanks, then all ten again, in their order.

And the size of the gradient of the loss by the state k steps before the end, before and after training.

Expected: adding and order solved (error below 0.01, accuracy above 0.99) by the gated cells at lags where the simple RNN is at chance.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from experiments import study
from experiments.equal import equal_units
from experiments.training import fit
from lstm_jax import plots, unroll
from lstm_jax.cells import CELLS
from lstm_jax.initializers import glorot_uniform

SYMBOLS, COPIED = 8, 10
ORDERS = 4
BACK = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Steps back at which the gradient is told."""
TESTED = 1000


Task = Literal["adding", "order", "copy"]


@dataclass(frozen=True)
class Config:
    """units: of an LSTM with as many parameters; lag: steps between what is to be kept and when it is asked for."""

    task: Task = "adding"
    cell: str = "lstm"
    lag: int = 100
    units: int = 64
    steps: int = 3000
    batch: int = 64
    learning_rate: float = 2e-3
    clip_norm: float = 1.0
    seed: int = 0


class Batch(NamedTuple):
    """x (B, T, E); target: (B,) sums, (B,) orders, or (B, 10) symbols, which the last steps are to give."""

    x: jax.Array
    target: jax.Array


def adding(key: jax.Array, batch: int, lag: int) -> Batch:
    """Values and marks (B, lag, 2) -> the sum of the two marked values."""
    of_values, of_first, of_second = jax.random.split(key, 3)
    values = jax.random.uniform(of_values, (batch, lag))
    half = max(1, lag // 2)
    first = jax.random.randint(of_first, (batch,), 0, half)
    second = jax.random.randint(of_second, (batch,), half, lag) if lag > 1 else first
    marks = jax.nn.one_hot(first, lag) + jax.nn.one_hot(second, lag)
    return Batch(jnp.stack([values, marks], -1), (values * marks).sum(1))


def order(key: jax.Array, batch: int, lag: int) -> Batch:
    """Distractors 0 to 3 with a symbol 4 or 5 after a tenth and after half of the steps -> which two, as 0 to 3."""
    of_noise, of_kinds, of_first, of_second = jax.random.split(key, 4)
    ids = jax.random.randint(of_noise, (batch, lag), 0, 4)
    kinds = jax.random.randint(of_kinds, (batch, 2), 0, 2)
    tenth = max(1, lag // 10)
    first = jax.random.randint(of_first, (batch,), 0, tenth)
    second = jnp.minimum(lag // 2 + jax.random.randint(of_second, (batch,), 0, tenth), lag - 1)
    rows = jnp.arange(batch)
    ids = ids.at[rows, first].set(4 + kinds[:, 0]).at[rows, second].set(4 + kinds[:, 1])
    return Batch(jax.nn.one_hot(ids, 6), 2 * kinds[:, 0] + kinds[:, 1])


def copy(key: jax.Array, batch: int, lag: int) -> Batch:
    """Ten symbols, `lag` blanks the last of which says go, ten blanks -> the ten symbols, in the last ten steps."""
    symbols = jax.random.randint(key, (batch, COPIED), 0, SYMBOLS)
    blanks = jnp.full((batch, lag - 1), SYMBOLS)
    go, rest = jnp.full((batch, 1), SYMBOLS + 1), jnp.full((batch, COPIED), SYMBOLS)
    return Batch(jax.nn.one_hot(jnp.concatenate([symbols, blanks, go, rest], 1), SYMBOLS + 2), symbols)


TASKS: dict[Task, tuple[Callable[[jax.Array, int, int], Batch], int, int]] = {
    "adding": (adding, 2, 1),
    "order": (order, 6, ORDERS),
    "copy": (copy, SYMBOLS + 2, SYMBOLS),
}
"""The task's batches, features and outputs."""


class Params(NamedTuple):
    """The cell's parameters, and those of the dense layer on h."""

    cell: Any
    kernel: jax.Array
    bias: jax.Array


def initial(config: Config) -> Params:
    """Of as many units as `equal_units` gives."""
    _, features, outputs = TASKS[config.task]
    of_cell, of_head = jax.random.split(jax.random.key(config.seed))
    units = equal_units(config.cell, features, config.units)
    cell = CELLS[config.cell].init(of_cell, features, units)
    return Params(cell, glorot_uniform(of_head, (units, outputs)), jnp.zeros((outputs,)))


def answers(config: Config, params: Params, h: jax.Array) -> jax.Array:
    """From h (B, T, H): of the last step (B, outputs), or for copy of the last ten (B, 10, outputs)."""
    shown = h[:, -COPIED:] if config.task == "copy" else h[:, -1]
    return shown @ params.kernel + jnp.broadcast_to(params.bias, (*shown.shape[:-1], len(params.bias)))


def loss_of(config: Config, given: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error of sums, cross-entropy of the others."""
    if config.task == "adding":
        return ((given[:, 0] - target) ** 2).mean()
    return optax.softmax_cross_entropy_with_integer_labels(given, target).mean()


def score_of(config: Config, given: jax.Array, target: jax.Array) -> jax.Array:
    """The squared error of sums, the share of right answers of the others."""
    if config.task == "adding":
        return ((given[:, 0] - target) ** 2).mean()
    return (given.argmax(-1) == target).mean()


def batch_loss(config: Config, params: Params, batch: Batch) -> jax.Array:
    """Of a batch."""
    h, _ = unroll(CELLS[config.cell], params.cell, batch.x)
    return loss_of(config, answers(config, params, h), batch.target)


def gradient_sizes(config: Config, params: Params, key: jax.Array) -> dict[int, float]:
    """Steps back -> the norm of the loss's gradient by h there, the root of its mean square over rows."""
    cell = CELLS[config.cell]
    batch = TASKS[config.task][0](key, config.batch, config.lag)
    z = cell.project(params.cell, jnp.swapaxes(batch.x, 0, 1), None, None)
    state = cell.initial_state(config.batch, params.kernel.shape[0])

    @jax.jit
    def by_state(nothing: jax.Array) -> jax.Array:
        def step(state, inputs):
            z_t, zero = inputs
            new = cell.step(params.cell, state, z_t, None, None)
            new = new._replace(h=new.h + zero)
            return new, new.h

        _, h = lax.scan(step, state, (z, nothing))
        return config.batch * loss_of(config, answers(config, params, jnp.swapaxes(h, 0, 1)), batch.target)

    sizes = jnp.sqrt((jax.grad(by_state)(jnp.zeros((len(z), *state.h.shape))) ** 2).sum(-1).mean(-1))
    # of copy the loss is of ten steps: told from the first of them
    last = len(z) - (COPIED if config.task == "copy" else 1)
    return {back: float(sizes[last - back]) for back in BACK if back <= last}


def run(config: Config) -> dict[str, Any]:
    """Train, and test on fresh sequences."""
    make, _, _ = TASKS[config.task]
    first = initial(config)
    of_data, of_tests, *keys = jax.random.split(jax.random.key(config.seed + 1), 4)

    def batch(number: Any, key: jax.Array = of_data) -> Batch:
        return make(jax.random.fold_in(key, number), config.batch, config.lag)

    @jax.jit
    def score(params: Params, number: Any) -> jax.Array:
        test = batch(number, of_tests)
        h, _ = unroll(CELLS[config.cell], params.cell, test.x)
        return score_of(config, answers(config, params, h), test.target)

    params, losses = fit(partial(batch_loss, config), first, batch, config.steps, config.learning_rate, config.clip_norm)
    return {
        "score": float(np.mean([score(params, number) for number in range(-(-TESTED // config.batch))])),
        "losses": losses,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params.cell)),
        "gradient_before": list(gradient_sizes(config, first, keys[0]).items()),
        "gradient_after": list(gradient_sizes(config, params, keys[1]).items()),
    }


CHANCE = {"adding": 1 / 6, "order": 1 / ORDERS, "copy": 1 / SYMBOLS}
COMPARED = ("simple_rnn", "gru", "lstm", "min_lstm")


def solved(row: Any) -> bool:
    """Whether the lag was bridged: an error below 0.01, or 99 % right."""
    return row["score"] < 0.01 if row["task"] == "adding" else row["score"] > 0.99


def verdict(rows: study.Rows) -> str:
    """The longest lag that each cell solved, by task."""
    lines = []
    for task in TASKS:
        longest = {
            cell: max((row["lag"] for row in rows if (row["task"], row["cell"]) == (task, cell) and solved(row)), default=0)
            for cell in COMPARED
        }
        lines.append(f"{task}, longest lag solved: " + ", ".join(f"{cell} {lag or 'none'}" for cell, lag in longest.items()))
    return "\n".join(lines)


def draw(rows: study.Rows, path: Path) -> object:
    """Score over lag, a panel a task; below, the gradient over steps back at the longest lag of adding."""

    def fill(figure: Any) -> None:
        panels = figure.subplots(2, 3)
        inks = dict(zip(COMPARED, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=True))
        for axes, task in zip(panels[0], TASKS, strict=True):
            for cell in COMPARED:
                values = study.grouped([row for row in rows if (row["task"], row["cell"]) == (task, cell)], ["lag"], "score")
                lags = sorted(values)
                axes.plot([lag for (lag,) in lags], [np.median(values[lag]) for lag in lags], "o-", color=inks[cell], label=cell)
            axes.axhline(CHANCE[task], color="#999999", linestyle=":")
            axes.set_xscale("log")
            axes.set_title(f"{task}: " + ("squared error" if task == "adding" else "share right"))
            axes.set_xlabel("lag, steps")
            if task == "adding":
                axes.set_yscale("log")
        panels[0][0].legend(fontsize=8)
        for axes, task in zip(panels[1], TASKS, strict=True):
            longest = max((row["lag"] for row in rows if row["task"] == task), default=0)
            for cell in COMPARED:
                for name, style in (("gradient_before", ":"), ("gradient_after", "-")):
                    found = [dict(row[name]) for row in rows if (row["task"], row["cell"], row["lag"]) == (task, cell, longest)]
                    backs = sorted(found[0]) if found else []
                    sizes = [max(1e-20, float(np.median([one[back] for one in found]))) for back in backs]
                    axes.plot(backs, sizes, style, color=inks[cell])
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_title(f"gradient by h, lag {longest} (dotted: untrained)")
            axes.set_xlabel("steps back")

    return plots.write_figure(path, (12.0, 6.8), fill)


LAGS = (10, 30, 100, 300, 1000)
FULL = [
    Config(task, cell, lag, seed=seed, batch=64 if lag < 300 else 32, steps=3000 if lag < 300 else 1500)
    for task in TASKS
    for cell in COMPARED
    for lag in LAGS
    for seed in range(3 if lag <= 100 else 1)
]
TOY = [replace(Config(), task=task, cell=cell, lag=8, units=4, steps=20, batch=8) for task in TASKS for cell in ("simple_rnn", "lstm")]
STUDY = study.Study("memory", run, {"toy": TOY, "full": FULL}, draw, verdict)

if __name__ == "__main__":
    sys.exit(study.main(STUDY))
