"""Drawing characters: one compiled call draws them all.

Two ways. `carried`: each character is one step from the carried state. `window`: each character re-reads the last `length` characters from
a zero state, as the source does. Both start from the same prompt; where the prompt is not longer than the window they agree on the first
character. A draw is p -> log p / temperature -> softmax -> one categorical draw; temperature 0 takes the likeliest.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lstm_jax.errors import require
from lstm_jax.models import CharGenerator

Mode = Literal["carried", "window"]


class Drawing(NamedTuple):
    """What goes on from one stretch of characters to the next.

    key; logits (B, V) of the next character; state: the layers' states ("carried"), or None; recent: the last `length` ids (B, length) and
    how many of them there are ("window"), or None.
    """

    key: jax.Array
    logits: jax.Array
    state: Any
    recent: Any


class Rules(NamedTuple):
    """How a character is drawn; arrays, so that a change compiles nothing anew.

    temperature: float32 scalar, 0 for greedy; top_k: int32 scalar, only the k likeliest (V: all); top_p: float32 scalar, only the likeliest
    that together reach p (1: all; Holtzman et al. 2020). Characters as likely as the last one kept are kept too.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array


def make_rules(vocabulary: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Rules:
    """Check and build `Rules`; `top_k` 0 for all.

    Raises:
        InputError: for a temperature below 0, top_k below 0 or top_p outside (0, 1].
    """
    require(temperature >= 0, "temperature", temperature, "give 0 (always the likeliest) or more")
    require(top_k >= 0, "top_k", top_k, "give 0 (all) or more")
    require(0 < top_p <= 1, "top_p", top_p, "give a share above 0, at most 1")
    return Rules(jnp.float32(temperature), jnp.int32(min(top_k or vocabulary, vocabulary)), jnp.float32(top_p))


def allowed_logits(logits: Float[Array, "B V"], rules: Rules) -> Float[Array, "B V"]:
    """log p / temperature with what top-k and top-p exclude at -inf; temperature 0 leaves the likeliest alone."""
    logits = jax.nn.log_softmax(logits.astype(jnp.float32))
    scaled = jax.nn.log_softmax(logits / jnp.where(rules.temperature > 0, rules.temperature, 1.0))
    ordered = jnp.sort(scaled, axis=-1, descending=True)
    kth = jnp.take(ordered, rules.top_k - 1, axis=-1)[:, None]
    before = jnp.cumsum(jnp.exp(ordered), axis=-1) - jnp.exp(ordered)  # probability of all that are likelier
    kept = jnp.where(before < rules.top_p, ordered, jnp.inf)
    smallest = jnp.minimum(kept.min(axis=-1, keepdims=True), ordered[:, :1])
    floor = jnp.maximum(kth, smallest)
    floor = jnp.where(rules.temperature > 0, floor, ordered[:, :1])
    return jnp.where(scaled >= jnp.broadcast_to(floor, scaled.shape), scaled, -jnp.inf)


def draw(key: jax.Array, logits: Float[Array, "B V"], rules: Rules) -> Int[Array, "B"]:
    """One character a row."""
    allowed = allowed_logits(logits, rules)
    return jnp.where(rules.temperature > 0, jax.random.categorical(key, allowed), jnp.argmax(logits, axis=-1)).astype(jnp.int32)


def _read(model: CharGenerator, ids: jax.Array, valid: jax.Array, state=None) -> tuple[jax.Array, Any]:
    return model(ids, mask=valid, state=state, last=True, deterministic=True)


class Sampler:
    """Draws from a model that `rebuild(params)` makes.

    Args:
        rebuild: params -> CharGenerator.
        vocabulary: V.
        mode: "carried" or "window".
        length: of the window.
    """

    def __init__(self, rebuild: Callable, vocabulary: int, mode: Mode = "carried", length: int = 40):
        require(mode in ("carried", "window"), "mode", mode, "give carried or window")
        require(length >= 1, "length", length, "give 1 or more characters")
        self.vocabulary, self.mode, self.length = vocabulary, mode, length

        @jax.jit
        def start(params, key, ids, valid):
            logits, state = _read(rebuild(params), ids, valid)
            return Drawing(key, logits, state, None)

        @jax.jit
        def start_window(params, key, ids, count):
            logits, _ = _read(rebuild(params), ids, self._valid(ids, count))
            return Drawing(key, logits, None, (ids, count))

        @partial(jax.jit, static_argnames="chars")
        def advance(params, drawing: Drawing, rules: Rules, chars: int):
            model = rebuild(params)

            def one(drawing: Drawing, _):
                key, now = jax.random.split(drawing.key)
                drawn = draw(now, drawing.logits, rules)
                if self.mode == "carried":
                    logits, state = model(drawn[:, None], state=drawing.state, last=True, deterministic=True)
                    return Drawing(key, logits, state, None), drawn
                ids, count = drawing.recent
                ids = jnp.concatenate([ids[:, 1:], drawn[:, None]], axis=1)
                count = jnp.minimum(count + 1, self.length)
                logits, _ = _read(model, ids, self._valid(ids, count))
                return Drawing(key, logits, None, (ids, count)), drawn

            drawing, drawn = jax.lax.scan(one, drawing, None, length=chars)
            return drawing, drawn.T

        self._start, self._start_window, self._advance = start, start_window, advance

    def _valid(self, ids: jax.Array, count: jax.Array) -> jax.Array:
        """The last `count` of the window are real."""
        return jnp.broadcast_to(jnp.arange(self.length) >= self.length - count, ids.shape)

    def start(self, params: Any, key: jax.Array, prompt: Int[Array, "B P"]) -> Drawing:
        """Read the prompts; P may be 0, then the model starts from its zero state.

        In "window" mode only the last `length` characters of a longer prompt are read, as the source's window does.
        """
        batch, size = prompt.shape
        prompt = prompt.astype(jnp.int32)
        if self.mode == "window":
            recent = prompt[:, -self.length :] if size else prompt
            padding = jnp.zeros((batch, self.length - recent.shape[1]), jnp.int32)
            return self._start_window(params, key, jnp.concatenate([padding, recent], axis=1), jnp.int32(recent.shape[1]))
        # padded in front to a power of two, so that prompts of many sizes share a few compilations
        room = 1 << max(0, size - 1).bit_length()
        ids = jnp.concatenate([jnp.zeros((batch, room - size), jnp.int32), prompt], axis=1)
        valid = jnp.broadcast_to(jnp.arange(room) >= room - size, ids.shape)
        return self._start(params, key, ids, valid)

    def advance(self, params: Any, drawing: Drawing, rules: Rules, chars: int) -> tuple[Drawing, Int[Array, "B N"]]:
        """Draw `chars` characters; compiled once for each number."""
        return self._advance(params, drawing, rules, chars)

    def generate(self, params: Any, key: jax.Array, prompt: Int[Array, "B P"], chars: int, rules: Rules) -> Int[Array, "B N"]:
        """The drawn ids (B, chars) that go on the prompts; the same key gives the same ids.

        Raises:
            InputError: if `chars` is below 0.
        """
        require(chars >= 0, "chars", chars, "give 0 or more")
        return self.advance(params, self.start(params, key, prompt), rules, chars)[1]
