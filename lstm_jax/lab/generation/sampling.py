"""Sampling of text from a character model: one compiled call draws all characters.

The sampler has two modes:

- "carried": the model reads the prompt before the first draw. It keeps its state, and
  then reads only the character that was drawn last.
- "window": before each draw, the model starts from its initial state and reads the last
  `length` characters of the text, as in the Keras example lstm_text_generation.

If the prompt has at most `length` characters, both modes draw the same first character.

A character is drawn from softmax(log p / temperature), where p are the model's
probabilities. At temperature 0 the likeliest character is drawn.

In mode "window" the windows of successive draws overlap. The sampler keeps one state of
the model for the window of each of the next `length` draws, as the rows of a batch, and
one step reads a new character into all of them. With `length` 3 and the text "abc", for
example, the windows hold "abc", "bc" and "c" so far. If "d" is drawn, the window "abc"
is dropped, an empty window is added, and one step advances the three to "bcd", "cd" and
"d".

B is the number of texts and V the number of distinct characters (the vocabulary size).
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Integer
from numpy import ndarray

from lstm_jax.base import sharding
from lstm_jax.base.checks import Count, CountOrNone, check_number, checked
from lstm_jax.base.errors import require
from lstm_jax.lab.generation.config import Temperature, TopP
from lstm_jax.recurrence import clipped_int32, of_kinds

Mode = Literal["carried", "window"]
Method = Literal["likeliest", "some", "all"]
Logits = Float[Array, "B V"]
Prompts = Integer[Array | ndarray, "B P"]

FEW = 256
"""Largest vocabulary size for which cumulative sums are computed as a matrix product.
"""


class Drawing(NamedTuple):
    """State of the sampler between two draws, for B texts and a vocabulary of V
    characters.

    `Sampler.start` makes the first state. `Sampler.advance` takes a state, draws
    characters, and returns the next state.
    """

    key: Array
    """Random key of all draws."""
    drawn: Array
    """int32 (): number of characters drawn so far for each text."""
    logits: Array
    """(B, V): logits of the next character of each text."""
    state: Any
    """List of the states of the recurrent layers.

    In mode "carried", a state has one row per text. In mode "window", a state has one
    row for each of the next `length` draws of each text. Row b * length belongs to the
    window of the next draw of text b, and row b * length + n to the window of the draw
    that follows n draws later. If a text is shorter than `length`, several windows
    begin at its start."""


class Rules(NamedTuple):
    """Temperature, top-k and top-p with which a character is drawn.

    The values are arrays. Therefore new values do not recompile the sampler, unless
    they change the result of `method_of`. If several characters have the same
    probability and top-k or top-p keeps one of them, all of them are kept.
    """

    temperature: Array
    """float32 (): the temperature. If 0, the likeliest character is drawn."""
    top_k: Array
    """int32 (): number of the likeliest characters to draw from. If it is 0, or at
    least V, no character is excluded."""
    top_p: Array
    """float32 (): a character is drawn from the n likeliest characters, where n is the
    smallest number for which their total probability is at least this value (nucleus
    sampling, Holtzman et al. 2020). If 1, no character is excluded."""


def check_tokens(name: str, ids, vocabulary: int | None = None, axes: int = 1) -> Any:
    """Return character ids as a NumPy array of ints of at most 32 bits, after checking
    them. `name` stands for them in errors.

    The values of a tracer are not checked. Without a `vocabulary` size V, no values are
    checked, and ids beyond int32 are clipped to its range.

    Raises:
        InputError: if `ids` are not ints, do not have `axes` axes, or contain an id
            outside 0 .. V - 1.
    """
    array = of_kinds(
        name,
        np.zeros(0, np.int32) if isinstance(ids, list) and not ids else ids,
        (jnp.integer,),
        "give ints",
    )
    require(
        array.ndim == axes,
        name,
        f"shape {array.shape}",
        "give one axis" if axes == 1 else f"give {axes} axes",
    )
    if isinstance(array, Tracer):
        return clipped_int32(array)
    array = np.asarray(array)
    if vocabulary is not None and array.size:
        for value in (array.min(), array.max()):
            require(
                0 <= value < vocabulary, name, value, f"ids are 0 to {vocabulary - 1}"
            )
    return clipped_int32(array) if array.dtype.itemsize >= 4 else array


def make_rules(
    *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Rules:
    """Return `Rules`, which explain the arguments and suit models of every vocabulary.

    Raises:
        InputError: if `temperature` is neither 0 nor between 1e-6 and 1e6, `top_k` is
            no int or is below 0, or `top_p` is not in (0, 1].
    """
    temperature = check_number("temperature", temperature, Temperature)
    top_k = check_number("top_k", top_k, CountOrNone)
    top_p = check_number("top_p", top_p, TopP)
    return Rules(jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p))


def method_of(rules: Rules, vocabulary: int) -> Method:
    """Return the method of drawing: "likeliest" at temperature 0, "some" if top-k or
    top-p may exclude characters, else "all".

    The rules must be concrete arrays, not tracers of `jax.jit`.
    """
    if rules.temperature == 0:
        return "likeliest"
    return "some" if 0 < rules.top_k < vocabulary or rules.top_p < 1 else "all"


def allowed_logits(logits: Logits, rules: Rules) -> Logits:
    """Return the log-probabilities of the characters, with -inf for each character that
    top-k or top-p excludes.

    The log-probabilities are log_softmax(logits / temperature), and are not normalised
    again after the exclusion. The temperature must be above 0.
    """
    scaled = logits.astype(jnp.float32) / rules.temperature
    # logits are compared, not log-probabilities, whose rounding makes different
    # characters equal at a high temperature
    ordered = jnp.sort(scaled, axis=-1, descending=True)
    rank = jnp.arange(scaled.shape[-1])[None]
    p = jax.nn.softmax(ordered)
    # probability of all likelier characters; rounding lets it reach 1
    before = jnp.cumsum(p, axis=-1) - p
    # the smallest top-p is 0 in float32
    likely = (before < rules.top_p) | (rules.top_p >= 1) | (rank == 0)
    kept = likely & ((rank < rules.top_k) | (rules.top_k == 0))
    bound = jnp.where(kept, ordered, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(scaled >= bound, jax.nn.log_softmax(scaled), -jnp.inf)


def draw(
    uniform: Float[Array, "B"],
    logits: Logits,
    rules: Rules,
    method: Method | None = None,
) -> Int[Array, "B"]:
    """Draw one character per row by inversion of the cumulative distribution.

    In each row, the result is the first character whose cumulative probability exceeds
    the random number in `uniform`, which is in [0, 1). The method is "likeliest" (the
    likeliest character), "some" (respect top-k and top-p) or "all" (ignore them); None
    means `method_of`.
    """
    method = method or method_of(rules, logits.shape[-1])
    if method == "likeliest":
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    allowed = (
        allowed_logits(logits, rules)
        if method == "some"
        else logits.astype(jnp.float32) / rules.temperature
    )
    weights = jnp.exp(allowed - allowed.max(axis=-1, keepdims=True))
    size = weights.shape[-1]
    if size <= FEW:
        reached = jnp.matmul(
            weights,
            jnp.triu(jnp.ones((size, size), weights.dtype)),
            precision=lax.Precision.HIGHEST,
        )
    else:
        reached = jnp.cumsum(weights, axis=-1)
    below = reached <= uniform[:, None] * reached[:, -1:]
    if size <= FEW:
        return below.sum(axis=-1, dtype=jnp.int32)
    # rounding errors of `jnp.cumsum` make the sums grow at characters of weight 0, too
    possible = weights > 0
    last = size - 1 - jnp.argmax(possible[:, ::-1], axis=-1)
    found = possible & ~below
    return jnp.where(found.any(axis=-1), jnp.argmax(found, axis=-1), last).astype(
        jnp.int32
    )


class Sampler:
    """Sampler of text from a character model.

    Args:
        rebuild: function that takes parameters and returns a `CharGenerator`.
        vocabulary: vocabulary size V.
        mode: "carried" or "window"; see the module.
        length: number of characters that the model reads before each draw in mode
            "window".
        mesh: device mesh over which the texts are sharded if their number is divisible
            by the number of devices. The drawn characters do not depend on it.

    Raises:
        InputError: if `mode` or `length` is not as described.
    """

    def __init__(
        self,
        rebuild: Callable,
        vocabulary: int,
        mode: Mode = "carried",
        length: int = 40,
        mesh: Mesh | None = None,
    ):
        mode = checked("mode", mode, Mode)
        length = check_number("length", length, Count)
        self.vocabulary = vocabulary
        self.mode = mode
        self.length = length
        self.mesh = mesh
        windows = length if mode == "window" else 1

        def read(model, ids, **options):
            """Return the logits and the state of the model after it has read ids."""
            _, state = model.hidden(ids, deterministic=True, **options)
            h = state[-1].h
            return model.logits(
                sharding.constrain(h.reshape(-1, windows, h.shape[-1])[:, 0], 0)
            ), state

        @partial(jax.jit, static_argnames="samples")
        def start(params, key, ids, valid, samples: int):
            room = ids.shape[1]
            # window n of a text skips the first n characters
            opened = (
                jnp.arange(windows)[None, :, None] <= jnp.arange(room)[None, None, :]
            )
            valid = (valid[:, None, :] & opened).reshape(-1, room)
            found = read(
                rebuild(params),
                sharding.constrain(jnp.repeat(ids, windows, axis=0), 0),
                mask=valid,
            )
            found = jax.tree.map(
                lambda part: sharding.constrain(jnp.tile(part, (samples, 1)), 0), found
            )
            return Drawing(key, jnp.zeros((), jnp.int32), *found)

        def shifted(part, initial):
            rows = part.reshape(-1, length, part.shape[-1])
            opened = jnp.broadcast_to(
                initial[None].astype(rows.dtype), (len(rows), 1, rows.shape[-1])
            )
            return jnp.concatenate([rows[:, 1:], opened], axis=1).reshape(part.shape)

        @partial(jax.jit, static_argnames=("chars", "method"))
        def advance(params, drawing: Drawing, rules: Rules, chars: int, method: Method):
            model = rebuild(params)

            # all random numbers are drawn before the loop: drawing the few numbers of
            # one step inside it would take longer than the step
            numbers = drawing.drawn + jnp.arange(chars, dtype=jnp.int32)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(drawing.key, numbers)
            uniform = jax.vmap(
                lambda key: jax.random.uniform(key, drawing.logits.shape[:1])
            )(keys)

            def draw_one(drawing: Drawing, uniform):
                drawn = draw(uniform, drawing.logits, rules, method)
                state = (
                    jax.tree.map(shifted, drawing.state, model.initial_state(1))
                    if mode == "window"
                    else drawing.state
                )
                after = read(model, jnp.repeat(drawn, windows)[:, None], state=state)
                return Drawing(drawing.key, drawing.drawn + 1, *after), drawn

            drawing, drawn = lax.scan(draw_one, drawing, sharding.constrain(uniform, 1))
            return drawing, drawn.T

        self._start, self._advance = start, advance

    def _devices(self, batch: int) -> contextlib.AbstractContextManager:
        if self.mesh is None or self.mesh.size == 1 or batch % self.mesh.size:
            return contextlib.nullcontext()
        return sharding.on(self.mesh)

    def start(self, params, key: Array, prompt: Prompts, samples: int = 1) -> Drawing:
        """Read the prompts and return the state from which `advance` draws characters.

        `prompt` holds the character ids (B, P) of B prompts of the same length P. If P
        is 0, the first character is drawn from the model's initial state. `samples`
        texts are drawn for each prompt, more than one only if there is a single prompt.

        Raises:
            InputError: if `prompt` or `samples` is not as described.
        """
        samples = check_number("samples", samples, Count)
        prompt = check_tokens("prompt", prompt, self.vocabulary, axes=2)
        batch, size = prompt.shape
        require(
            batch >= 1, "prompt", f"shape {prompt.shape}", "give one prompt or more"
        )
        require(
            1 in (samples, batch),
            "samples",
            f"{samples} of {batch} prompts",
            "give one prompt, or one sample of each",
        )
        # prompts are padded at the front, so that prompts of different lengths need
        # only a few compilations
        room = (
            self.length if self.mode == "window" else 1 << max(0, size - 1).bit_length()
        )
        missing = max(0, room - size)
        ids = jnp.pad(jnp.asarray(prompt, jnp.int32), ((0, 0), (missing, 0)))[:, -room:]
        valid = jnp.broadcast_to(jnp.arange(room) >= missing, ids.shape)
        with self._devices(batch * samples):
            return self._start(params, key, ids, valid, samples)

    def advance(
        self, params, drawing: Drawing, rules: Rules, chars: int
    ) -> tuple[Drawing, Int[Array, "B N"]]:
        """Draw the next characters of each of B texts, and return the new state and the
        character ids (B, chars).

        The first call with a given number of characters compiles a program for this
        number.
        """
        with self._devices(drawing.logits.shape[0]):
            return self._advance(
                params, drawing, rules, chars, method_of(rules, self.vocabulary)
            )

    def generate(
        self,
        params,
        key: Array,
        prompt: Prompts,
        chars: int,
        rules: Rules,
        samples: int = 1,
    ) -> Int[Array, "S N"]:
        """Draw the ids (B, chars) of characters that continue each of B prompts, or
        (samples, chars) if there is a single prompt.

        `start` and `advance` describe the arguments and errors. The same key gives the
        same characters.
        """
        chars = check_number("chars", chars, CountOrNone)
        return self.advance(
            params, self.start(params, key, prompt, samples), rules, chars
        )[1]
