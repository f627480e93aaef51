"""Sampling of text: one compiled call draws all characters.

Two modes. `carried`: each character is one step from the carried state. `window`: each character is drawn after reading the last `length`
characters from a zero state, as the Keras example lstm_text_generation does. If the prompt is not longer than the window, both agree on the
first character. A draw is p -> log p / temperature -> softmax -> one categorical draw; temperature 0 takes the likeliest character.

A character lies in `length` windows, and the state of a window after it is one step from the state before it. The states of all open
windows are therefore kept, and a drawn character is read by all of them at once: a step over `length` rows instead of `length` steps.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Integer

from lstm_jax.bounds import Temperature, check_number
from lstm_jax.errors import require
from lstm_jax.runtime import sharding

Mode = Literal["carried", "window"]
Method = Literal["likeliest", "some", "all"]

FEW = 256
"""Most distinct characters for which cumulative sums are computed by a product."""


class Drawing(NamedTuple):
    """State between two chunks of drawn characters."""

    key: jax.Array
    drawn: jax.Array
    """int32 (): characters drawn so far."""
    logits: jax.Array
    """(B, V): logits of the next character."""
    state: Any
    """States of the layers: B rows in "carried" mode; B * length rows in "window" mode, where row b * length + n is the window of text b
    that will be full n characters from now. In a text shorter than a window the first windows all begin with the text."""


class Rules(NamedTuple):
    """Rules of a draw; arrays, so that another value compiles nothing anew (another `method_of` does).

    Characters as likely as the last one kept are kept too.
    """

    temperature: jax.Array
    """float32 (): 0 for greedy."""
    top_k: jax.Array
    """int32 (): draw from the k likeliest characters only; V for all."""
    top_p: jax.Array
    """float32 (): draw from the likeliest characters that together reach this probability; 1 for all (Holtzman et al. 2020)."""


def make_rules(vocabulary: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Rules:
    """Check the arguments and return `Rules`; `top_k` is 0 for all.

    Raises:
        InputError: for a temperature neither 0 nor from 1e-6 to 1e6, top_k below 0 or top_p outside (0, 1].
    """
    check_number("temperature", float(temperature), Temperature)
    require(top_k >= 0, "top_k", top_k, "give 0 (all) or more")
    require(0 < top_p <= 1, "top_p", top_p, "give a share above 0, at most 1")
    return Rules(jnp.float32(temperature), jnp.int32(min(top_k or vocabulary, vocabulary)), jnp.float32(top_p))


def method_of(rules: Rules, vocabulary: int) -> Method:
    """Return the method of a draw: "likeliest" at temperature 0, "some" if top-k or top-p may exclude characters, else "all"."""
    if rules.temperature == 0:
        return "likeliest"
    return "some" if rules.top_k < vocabulary or rules.top_p < 1 else "all"


def allowed_logits(logits: Float[Array, "B V"], rules: Rules) -> Float[Array, "B V"]:
    """Return log p / temperature, -inf for characters excluded by top-k and top-p; for temperatures above 0."""
    return _likeliest(logits.astype(jnp.float32) / rules.temperature, rules)


def _likeliest(scaled: jax.Array, rules: Rules) -> jax.Array:
    scaled = jax.nn.log_softmax(scaled)
    ordered = jnp.sort(scaled, axis=-1, descending=True)
    kth = jnp.take(ordered, rules.top_k - 1, axis=-1)[:, None]
    before = jnp.cumsum(jnp.exp(ordered), axis=-1) - jnp.exp(ordered)  # probability of all likelier characters
    kept = jnp.where(before < rules.top_p, ordered, jnp.inf)
    smallest = jnp.minimum(kept.min(axis=-1, keepdims=True), ordered[:, :1])
    return jnp.where(scaled >= jnp.broadcast_to(jnp.maximum(kth, smallest), scaled.shape), scaled, -jnp.inf)


def draw(uniform: Float[Array, "B"], logits: Float[Array, "B V"], rules: Rules, method: Method | None = None) -> Int[Array, "B"]:
    """Draw one character per row: the first whose cumulative probability exceeds the number of the row; temperature 0 takes the likeliest.

    Args:
        uniform: numbers in [0, 1).
        logits: logits of the characters.
        rules: temperature, top-k and top-p.
        method: see `method_of`, if the rules are being traced.
    """
    method = method or method_of(rules, logits.shape[-1])
    if method == "likeliest":
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    allowed = allowed_logits(logits, rules) if method == "some" else logits.astype(jnp.float32) / rules.temperature
    reached = _cumulated(jnp.exp(allowed - allowed.max(axis=-1, keepdims=True)))
    return (reached <= uniform[:, None] * reached[:, -1:]).sum(axis=-1, dtype=jnp.int32)


def _cumulated(p: jax.Array) -> jax.Array:
    """Return cumulative sums along the last axis.

    For few characters a product with ones is faster: the CPU backend of XLA makes five fusions of a cumsum.
    """
    size = p.shape[-1]
    if size > FEW:
        return jnp.cumsum(p, axis=-1)
    return jnp.matmul(p, jnp.triu(jnp.ones((size, size), p.dtype)), precision=jax.lax.Precision.HIGHEST)


class Sampler:
    """Sampler of text from the model `rebuild(params)`.

    Args:
        rebuild: params -> CharGenerator.
        vocabulary: number of distinct characters V.
        mode: "carried" or "window".
        length: characters of a window.
        mesh: devices that several texts are split over if they divide evenly; None for one device. It changes no draw.
    """

    def __init__(self, rebuild: Callable, vocabulary: int, mode: Mode = "carried", length: int = 40, mesh: Mesh | None = None):
        require(mode in ("carried", "window"), "mode", mode, "give carried or window")
        require(length >= 1, "length", length, "give 1 or more characters")
        self.vocabulary, self.mode, self.length, self.mesh = vocabulary, mode, length, mesh
        windows = length if mode == "window" else 1

        def first_logits(model, state, batch):
            """Return the logits of the oldest window of each text, the full one."""
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
            """Close the oldest window, and open one with a zero state."""
            rows = part.reshape(-1, length, part.shape[-1])
            return jnp.concatenate([rows[:, 1:], jnp.zeros_like(rows[:, :1])], axis=1).reshape(part.shape)

        @partial(jax.jit, static_argnames="samples")
        def repeat(logits, state, samples: int):
            """Repeat the one text that was read."""
            return jax.tree.map(lambda part: sharding.constrain(jnp.tile(part, (samples, 1)), 0), (logits, state))

        @partial(jax.jit, static_argnames=("chars", "method"))
        def advance(params, drawing: Drawing, rules: Rules, chars: int, method: Method):
            model = rebuild(params)

            # for all characters at once: inside the loop the few random numbers of a step would take longer than the step
            numbers = drawing.drawn + jnp.arange(chars, dtype=jnp.int32)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(drawing.key, numbers)
            uniform = jax.vmap(lambda key: jax.random.uniform(key, drawing.logits.shape[:1]))(keys)

            def draw_one(drawing: Drawing, uniform):
                drawn = draw(uniform, drawing.logits, rules, method)
                state = jax.tree.map(shifted, drawing.state) if mode == "window" else drawing.state
                _, state = model.hidden(jnp.repeat(drawn, windows)[:, None], state=state, deterministic=True)
                return Drawing(drawing.key, drawing.drawn + 1, first_logits(model, state, len(drawn)), state), drawn

            drawing, drawn = jax.lax.scan(draw_one, drawing, sharding.constrain(uniform, 1))
            return drawing, drawn.T

        self._start, self._repeat, self._advance = start, repeat, advance

    def _devices(self, batch: int) -> contextlib.AbstractContextManager:
        split = self.mesh is not None and self.mesh.size > 1 and batch % self.mesh.size == 0
        return sharding.on(self.mesh) if split and self.mesh is not None else contextlib.nullcontext()

    def start(self, params: Any, key: jax.Array, prompt: Integer[Array, "B P"], samples: int = 1) -> Drawing:
        """Read the prompts; if P is 0, the model starts from its zero state.

        In "window" mode only the last `length` characters of a longer prompt are read, as by the Keras example lstm_text_generation.

        Args:
            params: parameters of the model.
            key: random key of all draws.
            prompt: ids of the prompts.
            samples: texts that continue a single prompt (B = 1), which is read once.

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
        # padded at the front, so that prompts of many sizes share a few compilations
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
        """Draw `chars` characters; each number of characters is compiled once."""
        with self._devices(drawing.logits.shape[0]):
            return self._advance(params, drawing, rules, chars, method_of(rules, self.vocabulary))

    def generate(
        self, params: Any, key: jax.Array, prompt: Integer[Array, "B P"], chars: int, rules: Rules, samples: int = 1
    ) -> Int[Array, "S N"]:
        """Draw ids (B, chars) that continue the prompts, or (samples, chars) that continue one; the same key gives the same ids.

        Raises:
            InputError: if `chars` is below 0; and as `start`.
        """
        require(chars >= 0, "chars", chars, "give 0 or more")
        return self.advance(params, self.start(params, key, prompt, samples), rules, chars)[1]
