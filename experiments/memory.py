"""Does a simple recurrent network overwrite its memory, and how far back does a gradient reach?

    python -m experiments.memory --preset toy                           # seconds
    LSTM_JAX_DATA=... python -m experiments.memory --workers 2          # an hour on two cores

The source says that "the original RNN layer would tend to overwrite too much of its internal memory". Put to the test: simple RNN, GRU,
LSTM and minLSTM with as many parameters as an LSTM of 64 units (but at most 160, which holds the minLSTM, whose gates see no state, well
below that), on tasks whose answer lies a lag back (Hochreiter & Schmidhuber 1997):

- adding: of numbers in [0, 1) two are marked, one in each half; the answer is their sum, its squared error 1/6 if one always says 1.
- order: two symbols of two kinds among distractors, a tenth and a half of the way in; the answer is which came in which order.
- copy: ten symbols of eight, then a lag of blanks, then all ten again, in their order.

And the size of the gradient of the loss by the state k steps before the end, before and after training; of these tasks, and of the
sentiment of IMDB's reviews read to 200 words.

Expected: adding and order solved (error below 0.01, accuracy above 0.99) by the gated cells at lags where the simple RNN is at chance. Of
adding it is so, of order and copy not, see LOG.md.
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

from experiments import backward, study
from experiments.equal import equal_units
from experiments.training import fit
from lstm_jax import unroll
from lstm_jax.cells import CELLS
from lstm_jax.config import CellName, DataConfig, SentimentConfig, SentimentModelConfig, TrainConfig
from lstm_jax.initializers import glorot_uniform
from lstm_jax.inspection.figures import log_axis, write_figure

SYMBOLS, COPIED = 8, 10
ORDERS = 4
WIDEST = 160
TESTED = 1000
REVIEWS, EMBED = 25_000, 64
"""Training reviews of IMDB; features of a word."""


Task = Literal["adding", "order", "copy", "imdb"]


@dataclass(frozen=True)
class Config:
    """units: of an LSTM with as many parameters; lag: steps between what is to be kept and when it is asked for, of imdb the words read;
    steps: updates; reviews: where imdb's are."""

    task: Task = "adding"
    cell: CellName = "lstm"
    lag: int = 100
    units: int = 64
    steps: int = 3000
    batch: int = 64
    learning_rate: float = 2e-3
    clip_norm: float = 1.0
    seed: int = 0
    reviews: str = ""


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


def units_of(config: Config, features: int) -> int:
    """Of as many parameters as the LSTM's, but at most `WIDEST`: of a minLSTM on two features 1,900 took twelve times as long at lag 10."""
    return min(equal_units(config.cell, features, config.units), WIDEST)


def initial(config: Config) -> Params:
    """Of as many units as `units_of` gives."""
    _, features, outputs = TASKS[config.task]
    of_cell, of_head = jax.random.split(jax.random.key(config.seed))
    units = units_of(config, features)
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
    """Of a batch's loss, see `backward.gradient_sizes`; of copy from the first of the ten steps that it is of."""
    batch = TASKS[config.task][0](key, config.batch, config.lag)

    def loss(h: jax.Array) -> jax.Array:
        return config.batch * loss_of(config, answers(config, params, jnp.swapaxes(h, 0, 1)), batch.target)

    units, answered = params.kernel.shape[0], COPIED if config.task == "copy" else 1
    return backward.gradient_sizes(CELLS[config.cell], params.cell, units, batch.x, loss, answered)


def reviews_config(config: Config) -> SentimentConfig:
    """The sentiment task, read to `lag` words, in so many whole passes as come nearest to the updates."""
    epochs = max(1, round(config.steps * config.batch / REVIEWS))
    units = units_of(config, EMBED)
    model = SentimentModelConfig(cell=config.cell, units=units, embed=EMBED, dropout=0.0, recurrent_dropout=0.0)
    train = TrainConfig(epochs, config.batch, learning_rate=config.learning_rate, clip_norm=config.clip_norm, seed=config.seed)
    return SentimentConfig(DataConfig(config.reviews, maxlen=config.lag), model, train)


def run(config: Config) -> dict[str, Any]:
    """Train, and test on fresh sequences."""
    if config.task == "imdb":
        return backward.on_reviews(reviews_config(config))
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


CHANCE = {"adding": 1 / 6, "order": 1 / ORDERS, "copy": 1 / SYMBOLS, "imdb": 1 / 2}
SCORES = {"adding": "squared error", "imdb": "test accuracy"}
COMPARED = ("simple_rnn", "gru", "lstm", "min_lstm")


def solved(row: Any) -> bool:
    """Whether the lag was bridged: an error below 0.01, or 99 % right."""
    return row["score"] < 0.01 if row["task"] == "adding" else row["score"] > 0.99


def verdict(rows: study.Rows) -> str:
    """The longest lag that each cell solved, by task, and how far back its gradient reaches on reviews."""
    lines = []
    for task in TASKS:
        longest = {
            cell: max((row["lag"] for row in rows if (row["task"], row["cell"]) == (task, cell) and solved(row)), default=0)
            for cell in COMPARED
        }
        lines.append(f"{task}, longest lag solved: " + ", ".join(f"{cell} {lag or 'none'}" for cell, lag in longest.items()))
    for row in rows:
        if row["task"] == "imdb":
            before, after = (dict(row[name]) for name in ("gradient_before", "gradient_after"))
            back = max(after)
            near, far = (f"{gradient[back] / gradient[1]:.2g}" for gradient in (before, after))
            lines.append(
                f"imdb, {row['cell']}, seed {row['seed']}: accuracy {row['score']:.3f}; of the gradient one step back {near} "
                f"arrive {back} back untrained, {far} trained"
            )
    return "\n".join(lines)


def draw(rows: study.Rows, path: Path) -> object:
    """Score over lag, a panel a task; below, the gradient over steps back at the longest lag."""

    def fill(figure: Any) -> None:
        names = [*TASKS, "imdb"]
        panels = figure.subplots(2, len(names))
        inks = dict(zip(COMPARED, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=True))
        for (above, below), task in zip(panels.T, names, strict=True):
            those = [row for row in rows if row["task"] == task]
            if not those:
                above.set_axis_off()
                below.set_axis_off()
                continue
            longest = max(row["lag"] for row in those)
            for cell in COMPARED:
                own = [row for row in those if row["cell"] == cell]
                values = study.grouped(own, ["lag"], "score")
                lags = sorted(values)
                above.plot([lag for (lag,) in lags], [np.median(values[lag]) for lag in lags], "o-", color=inks[cell], label=cell)
                for name, style in (("gradient_before", ":"), ("gradient_after", "-")):
                    found = [dict(row[name]) for row in own if row["lag"] == longest]
                    backs = sorted(found[0]) if found else []
                    sizes = [max(1e-20, float(np.median([one[back] for one in found]))) for back in backs]
                    below.plot(backs, sizes, style, color=inks[cell])
            above.axhline(CHANCE[task], color="#999999", linestyle=":")
            above.set_title(f"{task}: {SCORES.get(task, 'share right')}")
            above.set_xlabel("words read" if task == "imdb" else "lag, steps")
            if task != "imdb":
                log_axis(above, "x", sorted({row["lag"] for row in those}))
            if task == "adding":
                log_axis(above, "y")
            log_axis(below, "x")
            log_axis(below, "y")
            below.set_title(f"gradient by h, {'words' if task == 'imdb' else 'lag'} {longest}")
            below.set_xlabel("steps back (dotted: untrained)")
        panels[0][0].legend(fontsize=8)

    return write_figure(path, (14.5, 6.8), fill)


LAGS = (10, 30, 100, 300, 1000)
FULL = [
    Config(task, cell, lag, seed=seed, batch=64 if lag < 300 else 32, steps=3000 if lag < 300 else 1500)
    for task in TASKS
    for cell in COMPARED
    for lag in LAGS
    for seed in range(2 if lag <= 30 else 1)
] + [Config("imdb", cell, 200, steps=1563, batch=32, learning_rate=1e-3) for cell in COMPARED]
SMALL = Config(lag=8, units=4, steps=20, batch=8, reviews="synthetic")
TOY = [replace(SMALL, cell="simple_rnn"), *(replace(SMALL, task=task) for task in ("adding", "copy", "imdb"))]
STUDY = study.Study("memory", run, {"toy": TOY, "full": FULL}, draw, verdict)

if __name__ == "__main__":
    sys.exit(study.main(STUDY))
