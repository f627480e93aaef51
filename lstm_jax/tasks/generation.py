"""Text generation: training of a character model, and the texts and scores that a trained run gives."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from lstm_jax import data
from lstm_jax.cells import CELLS
from lstm_jax.config import GenerationConfig
from lstm_jax.errors import InputError, require
from lstm_jax.models import CharGenerator
from lstm_jax.sampling import Mode, Rules, Sampler, make_rules
from lstm_jax.tasks import base
from lstm_jax.tasks.memory import require_free
from lstm_jax.tasks.running import Run, check_own_data, initial_rngs, mesh_of, write_result
from lstm_jax.tasks.samples import sample_callback
from lstm_jax.tasks.text_examples import stream_examples, stream_objective, window_examples, window_objective
from lstm_jax.tasks.text_pages import draw_surprise, draw_units
from lstm_jax.training.callbacks import Callback
from lstm_jax.training.examples import Examples
from lstm_jax.training.loop import FitResult
from lstm_jax.training.run_folder import RunFolder
from lstm_jax.training.scoring import Scorer, Scores, bits_and_perplexity
from lstm_jax.training.step import Objective

SHOWN = 3000
"""Characters of the held-out text (else of the training text) in the figures of a run."""
UNITS = 12
"""Units in the figure of the most active ones."""
CHUNK = 25
"""Characters that are drawn before they are shown."""

WantedMode = Literal["auto", "carried", "window"]


def load_corpus(config: GenerationConfig) -> data.Corpus:
    """Return the text of a config, as ids."""
    text = config.data
    return data.prepare_corpus(text.data, text.text_column, text.clean, text.unit, text.validation, text.unseen, text.length)


def make_model(config: GenerationConfig, vocabulary: int) -> CharGenerator:
    """Return the model with its initial weights, which depend on the seed alone."""
    return CharGenerator(config.model, vocabulary, rngs=initial_rngs(config.train.seed))


def reading_mode(config: GenerationConfig) -> Mode:
    """Return how a run was trained to read: windows from a zero state, or a stream with the state carried."""
    return "window" if config.data.regime == "windows" else "carried"


class Generation(base.Task[GenerationConfig, data.Corpus]):
    """Prediction of the next character of a text, in windows or in streams."""

    flags = {  # noqa: RUF012
        "parameters": "--units, --layers or --embed",
        "residuals": "--batch-size, --length, --units or --layers, or give --remat sqrt",
        "data": "--length, or raise --step",
    }

    @classmethod
    def read(cls, config: GenerationConfig, console: Console) -> data.Corpus:
        with console.status("reading text"):
            return load_corpus(config)

    @property
    def stream(self) -> bool:
        """Whether the text is read as streams with the state carried."""
        return self.config.data.regime == "stream"

    def batch(self) -> Any:
        return jax.ShapeDtypeStruct((self.config.train.batch_size, self.config.data.length + 1), np.int32)

    def data_bytes(self) -> int:
        """Return the size of the text and of the held-out windows; training windows are cut from the text."""
        corpus, config = self.data, self.config.data
        held = 0 if self.stream else len(corpus.validation) // config.step * (config.length + 1)
        return corpus.train.nbytes + held * corpus.validation.itemsize

    def examples(self) -> Examples:
        return self._examples

    @cached_property
    def _examples(self) -> Examples:
        length, text = self.config.data.length, self.data.train
        if self.stream:
            return stream_examples(text, length, self.config.train.batch_size)
        return window_examples(text, length, self.config.data.step)

    def files(self) -> dict[str, Any]:
        return {"characters.json": self.data.characters.to_json()}

    def make_model(self) -> CharGenerator:
        return make_model(self.config, self.data.characters.size)

    def shapes(self) -> str:
        length = self.config.data.length
        return f"ids (B, {length}) -> logits (B, {f'{length}, ' if self.stream else ''}{self.data.characters.size})"

    def objective(self, rebuild: Callable) -> Objective:
        return stream_objective(rebuild) if self.stream else window_objective(rebuild)

    def carry(self, model: CharGenerator) -> Any:
        return model.initial_state(self.config.train.batch_size) if self.stream else ()

    def notes(self, run: Run) -> Iterator[str]:
        corpus, config = self.data, self.config
        copies = f", {corpus.copies} articles left out of it as copies" if corpus.copies else ""
        held = f", {len(corpus.validation):,} held out{copies}" if len(corpus.validation) else ""
        text = f"{corpus.articles:,} articles, {len(corpus.train):,} characters ({corpus.characters.size} distinct){held}"
        kind = f"chunks of {config.train.batch_size} streams" if self.stream else f"windows every {config.data.step}"
        yield f"{text}; {self._examples.count:,} {kind}; backend {run.backend}, {self.mesh.size} devices"
        yield from corpus.notes

    def callbacks(self, folder: RunFolder, console: Console) -> Sequence[Callback]:
        sampler = Sampler(self.functional.rebuild, self.data.characters.size, reading_mode(self.config), self.config.data.length)
        return (sample_callback(self.config.sample, self.data, sampler, folder.samples, console),)

    @property
    def monitor(self) -> str:
        return "validation_loss" if len(self.data.validation) else ""

    @cached_property
    def scorer(self) -> Scorer:
        """Scorer in the mode of the run."""
        return Scorer(self.functional.rebuild, self.mesh, reading_mode(self.config), self.config.data.length)

    def derive(self, row: dict[str, Any]) -> dict[str, Any]:
        return {f"train_{name}": value for name, value in bits_and_perplexity(row["train_loss"]).items()}

    def evaluate(self, params: Any) -> dict[str, Any]:
        held_out = self.data.validation
        if not len(held_out):
            return {}
        if self.stream:
            return self.scorer.text(params, held_out).metrics("validation_")
        X, Y = data.windows(held_out, self.config.data.length, self.config.data.step)
        return self.scorer.windows(params, np.column_stack([X, Y])).metrics("validation_")

    def finish(self, folder: RunFolder, result: FitResult, figures: bool) -> None:
        """Write the metrics of the whole held-out text, and draw the figures."""
        held_out = self.data.validation
        write_result(folder, result, self.scorer.text(result.params, held_out).metrics("validation_") if len(held_out) else {})
        if figures:
            draw_figures(folder, result, self.data, self.scorer)


def draw_figures(run: RunFolder, result: FitResult, corpus: data.Corpus, scorer: Scorer) -> None:
    """Draw the learning curves, and pages of the text by surprise and by its most active units, in the folder of the run."""
    from lstm_jax.inspection import plots

    plots.learning_curves(list(result.rows), run.figures / "learning_curves.png", "Learning curves", ("bits", "accuracy"))
    held_out = len(corpus.validation) > 0
    ids = (corpus.validation if held_out else corpus.train)[:SHOWN]
    which = "held-out" if held_out else "training"
    draw_surprise(corpus.characters, ids, scorer.text(result.params, ids), run.figures / "surprise.html", f"Surprise, {which} text")
    draw_units(corpus.characters, ids, scorer.activations(result.params, ids), run.figures / "units.html", UNITS)


@dataclass(frozen=True)
class Trained(base.Trained[GenerationConfig]):
    """A text-generation run read back: `write` continues a text, `score` measures how surprising a text is."""

    characters: data.Characters

    kind = GenerationConfig

    @staticmethod
    def _read_own(run: RunFolder) -> data.Characters:
        return data.Characters.load(run.characters)

    @staticmethod
    def _make_model(config: GenerationConfig, own: data.Characters) -> CharGenerator:
        return make_model(config, own.size)

    def encode(self, text: str | bytes, clean: bool = False, unknown: str = "") -> np.ndarray:
        """Return the ids (N,) of a text.

        Args:
            text: a text, or bytes.
            clean: clean it first as the text of the run was cleaned.
            unknown: a character of the run that replaces those that it does not know; empty: they are refused.

        Raises:
            InputError: naming the characters that the run does not know.
        """
        known = self.characters
        if known.unit == "byte":
            content = text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
            return known.encode(data.clean(content, self.config.data.clean) if clean else content)
        shown = text.decode(errors="surrogateescape") if isinstance(text, bytes) else text
        if clean:
            shown = data.clean(shown, self.config.data.clean)
        if unknown:
            require(unknown in known.char_to_id, "unknown", unknown, "give one character that the run knows")
            shown = shown.translate({ord(character): unknown for character in known.unknown(shown)})
        elif strange := known.unknown(shown):
            remedy = "treat the text as the run's own (--clean), or map them to a character that it knows (--unknown ' ')"
            raise InputError("characters that the run does not know", ", ".join(map(repr, strange)), remedy)
        return known.encode(shown)

    def mode(self, wanted: WantedMode = "auto") -> Mode:
        """Return `wanted`, or for "auto" the mode that the run was trained in."""
        return reading_mode(self.config) if wanted == "auto" else wanted

    def rules(self, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Rules:
        """Return the rules of a draw, see `sampling.make_rules`."""
        return make_rules(self.characters.size, temperature, top_k, top_p)

    def write(
        self, prompt: np.ndarray, chars: int, rules: Rules, *, seed: int = 0, samples: int = 1, mode: WantedMode = "auto"
    ) -> Iterator[np.ndarray]:
        """Continue the ids of a prompt (P,): yield ids (samples, n), chunk by chunk, `chars` in all.

        P may be 0; the model then begins from its zero state. In "window" mode only the last `length` ids of a longer prompt are read. The
        same seed gives the same ids.

        Raises:
            InputError: if `chars` is below 0, `samples` below 1 or `seed` outside 0 .. 2**32 - 1.
        """
        require(chars >= 0, "chars", chars, "give 0 or more")
        require(0 <= seed < 2**32, "seed", seed, "give a number from 0 to below 2**32")
        mesh, model = mesh_of(self.config), self.config.model
        windows = self.config.data.length if self.mode(mode) == "window" else 1
        row = windows * model.units * (2 * model.layers + CELLS[model.cell].gates) + self.characters.size + min(chars, CHUNK)
        require_free(4 * samples * row, mesh, f"drawing {samples} texts at once: lower --samples")
        sampler = Sampler(self.rebuild, self.characters.size, self.mode(mode), self.config.data.length, mesh)
        drawing = sampler.start(self.params, jax.random.key(seed), jnp.asarray(prompt, jnp.int32)[None], samples)
        return self._chunks(sampler, drawing, chars, rules)

    def _chunks(self, sampler: Sampler, drawing: Any, chars: int, rules: Rules) -> Iterator[np.ndarray]:
        for done in range(0, chars, CHUNK):
            drawing, drawn = sampler.advance(self.params, drawing, rules, CHUNK)
            yield np.asarray(drawn)[:, : chars - done]

    def texts(self, pieces: Iterable[np.ndarray], samples: int) -> list[str]:
        """Join what `write` yields: one text per sample."""
        drawn = np.concatenate([np.zeros((samples, 0), np.int32), *pieces], axis=1)
        return [self.characters.decode(row) for row in drawn]

    def score(self, ids: np.ndarray, mode: WantedMode = "auto") -> Scores:
        """Return the nats of characters 1 .. N - 1 of ids (N,).

        Raises:
            InputError: for fewer than two characters.
        """
        return self._scorer(mode).text(self.params, ids)

    def activations(self, ids: np.ndarray) -> np.ndarray:
        """Return the output of the last LSTM after each of ids (N,): (N, H), the state carried."""
        return self._scorer("auto").activations(self.params, ids)

    def _scorer(self, mode: WantedMode) -> Scorer:
        return Scorer(self.rebuild, mesh_of(self.config), self.mode(mode), self.config.data.length)


def read_ids(
    trained: Trained,
    paths: Sequence[str] = (),
    text: str | None = None,
    text_column: str = "",
    clean: bool = False,
    unknown: str = "",
    most: int = 0,
) -> np.ndarray:
    """Return the ids of a text, of the articles of files joined by spaces, or else of the held-out part of the run itself.

    Args:
        trained: the run.
        paths: files and folders, as `data.read_articles` takes them.
        text: a text, instead of files.
        text_column: column or key of the text in a table.
        clean: see `Trained.encode`.
        unknown: see `Trained.encode`.
        most: characters at most, from the beginning; 0 for all.

    Raises:
        InputError: for both a text and files; for a run without a held-out part, or whose data have changed; for what cannot be read or is
            unknown.
    """
    require(text is None or not paths, "text", "given with files", "give one of the two")
    require(most >= 0, "chars", most, "give 1 or more, or 0 for all")
    if text is not None:
        ids = trained.encode(text, clean, unknown)
    elif not paths:
        corpus = load_corpus(trained.config)
        check_own_data(trained.run, corpus.fingerprint)
        ids = corpus.validation
        require(len(ids) > 0, "text", "none given, and the run held none out", "name files, - for standard input, or --text")
    elif trained.characters.unit == "byte":
        ids = trained.encode(b" ".join(data.read_byte_articles(paths, text_column)), clean)
    else:
        articles = data.read_articles(paths, text_column)
        unix = trained.config.data.clean != "exact"  # as the text of the run was read
        ids = trained.encode(" ".join(map(data.unix_line_ends, articles) if unix else articles), clean, unknown)
    return ids[:most] if most else ids


train, load = Generation.train, Trained.load
