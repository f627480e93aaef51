r"""Reinforcement learning with an LSTM policy by proximal policy optimisation (PPO),
compiled as one program.

    python examples/recurrent_ppo.py --environment RepeatFirst --length 52 \
        --json returns.json
    python examples/recurrent_ppo.py --environment RepeatFirst --length 52 \
        --cell memoryless
    # with pip install ".[examples]"
    python examples/recurrent_ppo.py --environment MemoryChain-bsuite --seeds 3

PPO is that of Schulman et al. 2017, in the recurrent form of CleanRL and PureJaxRL. A
rollout is a record of T steps of B environments. A minibatch consists of all T steps of
some environments, because the LSTM reads the steps in order.

The policy calls its recurrent layer, of any cell, in two ways. To act in the
environments, `layer.step(x, state, reset=...)` runs one step. To compute the loss,
`layer(x, initial_state=..., resets=...)` runs all steps of a rollout, from the state
that the layer had before the rollout. A reset replaces the state by zeros where an
episode begins, so that nothing passes from one episode to the next. With `--cell
memoryless`, the policy has a dense layer instead.

The environments are those of memory_tasks.py, or two of bsuite (Osband et al. 2020), as
gymnax implements them:

- MemoryChain-bsuite shows a bit in the first two of `length` + 1 observations, and asks
  for the bit in the last one. The return is 1 if the last action is this bit, else -1.
  The expected return is 0 without memory, and up to 1 with memory.
- UmbrellaChain-bsuite lets the first action decide whether to take an umbrella. The
  last of `length` rewards is 1 if the decision was right, else -1. The other rewards
  are 1 or -1 at random. Every observation says whether an umbrella is needed, so no
  memory is needed. The difficulty is that the reward comes `length` steps after the
  action. The expected return is 0 for random actions, and 1 for the best policy.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.progress import track

from lstm_jax import CELLS, Recurrent
from lstm_jax.lab.files.text import json_text

LENGTHS = {
    "MemoryChain-bsuite": "memory_length",
    "UmbrellaChain-bsuite": "chain_length",
}
"""Dict from the name of an environment of gymnax to the name of its parameter that is
set to `Settings.length`."""
MEMORYLESS = "memoryless"


@dataclass(frozen=True)
class Settings:
    """Settings of a training: the environment, the size of the policy, and the
    hyperparameters of PPO.
    """

    environment: str = "RepeatFirst"
    length: int = 30
    """Length of an episode, in gymnax the parameter `memory_length` (MemoryChain) or
    `chain_length` (UmbrellaChain)."""
    cell: str = "lstm"
    """Name in `lstm_jax.CELLS`, or "memoryless"."""
    units: int = 64
    environments: int = 64
    """Number of environments B that run side by side."""
    steps: int = 128
    """Number of steps T of a rollout."""
    updates: int = 120
    """Number of rollouts. After each rollout, the policy is trained on it for `epochs`
    epochs."""
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 2e-3
    """Initial learning rate, which falls linearly to 0."""
    discount: float = 0.99
    decay: float = 0.95
    """The parameter lambda of the generalised advantage estimate (Schulman et al.
    2016)."""
    clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    clip_norm: float = 0.5


class Memoryless(nnx.Linear):
    """Dense layer with tanh that can replace the recurrent layer of a policy. It has
    the methods of this layer, and an empty state.
    """

    def initial_state(self, batch):
        return ()

    def step(self, x, state, reset):
        return self(x), state

    def __call__(self, x, **options):
        return jnp.tanh(super().__call__(x))


class Policy(nnx.Module):
    """Policy network around a recurrent layer, or one with the same methods. It outputs
    action logits and values (estimated returns).
    """

    def __init__(
        self,
        features: int,
        actions: int,
        units: int,
        core: Callable[[int, nnx.Rngs], Any],
        rngs: nnx.Rngs,
    ):
        initial = nnx.initializers.orthogonal
        self.encoder = nnx.Linear(features, units, rngs=rngs)
        self.core = core(units, rngs)
        self.actor = nnx.Linear(units, actions, kernel_init=initial(0.01), rngs=rngs)
        self.critic = nnx.Linear(units, 1, kernel_init=initial(1.0), rngs=rngs)

    def initial_state(self, batch: int) -> Any:
        """Return the state before the first step of an episode, for `batch`
        environments.
        """
        return self.core.initial_state(batch)

    def step(
        self, observation: jax.Array, state: Any, reset: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any]:
        """Return the logits (B, actions), values (B,) and new state for one step of B
        environments. `reset` (B,) marks new episodes.
        """
        h, state = self.core.step(
            jnp.tanh(self.encoder(observation)), state, reset=reset
        )
        return self.actor(h), self.critic(h)[..., 0], state

    def __call__(
        self, observations: jax.Array, state: Any, resets: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the logits (T, B, actions) and the values (T, B) for T steps of B
        environments, which start from `state`.

        `resets` (T, B) is True where an episode begins.
        """
        x = jnp.tanh(self.encoder(observations))
        h = self.core(x, initial_state=state, resets=resets, time_major=True)
        return self.actor(h), self.critic(h)[..., 0]


class Simulation(NamedTuple):
    """Environment with the interface of gymnax, and its parameters. The methods run B
    copies side by side, each with a random key.
    """

    environment: Any
    params: Any = None

    def reset(self, keys):
        """Start an episode in each of B environments, and return the first observations
        (B, features) and the environments' states.
        """
        return jax.vmap(self.environment.reset, (0, None))(keys, self.params)

    def step(self, keys, state, actions):
        """Take an action in each of B environments, and return the new observations,
        states, rewards (B,) and end flags (B,).

        An end flag is True where an episode has ended. The new observation and state
        are then already the first ones of the next episode.
        """
        run = jax.vmap(self.environment.step, (0, 0, 0, None))
        observation, state, reward, terminated, truncated, _ = run(
            keys, state, actions, self.params
        )
        return observation, state, reward.astype(jnp.float32), terminated | truncated


class Actors(NamedTuple):
    """State of B environments, and of the policy that acts in them, between two steps."""

    environment: Any
    observation: jax.Array
    reset: jax.Array
    """Whether `observation` is the first one of an episode, as a bool for each
    environment (B,)."""
    memory: Any
    """State of the policy."""
    total: jax.Array
    """Sum of the rewards of each episode so far (B,)."""


class Rollout(NamedTuple):
    """Record of T steps of B environments, from which the policy learns. All arrays
    have the shape (T, B, ...).

    `reset` is True at the first step of an episode, and `done` at its last step.
    `total` is the sum of the episode's rewards so far.
    """

    observation: jax.Array
    reset: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array
    done: jax.Array
    total: jax.Array


class Batch(NamedTuple):
    """Data of a loss: a rollout, the policy's state before the rollout, the advantages
    of the actions, and the targets of the values.
    """

    rollout: Rollout
    memory: Any
    advantage: jax.Array
    target: jax.Array


def make_simulation(settings: Settings) -> Simulation:
    """Return the environment `settings.environment`, with its length set to
    `settings.length`.
    """
    if settings.environment not in LENGTHS:
        from memory_tasks import make_task

        return Simulation(make_task(settings.environment, settings.length))
    import gymnax  # pyright: ignore[reportMissingImports]

    environment, params = gymnax.make(settings.environment)
    lengths = {
        LENGTHS[settings.environment]: settings.length,
        "max_steps_in_episode": settings.length + 2,
    }
    return Simulation(environment, params.replace(**lengths))


def make_core(cell: str, units: int, rngs: nnx.Rngs) -> Any:
    """Return the layer that gives a policy its memory, with `units` inputs and outputs.
    `cell` is as in `Settings`.
    """
    if cell == MEMORYLESS:
        return Memoryless(units, units, rngs=rngs)
    return Recurrent(units, units, cell=cell, return_sequences=True, rngs=rngs)


def make_policy(
    settings: Settings,
    simulation: Simulation,
    key: jax.Array,
    core: Callable = make_core,
) -> Policy:
    """Return a policy with random initial weights. The settings and the environment
    determine its sizes.
    """
    features = jax.eval_shape(simulation.reset, key[None])[0].shape[-1]
    return Policy(
        features,
        simulation.environment.num_actions,
        settings.units,
        partial(core, settings.cell),
        nnx.Rngs(key),
    )


def begin(
    settings: Settings, simulation: Simulation, policy: Policy, key: jax.Array
) -> Actors:
    """Start an episode in each environment, and return the states of the environments
    and of the policy before the first step.
    """
    count = settings.environments
    observation, state = simulation.reset(jax.random.split(key, count))
    return Actors(
        state,
        observation,
        jnp.ones(count, bool),
        policy.initial_state(count),
        jnp.zeros(count),
    )


def roll_out(
    simulation: Simulation, policy: Policy, actors: Actors, key: jax.Array, steps: int
) -> tuple[Actors, Rollout, jax.Array]:
    """Let the policy act for `steps` steps. Return the new `Actors`, the record of the
    steps, and the values (B,) after the last step.
    """

    def act(actors, key):
        first, second = jax.random.split(key)
        logits, value, memory = policy.step(
            actors.observation, actors.memory, actors.reset
        )
        action = jax.random.categorical(first, logits)
        log_prob = _log_prob(logits, action)
        keys = jax.random.split(second, len(action))
        observation, state, reward, done = simulation.step(
            keys, actors.environment, action
        )
        total = actors.total + reward
        record = Rollout(
            actors.observation,
            actors.reset,
            action,
            log_prob,
            value,
            reward,
            done,
            total,
        )
        return Actors(
            state, observation, done, memory, jnp.where(done, 0, total)
        ), record

    actors, rollout = jax.lax.scan(act, actors, jax.random.split(key, steps))
    return (
        actors,
        rollout,
        policy.step(actors.observation, actors.memory, actors.reset)[1],
    )


def _log_prob(logits: jax.Array, action: jax.Array) -> jax.Array:
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)[
        ..., 0
    ]


def advantages(
    rollout: Rollout, last: jax.Array, discount: float, decay: float
) -> jax.Array:
    """Return the generalised advantage estimates (T, B) of the actions in T steps of B
    environments (Schulman et al. 2016).

    No estimate uses rewards of another episode. `last` has the policy's value estimates
    (B,) for the observations after the last step, and `decay` is the parameter lambda
    of the advantage estimates.
    """

    def back(carry, step):
        advantage, following = carry
        goes_on = discount * (1 - step.done.astype(jnp.float32))
        advantage = (
            step.reward + goes_on * following - step.value + goes_on * decay * advantage
        )
        return (advantage, step.value), advantage

    return jax.lax.scan(back, (jnp.zeros_like(last), last), rollout, reverse=True)[1]


def step_losses(policy: Policy, batch: Batch, settings: Settings) -> jax.Array:
    """Return the losses of PPO (T, B), one for each of T steps of B environments.

    A loss is the weighted squared error of the value, minus the clipped objective,
    minus the weighted entropy.
    """
    rollout = batch.rollout
    logits, values = policy(rollout.observation, batch.memory, rollout.reset)
    log_probs = jax.nn.log_softmax(logits)
    ratio = jnp.exp(_log_prob(logits, rollout.action) - rollout.log_prob)
    advantage = (batch.advantage - batch.advantage.mean()) / (
        batch.advantage.std() + 1e-8
    )
    gain = jnp.minimum(
        ratio * advantage,
        jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip) * advantage,
    )
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1)
    return (
        settings.value_weight * jnp.square(values - batch.target)
        - gain
        - settings.entropy_weight * entropy
    )


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    """Return the optimizer of a training: Adam with gradient clipping, and with a
    learning rate that falls linearly to 0.
    """
    count = settings.updates * settings.epochs * settings.minibatches
    rate = optax.linear_schedule(settings.learning_rate, 0.0, count)
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm), optax.adam(rate, eps=1e-5)
    )


def improve(
    rebuild: Callable,
    optimizer: Any,
    weights: Any,
    batch: Batch,
    key: jax.Array,
    settings: Settings,
) -> Any:
    """Train the policy on one rollout for `settings.epochs` epochs, and return the new
    pair (parameters, state of the optimizer).

    A minibatch consists of all steps of some environments. `rebuild(params)` returns
    the policy with the given parameters. `weights` is the pair (parameters, state of
    the optimizer) before the training.
    """

    def minibatch(weights, rows):
        params, moments = weights
        of_steps = (batch.rollout, batch.advantage, batch.target)
        rollout, advantage, target = jax.tree.map(
            lambda array: array[:, rows], of_steps
        )
        part = Batch(
            rollout,
            jax.tree.map(lambda array: array[rows], batch.memory),
            advantage,
            target,
        )
        gradient = jax.grad(
            lambda params: step_losses(rebuild(params), part, settings).mean()
        )(params)
        changes, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, changes), moments), None

    def epoch(weights, key):
        rows = jax.random.permutation(key, settings.environments).reshape(
            settings.minibatches, -1
        )
        return jax.lax.scan(minibatch, weights, rows)

    return jax.lax.scan(epoch, weights, jax.random.split(key, settings.epochs))[0]


def make_train(
    settings: Settings, simulation: Simulation, core: Callable = make_core
) -> jax.stages.Wrapped:
    """Return a compiled function train(key) that runs a whole training. `core` makes
    the layer of the policy, see `make_core`.

    The function returns the trained parameters and two arrays (updates,): the mean
    return and the mean last reward of the episodes that end in each rollout. Both are
    NaN if no episode ends in it.
    """
    optimizer = make_optimizer(settings)

    @jax.jit
    def train(key):
        first, second, third = jax.random.split(key, 3)
        policy = make_policy(settings, simulation, first, core)
        graph, params = nnx.split(policy)

        def rebuild(params):
            return nnx.merge(graph, params)

        def update(carry, key):
            weights, actors = carry
            first, second = jax.random.split(key)
            memory = actors.memory
            actors, rollout, last = roll_out(
                simulation, rebuild(weights[0]), actors, first, settings.steps
            )
            advantage = advantages(rollout, last, settings.discount, settings.decay)
            batch = Batch(rollout, memory, advantage, advantage + rollout.value)
            weights = improve(rebuild, optimizer, weights, batch, second, settings)
            return (weights, actors), tuple(
                array.mean(where=rollout.done)
                for array in (rollout.total, rollout.reward)
            )

        start = (
            (params, optimizer.init(params)),
            begin(settings, simulation, policy, second),
        )
        ((params, _), _), means = jax.lax.scan(
            update, start, jax.random.split(third, settings.updates)
        )
        return params, *means

    return train


class Result(NamedTuple):
    """Result of trainings with several seeds.

    `returns` and `last_rewards` are arrays (seeds, updates), see `make_train`.
    `compilation` is the compile time in seconds, and `seconds` is a list with the
    training time of each seed.
    """

    returns: np.ndarray
    last_rewards: np.ndarray
    compilation: float
    seconds: list[float]


def run(
    settings: Settings,
    simulation: Simulation,
    seeds: Sequence[int] = (0,),
    core: Callable = make_core,
    progress=False,
) -> Result:
    """Run one training for each seed, and return the results."""
    began = time.perf_counter()
    train = make_train(settings, simulation, core).lower(jax.random.key(0)).compile()
    compilation = time.perf_counter() - began
    means, seconds = [], []
    for seed in track(
        seeds, settings.environment, transient=True, disable=not progress
    ):
        began = time.perf_counter()
        means.append(jax.device_get(train(jax.random.key(seed))[1:]))
        seconds.append(time.perf_counter() - began)
    return Result(*map(np.stack, zip(*means, strict=True)), compilation, seconds)


def table(settings: Settings, found: Result, rows: int = 10) -> str:
    """Return a text table of the mean return, with a column for each seed and a row for
    each part of the training.

    The training is divided into `rows` equal parts. The first column has the number of
    environment steps up to the end of each part.
    """
    per_update = settings.steps * settings.environments
    lines = [
        "steps up to".rjust(12)
        + "".join(f"  seed {seed}" for seed in range(len(found.returns)))
    ]
    for updates in np.array_split(
        np.arange(settings.updates), min(rows, settings.updates)
    ):
        means = [np.nanmean(one[updates]) for one in found.returns]
        lines.append(
            f"{(updates[-1] + 1) * per_update:>12,}"
            + "".join(f"{mean:>8.2f}" for mean in means)
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train with the settings of the command line, and print the mean returns and the
    times.
    """
    from memory_tasks import TASKS

    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--environment", choices=[*TASKS, *LENGTHS], default=Settings.environment
    )
    parser.add_argument("--length", type=int, default=Settings.length)
    parser.add_argument("--updates", type=int, default=Settings.updates)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--cell",
        choices=[*CELLS, MEMORYLESS],
        default=Settings.cell,
        help="memoryless: a dense layer",
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="file for the settings, the returns of all updates and the times",
    )
    given = parser.parse_args(arguments)
    settings = Settings(
        given.environment, given.length, given.cell, updates=given.updates
    )
    found = run(
        settings,
        make_simulation(settings),
        range(given.seeds),
        progress=sys.stdout.isatty(),
    )
    print(
        f"mean return of {settings.environment} with length "
        f"{settings.length}, {settings.cell}"
    )
    print(table(settings, found))
    last = " ".join(
        f"{mean:.3f}"
        for mean in np.nanmean(found.last_rewards[:, -settings.updates // 10 :], axis=1)
    )
    print(f"mean of the last reward of an episode, at the end: {last}")
    rate = (
        settings.updates
        * settings.steps
        * settings.environments
        / np.mean(found.seconds)
    )
    print(
        f"compiled in {found.compilation:.1f} s, then "
        f"{np.mean(found.seconds):.1f} s a seed, {rate:,.0f} steps a second"
    )
    if given.json:
        row = {"settings": asdict(settings)} | {
            name: np.asarray(value).tolist() for name, value in found._asdict().items()
        }
        given.json.write_text(json_text(row) + "\n")


if __name__ == "__main__":
    main()
