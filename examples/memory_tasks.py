"""Five environments that a policy can solve only with memory, like those of POPGym
(Morad et al. 2023), as pure functions of JAX.

They have the interface of gymnax: `reset(key)` returns (observation, state), and
`step(key, state, action)` returns (observation, state, reward, terminated, truncated,
info). A step that ends an episode returns the first observation and state of the next
episode. `jax.vmap` and `jax.jit` apply to both. `make_task(name, length)` makes an
environment:

- RepeatFirst deals `length` cards of four suits, and asks for the suit of the first
  card at every step.
- RepeatPrevious asks at every step for the suit of the card four steps before.
- Autoencode deals `length` / 2 cards, and asks for their suits in reverse order.
- CountRecall deals red and black cards, and asks how many cards of a random colour it
  has dealt in this episode.
- NoisyCartPole shows the positions of cart and pole with noise, and no velocities. An
  episode ends after `length` steps.

The return of an episode is 1 if every answer is right, and -1 if every answer is wrong.
In NoisyCartPole it is the part of `length` for which the pole stands.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

SUITS, LAG = 4, 4


class Task:
    """Environment that is made of three functions: begin(key) -> state, observe(key,
    state) -> observation, and advance.

    advance(state, action) returns (state, reward, done), with `done` true at the last
    step of an episode. `params` is there for gymnax.
    """

    begin: Callable[..., Any]
    observe: Callable[..., jax.Array]
    advance: Callable[..., tuple[Any, jax.Array, jax.Array]]

    def reset(self, key: jax.Array, params: Any = None) -> tuple[jax.Array, Any]:
        first, second = jax.random.split(key)
        state = self.begin(first)
        return self.observe(second, state), state

    def step(
        self, key: jax.Array, state: Any, action: jax.Array, params: Any = None
    ) -> tuple:
        first, second = jax.random.split(key)
        state, reward, done = self.advance(state, action)
        new, old = self.reset(first), (self.observe(second, state), state)
        observation, state = jax.tree.map(
            lambda new, old: jnp.where(done, new, old), new, old
        )
        return observation, state, reward, done, jnp.zeros_like(done), {}


class Cards(NamedTuple):
    """State of a card game: what its T steps show (T, columns), the right answers (T,),
    -1 where none is asked, and the current step.
    """

    shown: jax.Array
    answers: jax.Array
    t: jax.Array


@dataclass(frozen=True)
class CardGame(Task):
    """Environment that shows symbols, one-hot, and rewards right answers. deal(key)
    returns `Cards.shown` and `Cards.answers`.
    """

    deal: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    num_actions: int = SUITS

    def begin(self, key):
        return Cards(*self.deal(key), jnp.zeros((), jnp.int32))

    def observe(self, key, state):
        return jax.nn.one_hot(state.shown[state.t], SUITS).reshape(-1)

    def advance(self, state, action):
        answer = state.answers[state.t]
        sign = jnp.where(answer < 0, 0.0, jnp.where(action == answer, 1.0, -1.0))
        done = state.t == len(state.answers) - 1
        return (
            state._replace(t=jnp.minimum(state.t + 1, len(state.answers) - 1)),
            sign / jnp.float32((state.answers >= 0).sum()),
            done,
        )


@dataclass(frozen=True)
class NoisyCartPole(Task):
    """Cart and pole of Barto et al. 1983. Observed are the positions with Gaussian
    noise, relative to the limits of an episode.
    """

    length: int
    noise: float = 0.3
    num_actions: int = 2

    def begin(self, key):
        return jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05), jnp.zeros(
            (), jnp.int32
        )

    def observe(self, key, state):
        (x, _, angle, _), _ = state
        return jnp.stack([x / 2.4, angle / 0.21]) + self.noise * jax.random.normal(
            key, (2,)
        )

    def advance(self, state, action):
        (x, speed, angle, turn), t = state
        push = (
            jnp.where(action == 1, 10.0, -10.0) + 0.05 * turn**2 * jnp.sin(angle)
        ) / 1.1
        faster = (9.8 * jnp.sin(angle) - jnp.cos(angle) * push) / (
            0.5 * (4 / 3 - 0.1 * jnp.cos(angle) ** 2 / 1.1)
        )
        force = push - 0.05 * faster * jnp.cos(angle) / 1.1
        moved = jnp.stack([x, speed, angle, turn]) + 0.02 * jnp.stack(
            [speed, force, turn, faster]
        )
        done = (
            (jnp.abs(moved[0]) > 2.4)
            | (jnp.abs(moved[2]) > 0.21)
            | (t == self.length - 1)
        )
        return (moved, t + 1), jnp.asarray(1 / self.length), done


def make_task(name: str, length: int) -> Task:
    """Return the environment of a name in `TASKS`, with episodes of `length` steps."""
    t = jnp.arange(length)

    def deal(key, symbols=SUITS):
        return jax.random.randint(key, (length,), 0, symbols)

    def repeat_first(key):
        suits = deal(key)
        return jnp.stack([suits, jnp.int32(t == 0)], 1), jnp.broadcast_to(
            suits[0], length
        )

    def repeat_previous(key):
        suits = deal(key)
        return suits[:, None], jnp.where(t < LAG, -1, jnp.roll(suits, LAG))

    def autoencode(key):
        suits, asked = deal(key), t >= length // 2
        return jnp.stack([jnp.where(asked, -1, suits), jnp.int32(asked)], 1), jnp.where(
            asked, suits[length - 1 - t], -1
        )

    def count_recall(key):
        first, second = jax.random.split(key)
        colours, asked = deal(first, 2), deal(second, 2)
        reds = jnp.cumsum(colours)
        return jnp.stack([colours, asked], 1), jnp.where(asked == 1, reds, t + 1 - reds)

    if name == "NoisyCartPole":
        return NoisyCartPole(length)
    deals = {
        "RepeatFirst": repeat_first,
        "RepeatPrevious": repeat_previous,
        "Autoencode": autoencode,
        "CountRecall": count_recall,
    }
    return CardGame(deals[name], length + 1 if name == "CountRecall" else SUITS)


TASKS = ("RepeatFirst", "RepeatPrevious", "Autoencode", "CountRecall", "NoisyCartPole")
