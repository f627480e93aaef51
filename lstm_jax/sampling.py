"""Drawing characters: one compiled call draws them all.

Two ways. `carried`: each character is one step from the carried state. `window`: each character is drawn after reading the last `length`
characters from a zero state, as the source does. Both start from the same prompt; where the prompt is not longer than the window they agree
on the first character. A draw is p -> log p / temperature -> softmax -> one categorical draw; temperature 0 takes the likeliest.

A character lies in `length` windows, and a window's state after it is one step from its state before it. So the states of all windows that
are open are kept, and a drawn character is read by all of them at once: a step over `length` rows instead of `length` steps.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Integer

from lstm_jax.errors import require
from lstm_jax.runtime import sharding

Mode = Literal["carried", "window"]
Way = Literal["likeliest", "some", "all"]

FEW = 256
"""Up to so many distinct characters sums are cumulated by a product."""


class Drawing(NamedTuple):
    """What goes on from one stretch of characters to the next.

    key; drawn: int32 scalar, characters so far; logits (B, V) of the next character; state: the layers' states, of B rows ("carried"), or
    of B * length rows, where row b * length + n is the window of text b that will be full n characters from now; in a text that is still
    shorter than a window the first of them all begin with it ("window").
    """

    key: jax.Array
    drawn: jax.Array
    logits: jax.Array
    state: Any


class Rules(NamedTuple):
    """How a character is drawn; arrays, so that another value compiles nothing anew (another `way_of` does).

    temperature: float32 scalar, 0 for greedy; top_k: int32 scalar, only the k likeliest (V: all); top_p: float32 scalar, only the likeliest
    that together reach p (1: all; Holtzman et al. 2020). Characters as likely as the last one kept are kept too.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array


def make_rules(vocabulary: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Rules:
    """Check and build `Rules`; `top_k` 0 for all.

    Raises:
        InputError: for a temperature neither 0 nor from 1e-6 to 1e6, top_k below 0 or top_p outside (0, 1].
    """
    good = temperature == 0 or 1e-6 <= temperature <= 1e6  # beyond, float32 overflows
    require(good, "temperature", temperature, "give 0 (always the likeliest), or 1e-6 to 1e6 (all alike)")
    require(top_k >= 0, "top_k", top_k, "give 0 (all) or more")
    require(0 < top_p <= 1, "top_p", top_p, "give a share above 0, at most 1")
    return Rules(jnp.float32(temperature), jnp.int32(min(top_k or vocabulary, vocabulary)), jnp.float32(top_p))


def way_of(rules: Rules, vocabulary: int) -> Way:
    """What a draw by these rules takes: "likeliest" at temperature 0, "some" where top-k or top-p may exclude some, else "all"."""
    if rules.temperature == 0:
        return "likeliest"
    return "some" if rules.top_k < vocabulary or rules.top_p < 1 else "all"


def allowed_logits(logits: Float[Array, "B V"], rules: Rules) -> Float[Array, "B V"]:
    """log p / temperature with what top-k and top-p exclude at -inf; for temperatures above 0."""
    return _likeliest(logits.astype(jnp.float32) / rules.temperature, rules)


def _likeliest(scaled: jax.Array, rules: Rules) -> jax.Array:
    scaled = jax.nn.log_softmax(scaled)
    ordered = jnp.sort(scaled, axis=-1, descending=True)
    kth = jnp.take(ordered, rules.top_k - 1, axis=-1)[:, None]
    before = jnp.cumsum(jnp.exp(ordered), axis=-1) - jnp.exp(ordered)  # probability of all that are likelier
    kept = jnp.where(before < rules.top_p, ordered, jnp.inf)
    smallest = jnp.minimum(kept.min(axis=-1, keepdims=True), ordered[:, :1])
    return jnp.where(scaled >= jnp.broadcast_to(jnp.maximum(kth, smallest), scaled.shape), scaled, -jnp.inf)


def draw(uniform: Float[Array, "B"], logits: Float[Array, "B V"], rules: Rules, way: Way | None = None) -> Int[Array, "B"]:
    """One character a row: the first whose cumulated probability exceeds that row's number in [0, 1); temperature 0 takes the likeliest.

    Args:
        way: that of the rules, where they are being traced.
    """
    way = way or way_of(rules, logits.shape[-1])
    if way == "likeliest":
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    allowed = allowed_logits(logits, rules) if way == "some" else logits.astype(jnp.float32) / rules.temperature
    reached = _cumulated(jnp.exp(allowed - allowed.max(axis=-1, keepdims=True)))
    return (reached <= uniform[:, None] * reached[:, -1:]).sum(axis=-1, dtype=jnp.int32)


def _cumulated(p: jax.Array) -> jax.Array:
    """Sums along the last axis. Over few characters a product with ones is quicker: XLA's CPU backend makes five fusions of a cumsum."""
    size = p.shape[-1]
    if size > FEW:
        return jnp.cumsum(p, axis=-1)
    return jnp.matmul(p, jnp.triu(jnp.ones((size, size), p.dtype)), precision=jax.lax.Precision.HIGHEST)


class Sampler:
    """Draws from a model that `rebuild(params)` makes.

    Args:
        rebuild: params -> CharGenerator.
        vocabulary: V.
        mode: "carried" or "window".
        length: of the window.
        mesh: several texts are split over its devices if they divide evenly; None for one device. It changes no draw.
    """

    def __init__(self, rebuild: Callable, vocabulary: int, mode: Mode = "carried", length: int = 40, mesh: Mesh | None = None):
        require(mode in ("carried", "window"), "mode", mode, "give carried or window")
        require(length >= 1, "length", length, "give 1 or more characters")
        self.vocabulary, self.mode, self.length, self.mesh = vocabulary, mode, length, mesh
        windows = length if mode == "window" else 1

        def first_logits(model, state, batch):
            """Of the oldest window of each text, the full one."""
            oldest = state[-1].h.reshape(batch, windows, -1)[:, 0]
            return model.logits(sharding.constrain(oldest, 0))

        @jax.jit
        def start(params, key, ids, valid):
            model = rebuild(params)
            batch = ids.shape[0]
            if mode == "window":  # row n of a text's windows reads its characters from n on
                opened = jnp.arange(length)[None, :, None] <= jnp.arange(length)[None, None, :]
                valid = (valid[:, None, :] & opened).reshape(batch * length, length)
                ids = jnp.repeat(ids, length, axis=0)
            _, state = model.hidden(sharding.constrain(ids, 0), mask=valid, deterministic=True)
            return Drawing(key, jnp.zeros((), jnp.int32), first_logits(model, state, batch), state)

        def shifted(part):
            """The oldest window is closed, and one with a zero state is opened."""
            rows = part.reshape(-1, length, part.shape[-1])
            return jnp.concatenate([rows[:, 1:], jnp.zeros_like(rows[:, :1])], axis=1).reshape(part.shape)

        @partial(jax.jit, static_argnames="samples")
        def repeat(logits, state, samples: int):
            """The one text that was read, as `samples` of them."""
            return jax.tree.map(lambda part: sharding.constrain(jnp.tile(part, (samples, 1)), 0), (logits, state))

        @partial(jax.jit, static_argnames=("chars", "way"))
        def advance(params, drawing: Drawing, rules: Rules, chars: int, way: Way):
            model = rebuild(params)

            # of all characters at once: within the loop the few random numbers of a step take longer than the step
            numbers = drawing.drawn + jnp.arange(chars, dtype=jnp.int32)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(drawing.key, numbers)
            uniform = jax.vmap(lambda key: jax.random.uniform(key, drawing.logits.shape[:1]))(keys)

            def one(drawing: Drawing, uniform):
                drawn = draw(uniform, drawing.logits, rules, way)
                state = jax.tree.map(shifted, drawing.state) if mode == "window" else drawing.state
                _, state = model.hidden(jnp.repeat(drawn, windows)[:, None], state=state, deterministic=True)
                return Drawing(drawing.key, drawing.drawn + 1, first_logits(model, state, len(drawn)), state), drawn

            drawing, drawn = jax.lax.scan(one, drawing, sharding.constrain(uniform, 1))
            return drawing, drawn.T

        self._start, self._repeat, self._advance = start, repeat, advance

    def _devices(self, batch: int) -> contextlib.AbstractContextManager:
        split = self.mesh is not None and self.mesh.size > 1 and batch % self.mesh.size == 0
        return sharding.on(self.mesh) if split and self.mesh is not None else contextlib.nullcontext()

    def start(self, params: Any, key: jax.Array, prompt: Integer[Array, "B P"], samples: int = 1) -> Drawing:
        """Read the prompts; P may be 0, then the model starts from its zero state.

        In "window" mode only the last `length` characters of a longer prompt are read, as the source's window does.

        Args:
            samples: texts that go on from a single prompt (B = 1), which is read once.

        Raises:
            InputError: if `samples` is below 1, or above 1 with several prompts.
        """
        require(samples >= 1, "samples", samples, "give 1 or more")
        require(
            samples == 1 or len(prompt) == 1, "samples", f"{samples} of {len(prompt)} prompts", "give one prompt, or one sample of each"
        )
        prompt = prompt.astype(jnp.int32)
        if self.mode == "window":
            prompt = prompt[:, max(0, prompt.shape[1] - self.length) :]
        batch, size = prompt.shape
        # padded in front, so that prompts of many sizes share a few compilations
        room = self.length if self.mode == "window" else 1 << max(0, size - 1).bit_length()
        ids = jnp.concatenate([jnp.zeros((batch, room - size), jnp.int32), prompt], axis=1)
        valid = jnp.broadcast_to(jnp.arange(room) >= room - size, ids.shape)
        with self._devices(batch):
            drawing = self._start(params, key, ids, valid)
        if samples == 1:
            return drawing
        with self._devices(samples):
            logits, state = self._repeat(drawing.logits, drawing.state, samples)
        return drawing._replace(logits=logits, state=state)

    def advance(self, params: Any, drawing: Drawing, rules: Rules, chars: int) -> tuple[Drawing, Int[Array, "B N"]]:
        """Draw `chars` characters; compiled once for each number."""
        with self._devices(drawing.logits.shape[0]):
            return self._advance(params, drawing, rules, chars, way_of(rules, self.vocabulary))

    def generate(
        self, params: Any, key: jax.Array, prompt: Integer[Array, "B P"], chars: int, rules: Rules, samples: int = 1
    ) -> Int[Array, "S N"]:
        """The drawn ids (B, chars) that go on the prompts, or (samples, chars) that go on from one; the same key gives the same ids.

        Raises:
            InputError: if `chars` is below 0; and as `start`.
        """
        require(chars >= 0, "chars", chars, "give 0 or more")
        return self.advance(params, self.start(params, key, prompt, samples), rules, chars)[1]
