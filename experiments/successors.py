"""Study of the LSTM's successors: which recurrence is best at equal parameters, and
which at equal time?

    python -m experiments.successors --preset toy                       # seconds
    # hours on two cores
    LSTM_JAX_DATA=... python -m experiments.successors --workers 2

The presets "state", "memory", "characters" and "reviews" run the tasks of one kind. All
cells stand in the same model: an embedding of 32 features, the cell, a dense layer of
64 units with GELU, and a dense layer. The hidden size of each cell is the multiple of 4
at which cell and first dense layer have most nearly as many parameters as with an LSTM
of `Config.units` units. The tasks:

- parity, cycle, s5: The target of each step is the product of the elements of a group
  that have been read so far (Z2; Z5; a transposition and a cycle of length 5, which
  generate S5). Training sequences have 40 steps, test sequences 256. The score is the
  accuracy in the steps after the 40th. The forget gates and eigenvalues of minLSTM,
  RG-LRU, LRU and mLSTM lie in the open unit disc and do not depend on the state. In
  finite precision, such cells cannot compute parity or longer cycles at every length
  (Grazzi et al. 2024, "Unlocking state-tracking in linear RNNs through negative
  eigenvalues"; an LRU forgets its first input exponentially), and at fixed depth they
  cannot compute S5 unless TC0 = NC1 (Merrill et al. 2024, "The illusion of state in
  state-space models"). LSTM, GRU and sLSTM can.
- adding, copy: as in the study `memory`, with lags of 100, 300 and 1,000 steps. Scores:
  mean squared error, accuracy.
- articles, shakespeare: the next character in windows of 128. Score: held-out nats per
  character.
- imdb: the sentiment of reviews, cut or padded to 400 words. Score: accuracy on random
  test reviews.

Each run starts with three learning rates. After a quarter of the updates it drops the
one with the highest validation loss, and after half of them the next (successive
halving, Jamieson & Talwalkar 2016). The result is that of the last one, with a moving
average of the parameters. The test score is measured after each eighth of the training;
the time of an update is processor time, in the fastest eighth. At equal time, each cell
stops where the fastest cell has made all its updates.

Expected: LSTM, GRU and sLSTM track states beyond the training length, and no linear
cell does. Linear cells learn long lags faster. On characters the cells with a recurrent
kernel are ahead at equal parameters, and linear cells at equal time.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, permutations
from time import process_time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array, lax

from bench import groups
from experiments import memory, runs
from experiments.study import (
    CELL_STYLES,
    GREY,
    Mean,
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
from lstm_jax import Recurrent
from lstm_jax.cells import CELLS, Cell, lru, mlstm, slstm
from lstm_jax.lab.inspection.figures import INK, ORANGE, YELLOW
from lstm_jax.lab.sentiment.config import DataConfig, SentimentConfig
from lstm_jax.training.optimizers import clipped, keras_adam
from lstm_jax.training.parts import functional

COMPARED: dict[str, Cell] = {
    name: CELLS[name] for name in ("lstm", "gru", "min_lstm", "rg_lru")
}
COMPARED |= {"slstm": slstm(4), "mlstm": mlstm(4), "lru": lru(0.9, 0.999)}
"""Cells of the study by name. sLSTM and mLSTM have four heads, and LRU the initial
eigenvalues that its paper has for long memory."""
TRACKING = "lstm", "gru", "slstm"
"""Cells that can track states at every length, by the theory."""
STYLES = CELL_STYLES | {
    "slstm": {"color": ORANGE},
    "rg_lru": {"color": YELLOW},
    "lru": {"color": INK},
    "mlstm": {"color": GREY},
}
EMBED, READOUT, WORDS, MULTIPLE = 32, 64, 10_000, 4
RATES, PARTS, KEPT = (1e-3, 3e-3, 1e-2), 8, {2: 2, 4: 1}
"""Learning rates; number of parts of a training; and number of rates that are kept, by
the number of finished parts."""
AVERAGED = 0.01
"""Share of the newest parameters in the exponential moving average that is tested."""
TESTS, TEST_BATCH, SHOWN = 8, 64, 32
"""Number of batches of a test, their size, and number of parts of a test sequence whose
accuracy is kept."""


@dataclass(frozen=True)
class Config:
    """Config of one run of the study: a cell is trained on a task."""

    task: str = "parity"
    cell: str = "lstm"
    steps: int = 40
    """Number of steps of a sequence. For adding and copy, it is the lag."""
    tested: int = 0
    """Number of steps of a test sequence. 0 means that it is `steps`."""
    units: int = 64
    """Hidden size of the LSTM."""
    updates: int = 1000
    batch: int = 32
    seed: int = 0
    data: str = ""
    """Source of the text or of the reviews, if the task has one; a small one of its own
    if empty or "synthetic"."""


class Task(NamedTuple):
    """Task, whose examples are drawn at random."""

    inputs: int
    """Number of different ids or of input features."""
    outputs: int
    answers: int
    """Number of last steps that have a target; 0 for all steps."""
    draw: Callable[[Array, int, int, Any], tuple[Array, Array]]
    """Function draw(key, batch, steps, array) that returns inputs, ids (B, T) or floats
    (B, T, E), and targets of the answers (B, N) or, if N is 1, (B,)."""
    parts: Sequence[Any] = ((), (), ())
    """Arrays of the training, the validation and the test part, from which `draw` takes
    examples."""
    embedding: type = nnx.Embed


def s5() -> np.ndarray:
    """Return the product (120, 2) of each element of S5 with a transposition and with a
    cycle of length 5.
    """
    elements, weights = np.array([*permutations(range(5))]), 5 ** np.arange(5)[::-1]
    moved = (elements[:, move] for move in ([1, 0, 2, 3, 4], [1, 2, 3, 4, 0]))
    return np.stack(
        [np.searchsorted(elements @ weights, after @ weights) for after in moved], 1
    )


WORDS_OF = {
    "parity": np.add.outer(range(2), range(2)) % 2,
    "cycle": np.add.outer(range(5), range(5)) % 5,
    "s5": s5(),
}
"""Table (elements, inputs) of the products of each group."""


def group_words(table: np.ndarray) -> Task:
    """Return the task to compute the product of the elements so far."""
    states, inputs = table.shape

    def draw(key, batch, steps, _):
        x = jax.random.randint(key, (batch, steps), 0, inputs)

        def step(state, now):
            state = jnp.asarray(table)[state, now]
            return state, state

        return x, lax.scan(step, jnp.zeros(batch, int), x.T)[1].T

    return Task(inputs, states, 0, draw)


def lag(task: Any) -> Task:
    """Return a task of the study `memory`."""
    make, features, outputs = memory.TASKS[task]
    answers = memory.COPIED if task == "copy" else 1
    return Task(
        features,
        outputs,
        answers,
        lambda key, batch, steps, _: make(key, batch, steps),
        embedding=nnx.Linear,
    )


def parts(train: np.ndarray, held_out: np.ndarray) -> list[Array]:
    """Return the training part and the halves of the held-out part."""
    return [jnp.asarray(part, int) for part in (train, *np.array_split(held_out, 2))]


def text(source: str) -> Task:
    """Return the task to predict the next character of a text."""
    corpus = runs.corpus_of(source)

    def draw(key, batch, steps, ids):
        starts = jax.random.randint(key, (batch, 1), 0, len(ids) - steps)
        windows = ids[starts + jnp.arange(steps + 1)[None]]
        return windows[:, :-1], windows[:, 1:]

    size = corpus.characters.size
    return Task(size, size, 0, draw, parts(corpus.train[:], corpus.validation))


def reviews(config: Config) -> Task:
    """Return the task to tell the sentiment of a review."""
    kind = "frequency" if config.data == "synthetic" else "keras"
    found = runs.reviews_of(
        SentimentConfig(DataConfig(config.data, vocabulary=kind, num_words=WORDS))
    )

    def draw(key, batch, _, rows):
        chosen = rows[jax.random.randint(key, (batch,), 0, len(rows))]
        return chosen[:, :-1], chosen[:, -1]

    rows = [
        np.column_stack([part.padded(config.steps), part.labels])
        for part in (found.train, found.test)
        if part
    ]
    return Task(WORDS, 2, 1, draw, parts(*rows))


def task_of(config: Config) -> Task:
    """Return the task of a config."""
    if config.task in WORDS_OF:
        return group_words(WORDS_OF[config.task])
    if config.task in memory.TASKS:
        return lag(config.task)
    return reviews(config) if config.task == "imdb" else text(config.data)


UNITS = {
    "adding": "mean squared error",
    "articles": "held-out nats per character",
    "shakespeare": "held-out nats per character",
}
"""Units of the scores that are losses. All others are accuracies."""


@cache
def parameters(cell: str, units: int) -> int:
    """Return the number of parameters of a cell and of the first dense layer."""
    shapes = jax.eval_shape(
        lambda key: COMPARED[cell].init(key, EMBED, units), jax.random.key(0)
    )
    return (
        sum(leaf.size for leaf in jax.tree.leaves(shapes))
        + COMPARED[cell].output_size(units) * READOUT
    )


@cache
def units_of(cell: str, units: int) -> int:
    """Return the hidden size at which a cell has most nearly as many parameters as an
    LSTM with `units` units.
    """
    return min(
        range(MULTIPLE, 4 * units, MULTIPLE),
        key=lambda size: abs(parameters(cell, size) - parameters("lstm", units)),
    )


def make_model(config: Config, task: Task) -> nnx.Module:
    """Return the untrained model, whose outputs (B, N, O) are those of the last N
    steps.
    """
    rngs, cell = nnx.Rngs(config.seed), COMPARED[config.cell]
    layer = Recurrent(
        EMBED,
        units_of(config.cell, config.units),
        cell=cell,
        return_sequences=True,
        rngs=rngs,
    )
    return nnx.Sequential(
        task.embedding(task.inputs, EMBED, rngs=rngs),
        layer,
        lambda h: h[:, -task.answers :],
        nnx.Linear(layer.output_features, READOUT, rngs=rngs),
        nnx.gelu,
        nnx.Linear(READOUT, task.outputs, rngs=rngs),
    )


def run(config: Config) -> Metrics:
    """Train a cell on a task, with the learning rate that has the lowest validation
    loss, and return its test scores.
    """
    task = task_of(config)
    of_data, of_validation, of_test = jax.random.split(jax.random.key(config.seed), 3)
    untrained, rebuild = functional(make_model(config, task))
    count = config.updates // PARTS

    def losses(params, key, batch, steps, array) -> tuple[Array, Array]:
        x, target = task.draw(key, batch, steps, array)
        model: Any = rebuild(params)
        output = model(x)
        target = target.reshape(output.shape[:2])
        if task.outputs == 1:
            return (loss := (output[..., 0] - target) ** 2), loss
        loss = optax.softmax_cross_entropy_with_integer_labels(output, target)
        return loss, loss if config.task in UNITS else output.argmax(-1) == target

    @jax.jit
    def train(carry, rate, part, key, array):
        def step(carry, number):
            params, state, average = carry
            drawn = jax.random.fold_in(key, number), config.batch, config.steps, array
            gradient = jax.grad(lambda params: losses(params, *drawn)[0].mean())(params)
            changes, state = clipped(keras_adam(rate), 1.0).update(
                gradient, state, params
            )
            params = optax.apply_updates(params, changes)
            return (
                params,
                state,
                optax.incremental_update(params, average, AVERAGED),
            ), None

        return lax.scan(step, carry, part * count + jnp.arange(count))[0]

    @partial(jax.jit, static_argnames="steps")
    def tested(params, key, steps, array):
        found = lax.map(
            lambda key: losses(params, key, TEST_BATCH, steps, array),
            jax.random.split(key, TESTS),
        )
        return found[0].mean(), found[1].mean((0, 1))

    trials = dict.fromkeys(
        RATES, (untrained, clipped(keras_adam(1.0), 1.0).init(untrained), untrained)
    )
    curves, order, seconds, by_step = {rate: [] for rate in RATES}, {}, [], {}
    for part in range(PARTS):
        for rate, carry in trials.items():
            began = process_time()
            *_, average = trials[rate] = jax.block_until_ready(
                train(carry, rate, part, of_data, task.parts[0])
            )
            # the first has the time of the compilation
            seconds.append((process_time() - began) / count)
            order[rate] = float(
                jnp.nan_to_num(
                    tested(average, of_validation, config.steps, task.parts[1])[0],
                    nan=jnp.inf,
                )
            )
            by_step[rate] = np.asarray(
                tested(average, of_test, config.tested or config.steps, task.parts[2])[
                    1
                ]
            )
            curves[rate].append(
                float(by_step[rate][config.steps if config.tested else 0 :].mean())
            )
        trials = {
            rate: trials[rate]
            for rate in sorted(trials, key=lambda rate: order[rate])[
                : KEPT.get(part + 1)
            ]
        }
    (rate,) = trials
    return {
        "score": curves[rate][-1],
        "by_step": [
            float(steps.mean()) for steps in np.array_split(by_step[rate], SHOWN)
        ]
        if config.tested
        else [],
        "curve": curves[rate],
        "rate": rate,
        "seconds": min(seconds),
        "parameters": parameters(config.cell, units_of(config.cell, config.units)),
    }


def timed(rows: Rows) -> Iterator[Metrics]:
    """Yield the rows of one task with the moments of the curve, the score at equal
    time, and the gains over the LSTM of the same seed.
    """
    updates, sign = (
        np.arange(1, PARTS + 1) / PARTS * rows[0]["updates"],
        -1 if rows[0]["task"] in UNITS else 1,
    )
    moments = {
        cell: updates * np.median([row["seconds"] for row in own])
        for (cell,), own in groups(rows, ["cell"]).items()
    }
    shortest, lstm = (
        min(own[-1] for own in moments.values()),
        {row["seed"]: row for row in rows_with(rows, "cell", "lstm")},
    )

    def timely(row: Row) -> float:
        return float(np.interp(shortest, moments[row["cell"]], row["curve"]))

    for row in rows:
        base = lstm.get(row["seed"], row)
        gains = {
            "gain": sign * (row["score"] - base["score"]),
            "timely_gain": sign * (timely(row) - timely(base)),
        }
        yield flat(
            row["config"],
            row["result"]
            | gains
            | {"timely": timely(row), "moments": moments[row["cell"]]},
        )


def judged(gain: Mean) -> str:
    """Return whether a gain over the LSTM is better, worse or, if its interval contains
    0 or there is none, open.
    """
    return "better" if gain.low > 0 else "worse" if gain.high < 0 else "open"


def learned(row: Row) -> tuple[bool, bool]:
    """Return whether a run tracks states within the training length (accuracy above
    0.99), and in the last eighth of the test (0.9).
    """
    within = SHOWN * row["steps"] // row["tested"]
    return np.mean(row["by_step"][:within]) > 0.99, np.mean(
        row["by_step"][-SHOWN // 8 :]
    ) > 0.9


def verdict(rows: Rows) -> Iterator[str]:
    """Return the conclusion of the study."""
    for (task, steps, tested), own in groups(rows, ["task", "steps", "tested"]).items():
        for (cell,), found in means(timed(own), ["cell"]).items():
            against = (
                f"; against the LSTM {judged(found['gain'])}, at equal time "
                f"{judged(found['timely_gain'])}"
            ) * (cell != "lstm")
            score, early, seconds = (
                found[name] for name in ("score", "timely", "seconds")
            )
            yield (
                f"{task}, {steps} steps, {cell}: {score:.3g}, at equal time "
                f"{early:.3g}, {1000 * seconds.mean:.1f} ms an update{against}"
            )
        for (cell,), tracking in groups(own, ["cell"]).items() if tested else ():
            within, beyond = np.sum([learned(row) for row in tracking], 0)
            theory = "can" if cell in TRACKING else "cannot"
            yield (
                f"{task}, {cell}: of {len(tracking)} seeds {within} learn {steps} "
                f"steps, {beyond} go on to {tested}; theory: {theory}"
            )


def draw(rows: Rows, figure) -> None:
    """Draw the accuracy of state tracking over the steps, other scores over the lag,
    and yet others over the time of training.
    """
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    tasks = groups(rows, ["task"])
    panels = figure.subplots(2, 4).ravel()
    for axes, (task,) in zip(panels, tasks, strict=False):
        own, label, points = [*timed(tasks[task,])], "processor seconds of training", []
        for row in own:
            x, y = row["moments"], row["curve"]
            if row["tested"]:
                x, y, label = (
                    np.linspace(0, row["tested"], 2 * SHOWN + 1)[1::2],
                    row["by_step"],
                    "step",
                )
            elif task in memory.TASKS:
                x, y, label = [row["steps"]], [row["score"]], "lag, steps"
            points += [
                flat({"cell": row["cell"], "x": float(at)}, {"y": value})
                for at, value in zip(x, y, strict=True)
            ]
        plot_means(axes, points, "y", "x", "cell", STYLES)
        axes.set(title=task, xlabel=label, ylabel=UNITS.get(task, "accuracy"))
        axes.xaxis.set(major_locator=MaxNLocator(5), major_formatter=ScalarFormatter())
        if own[0]["tested"]:
            axes.axvline(
                own[0]["steps"], color=GREY, linestyle=":", label="length in training"
            )
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=len(COMPARED) + 1,
    )


def configs(*tasks: Config) -> list[Config]:
    """Return the configs of all cells with five seeds."""
    return [
        replace(task, cell=cell, seed=seed)
        for task in tasks
        for cell in COMPARED
        for seed in range(5)
    ]


PRESETS = {
    "state": configs(
        *(
            Config(task, tested=256, updates=updates)
            for task, updates in zip(WORDS_OF, (1000, 2000, 3000), strict=True)
        )
    ),
    "memory": configs(
        *(
            Config(task, steps=steps)
            for steps in (100, 300, 1000)
            for task in ("copy", "adding")
        )
    ),
    "characters": configs(
        *(
            Config(text.split()[-1].lower(), steps=128, updates=2000, data=text)
            for text in (runs.SHAKESPEARE, runs.ARTICLES)
        )
    ),
    "reviews": configs(Config("imdb", steps=400, updates=800)),
}
SMALL = Config(cell="gru", steps=8, units=4, updates=16, batch=4)
TOY = [
    replace(SMALL, tested=64),
    replace(SMALL, tested=64, cell="lru"),
    replace(SMALL, task="copy"),
    replace(SMALL, task="articles", cell="lstm"),
    replace(SMALL, task="imdb", data="synthetic", cell="slstm"),
]
STUDY = Study(
    "successors",
    run,
    {"toy": TOY, **PRESETS, "full": [*chain(*PRESETS.values())]},
    draw,
    (15.0, 7.5),
    verdict,
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
