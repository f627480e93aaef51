"""Study of what a policy with memory learns in five environments that need one, and of
how fast it learns it.

    python -m experiments.policies --preset toy       # seconds
    python -m experiments.policies --workers 2        # 51 trainings

Proximal policy optimisation (examples/recurrent_ppo.py) trains policies with an LSTM, a
GRU and a dense layer ("memoryless") in the five environments of
examples/memory_tasks.py, for 983,040 steps each, with three seeds. In one environment,
policies with the same cells of Flax, in a `lax.scan` that resets their states, show how
long the same algorithm takes without this library.

Expected: Both cells learn all five environments. In CountRecall the LSTM is ahead of
the GRU, since its cell state can count (Weiss et al. 2018). Without memory, the first
three card games stay at -0.5, the return of random answers, and the pole soon falls.
"""

import sys
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from examples import memory_tasks, recurrent_ppo
from experiments.study import (
    CELL_STYLES,
    GREY,
    Metrics,
    Rows,
    Study,
    lines,
    main,
    rows_with,
)
from lstm_jax.lab import sweep

LENGTHS = dict(zip(memory_tasks.TASKS, (52, 52, 16, 16, 200), strict=True))
STYLES = {cell: CELL_STYLES[cell] for cell in ("lstm", "gru")} | {
    "memoryless": {"color": GREY}
}
FLAX = {"lstm of Flax": linen.OptimizedLSTMCell, "gru of Flax": linen.GRUCell}


@dataclass(frozen=True)
class Config(recurrent_ppo.Settings):
    """Config of one training: the settings of PPO and the seed."""

    seed: int = 0


class FlaxCell(nnx.Module):
    """Layer of a policy (see `recurrent_ppo.make_core`) that runs a cell of Flax as
    Flax's users do, by `lax.scan`.
    """

    def __init__(self, cell: linen.RNNCellBase, units: int, rngs: nnx.Rngs):
        self.cell = cell
        self.params = nnx.Param(
            cell.init(rngs.params(), self.initial_state(1), jnp.zeros((1, units)))
        )

    def initial_state(self, batch):
        return self.cell.initialize_carry(
            jax.random.key(0), (batch, self.cell.features)
        )

    def step(self, x, state, reset):
        state = jax.tree.map(lambda part: jnp.where(reset[:, None], 0, part), state)
        state, h = self.cell.apply(self.params.get_value(), state, x)
        return h, state

    def __call__(self, x, initial_state, resets, time_major):
        def step(state, now):
            h, state = self.step(now[0], state, now[1])
            return state, h

        return jax.lax.scan(step, initial_state, (x, resets))[1]


def make_core(cell: str, units: int, rngs: nnx.Rngs):
    """Return the layer of a policy, with a cell of Flax or as `recurrent_ppo.make_core`
    does.
    """
    return (
        FlaxCell(FLAX[cell](units), units, rngs)
        if cell in FLAX
        else recurrent_ppo.make_core(cell, units, rngs)
    )


def run(config: Config) -> Metrics:
    """Train the policy of a config, and return its mean returns and its speed."""
    task = recurrent_ppo.Simulation(
        memory_tasks.make_task(config.environment, config.length)
    )
    found = recurrent_ppo.run(config, task, [config.seed], make_core)
    steps = config.updates * config.steps * config.environments
    curve = [
        float(np.nanmean(part))
        for part in np.array_split(found.returns[0], min(20, config.updates))
    ]
    return {
        "return": curve[-1],
        "curve": curve,
        "total": steps,
        "steps_per_second": steps / found.seconds[0],
    }


KEY = ("environment", "cell")


def verdict(rows: Rows) -> list[str]:
    """Return the conclusion of the study."""
    return lines(
        rows,
        KEY,
        "{}, {}: return {return:.2f}, {steps_per_second.mean:,.0f} steps a second",
    )


def draw(rows: Rows, figure) -> None:
    """Draw the mean return over the training, with a panel for each environment and a
    line for each seed.
    """
    for axes, task in zip(figure.subplots(1, len(LENGTHS)), LENGTHS, strict=True):
        for cell, style in STYLES.items():
            for row in rows_with(rows_with(rows, "environment", task), "cell", cell):
                steps = np.linspace(0, row["total"] / 1e6, len(row["curve"]) + 1)[1:]
                axes.plot(
                    steps,
                    row["curve"],
                    label=cell if row["seed"] == 0 else None,
                    **style,
                )
        axes.set_title(task)
        axes.set_xlabel("million steps")
    figure.axes[0].set_ylabel("mean return")
    figure.axes[0].legend(title="a line for each seed")


SMALL = Config(units=8, updates=4, environments=8)
TOY = [replace(SMALL, cell=cell) for cell in ("lstm", "gru of Flax")]
FULL = [
    *(
        config
        for task in LENGTHS.items()
        for config in sweep.grid(Config(*task), cell=tuple(STYLES), seed=range(3))
    ),
    *sweep.grid(Config(length=52), cell=tuple(FLAX), seed=range(3)),
]
STUDY = Study(
    "policies", run, {"toy": TOY, "full": FULL}, draw, (15.0, 3.4), verdict, data=False
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
