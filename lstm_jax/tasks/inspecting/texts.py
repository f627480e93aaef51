"""HTML page about a text-generation run, which shows what the trained model computes for each character of some texts.

N is the number of characters of a text, V the size of the vocabulary and E the number of input features of a character.
"""

from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.errors import require
from lstm_jax.inspection.attribution import gradient_norms, reach
from lstm_jax.inspection.window import Curve, Example, Frame, Strip, Window
from lstm_jax.tasks import corpora, generation
from lstm_jax.tasks.inspecting.common import Request, Tracer, first_of, kept_epochs

LIKELY = 6
"""Number of likeliest next characters that are shown for a step."""
READ = 20_000
"""Number of held-out characters from which the examples are chosen."""


class _Text(NamedTuple):
    """Text that the HTML page shows, as character ids with a title."""

    name: str
    """Title of the text on the page."""
    ids: np.ndarray
    """Character ids (N + 1,) of the text. The model reads the first N characters."""
    resets: np.ndarray | None = None
    """bool (N,), True where the state is replaced by zeros before the character is read. None if the state is never replaced."""


class TextNetwork:
    """Trained character model of a text-generation run, with methods that compute its results for one text.

    The model reads the text from a zero state. The methods take the parameters as an argument, so that the HTML page can show the results
    of several epochs of the training.
    """

    def __init__(self, trained: generation.Trained):
        self.rebuild, self.size = trained.rebuild, trained.characters.size
        self.trace = Tracer(trained.rebuild)

    def _logits(self, vectors: jax.Array, params: Any, resets: jax.Array | None) -> jax.Array:
        model, cuts = self.rebuild(params), None if resets is None else resets[:, None]
        hidden, _ = model.recurrent(vectors[:, None], resets=cuts, deterministic=True, time_major=True)
        return model.logits(hidden)[:, 0]

    def outputs(self, vectors: jax.Array, params: Any, following: jax.Array, resets: jax.Array | None = None) -> jax.Array:
        """Return the surprise (N,) of N characters, which is their negative log-probability in nats."""
        log_p = jax.nn.log_softmax(self._logits(vectors, params, resets))
        return -jnp.take_along_axis(log_p, following[:, None], axis=-1)[:, 0]

    @cached_property
    def log_probabilities(self) -> Any:
        """Compiled function f(vectors, params, resets) that returns the log-probabilities (N, V) of the next character."""
        return jax.jit(lambda vectors, params, resets: jax.nn.log_softmax(self._logits(vectors, params, resets)))

    @cached_property
    def vectors(self) -> Any:
        """Compiled function f(params, ids) that returns the input features (N, E) of N characters with the ids (N,)."""

        def vectors(params: Any, ids: jax.Array) -> jax.Array:
            model = self.rebuild(params)
            return jax.nn.one_hot(ids, self.size) if model.embedding is None else model.embedding(ids[:, None], 1)[:, 0]

        return jax.jit(vectors)


def text_window(trained: generation.Trained, request: Request) -> Window:
    """Return the content of the HTML page about a trained character model; see `inspecting.make_window`."""
    texts = _given(trained, request) or _chosen(trained, request)
    epochs, network = kept_epochs(trained, request.epochs), TextNetwork(trained)
    characters = trained.characters.characters
    examples = [
        Example(text.name, [characters[i] for i in text.ids[:-1]], [_frame(network, params, text, characters) for params in epochs.params])
        for text in texts
    ]
    model = trained.config.model
    about = f"{trained.run.path}: {model.cell}, {model.layers} x {model.units} units. Each text is read in one pass from a state of zeros."
    if any(text.resets is not None for text in texts):
        about += " At the beginning of each article, the state is replaced by zeros."
    return Window("Text, character by character", about, "character", epochs.numbers, epochs.shown, examples)


def _given(trained: generation.Trained, request: Request) -> list[_Text]:
    named: list[tuple[str, dict[str, Any]]] = [(f"text {n}", {"text": text}) for n, text in enumerate(request.texts, 1)]
    if request.file is not None:
        named.append((request.file.name, {"paths": (str(request.file),)}))
    found = []
    for name, where in named:
        column = request.text_column or trained.config.data.text_column
        options: dict[str, Any] = {"clean": trained.config.data.clean != "exact", "unknown": request.unknown, "most": request.chars + 1}
        ids, starts = corpora.read_text(trained, **where, text_column=column, **options)
        require(len(ids) >= 3, name, f"{len(ids)} characters", "give 3 or more")
        found.append(_Text(name, ids, None if starts is None else np.isin(np.arange(len(ids) - 1), starts)))
    return found


def _chosen(trained: generation.Trained, request: Request) -> list[_Text]:
    """Choose easy and hard parts of the held-out text, and parts of median difficulty, for the HTML page about a run."""
    held_out, articles = corpora.read_text(trained, most=READ)
    size = min(request.chars, len(held_out) - 1)
    require(size >= 2, "held-out text", f"{len(held_out)} characters", "give --text or --file")
    bits = trained.score(held_out, starts=articles).nats / np.log(2)
    starts = np.arange(0, len(held_out) - size, size)
    means = np.asarray([bits[start : start + size].mean() for start in starts])
    order = np.argsort(means, kind="stable")
    middle = order[np.argsort(np.abs(means[order] - np.median(means)), kind="stable")]
    found = {}
    for kind, ranked in {"surest": order, "most surprised": order[::-1], "median": middle}.items():
        for n in first_of(ranked, request.examples):
            name = f"{kind}: held-out text from character {starts[n]}, {means[n]:.2f} bits a character"
            resets = None if articles is None else np.isin(np.arange(starts[n], starts[n] + size), articles)
            found.setdefault(int(starts[n]), _Text(name, np.asarray(held_out[starts[n] : starts[n] + size + 1]), resets))
    return list(found.values())


def _frame(network: TextNetwork, params: Any, text: _Text, characters: tuple[str, ...]) -> Frame:
    ids, resets = text.ids.astype(np.int32), None if text.resets is None else jnp.asarray(text.resets)
    read, following = jnp.asarray(ids[:-1]), jnp.asarray(ids[1:])
    vectors = network.vectors(params, read)
    log_p = np.asarray(network.log_probabilities(vectors, params, resets), np.float64)
    bits = -log_p[np.arange(len(read)), ids[1:]] / np.log(2)
    norms = np.asarray(gradient_norms(network.outputs, vectors, params, following, resets))
    best = np.argsort(-log_p, axis=1, kind="stable")[:, :LIKELY]
    own = np.concatenate([[0.0], bits[:-1]])
    return Frame(
        f"{bits.mean():.3f} bits a character on this text.",
        Curve("surprise of the next character, bits", bits.tolist(), (0.0, float(bits.max()))),
        network.trace(params, ids[None, :-1], resets=None if resets is None else resets[None]),
        (Strip("surprise", own.tolist(), "Bits of each character, given those before it."),),
        norms,
        True,
        reach(norms).astype(float).tolist(),
        [[(characters[i], float(np.exp(row[i]))) for i in chosen] for row, chosen in zip(log_p, best, strict=True)],
    )
