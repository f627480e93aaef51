"""Text-generation task: training of a character model, and the texts and scores that a trained run gives."""

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
"""Number of characters in the figures of a run: the first ones of the held-out text, or of the training text if none is held out."""
UNITS = 12
"""Number of units in the figure of the most active units."""
CHUNK = 25
"""Number of characters that are drawn together and then shown."""

WantedMode = Literal["auto", "carried", "window"]


def load_corpus(config: GenerationConfig) -> data.Corpus:
    """Return the training text and the held-out text that a config names, as ids."""
    text = config.data
    return data.prepare_corpus(text.data, text.text_column, text.clean, text.unit, text.validation, text.unseen, text.length)


def make_model(config: GenerationConfig, vocabulary: int) -> CharGenerator:
    """Return the model with its initial weights; their random values depend only on the seed."""
    return CharGenerator(config.model, vocabulary, rngs=initial_rngs(config.train.seed))


def reading_mode(config: GenerationConfig) -> Mode:
    """Return the mode of training: "window" reads windows from a zero state, "carried" reads a stream and carries the state."""
    return "window" if config.data.regime == "windows" else "carried"


class Generation(base.Task[GenerationConfig, data.Corpus]):
    """Prediction of the next character of a text, which is read in windows or as streams."""

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
        """Whether the text is read as streams, whose state is carried from step to step."""
        return self.config.data.regime == "stream"

    def batch(self) -> Any:
        return jax.ShapeDtypeStruct((self.config.train.batch_size, self.config.data.length + 1), np.int32)

    def data_bytes(self) -> int:
        """Return the size of the training text and of the held-out windows in bytes; training windows are not stored."""
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
        """Scorer in the mode that the run is trained in."""
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
        """Write the metrics of the whole held-out text, and draw the figures if `figures` is true."""
        held_out = self.data.validation
        write_result(folder, result, self.scorer.text(result.params, held_out).metrics("validation_") if len(held_out) else {})
        if figures:
            draw_figures(folder, result, self.data, self.scorer)


def draw_figures(run: RunFolder, result: FitResult, corpus: data.Corpus, scorer: Scorer) -> None:
    """Draw the learning curves, and write two pages of text: one coloured by surprise, one by the most active hidden units.

    Args:
        run: folder of the run, which holds the figures.
        result: rows of the epochs and the trained parameters.
        corpus: the held-out text is shown, or the training text if none is held out.
        scorer: scorer of the model.
    """
    from lstm_jax.inspection import plots

    plots.learning_curves(list(result.rows), run.figures / "learning_curves.png", "Learning curves", ("bits", "accuracy"))
    held_out = len(corpus.validation) > 0
    ids = (corpus.validation if held_out else corpus.train)[:SHOWN]
    which = "held-out" if held_out else "training"
    draw_surprise(corpus.characters, ids, scorer.text(result.params, ids), run.figures / "surprise.html", f"Surprise, {which} text")
    draw_units(corpus.characters, ids, scorer.activations(result.params, ids), run.figures / "units.html", UNITS)


@dataclass(frozen=True)
class Trained(base.Trained[GenerationConfig, data.Characters]):
    """A text-generation run, loaded from its folder; `write` continues a text, `score` measures how surprising a text is."""

    kind = GenerationConfig

    @property
    def characters(self) -> data.Characters:
        """Vocabulary of characters of the run."""
        return self.own

    @staticmethod
    def _read_own(run: RunFolder) -> data.Characters:
        return data.Characters.load(run.characters)

    @staticmethod
    def _make_model(config: GenerationConfig, own: data.Characters) -> CharGenerator:
        return make_model(config, own.size)

    def encode(self, text: str | bytes, clean: bool = False, unknown: str = "") -> np.ndarray:
        """Return the ids (N,) of a text.

        Args:
            text: a string, or bytes.
            clean: whether to clean the text first, in the same way as the text of the run.
            unknown: character of the vocabulary that replaces characters outside the vocabulary. If empty, such characters raise an error.

        Raises:
            InputError: if `unknown` is empty and the text has characters outside the vocabulary, which the error names, or if `unknown` is
                not in the vocabulary.
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
        """Return `wanted`, or the mode that the run was trained in if `wanted` is "auto"."""
        return reading_mode(self.config) if wanted == "auto" else wanted

    def rules(self, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Rules:
        """Return the rules by which characters are drawn; `sampling.make_rules` explains the arguments."""
        return make_rules(self.characters.size, temperature, top_k, top_p)

    def write(
        self, prompt: np.ndarray, chars: int, rules: Rules, *, seed: int = 0, samples: int = 1, mode: WantedMode = "auto"
    ) -> Iterator[np.ndarray]:
        """Continue a prompt, and yield the ids that are drawn, chunk by chunk.

        Args:
            prompt: ids (P,). If P is 0, the text begins from a zero state. "window" mode reads only the last window of a longer prompt.
            chars: number of characters to draw for each text.
            rules: rules by which characters are drawn.
            seed: seed of the draws; the same seed gives the same ids.
            samples: number of texts.
            mode: see `mode`.

        Yields:
            ids (samples, n) of the next n characters of each text. All chunks together have `chars` characters of each text.

        Raises:
            InputError: if `chars` is below 0, `samples` is below 1, `seed` is outside 0 .. 2**32 - 1, or memory does not suffice.
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
        """Return one text per sample, joined from the chunks (`pieces`) that `write` yields."""
        drawn = np.concatenate([np.zeros((samples, 0), np.int32), *pieces], axis=1)
        return [self.characters.decode(row) for row in drawn]

    def score(self, ids: np.ndarray, mode: WantedMode = "auto") -> Scores:
        """Return the scores of characters 1 .. N - 1 of the ids (N,), each given the characters before it.

        Raises:
            InputError: if N is below 2.
        """
        return self._scorer(mode).text(self.params, ids)

    def activations(self, ids: np.ndarray) -> np.ndarray:
        """Return the output (N, H) of the last recurrent layer after each of the ids (N,), with the state carried."""
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
    """Return the ids of a text: of `text`, of the articles in `paths`, or of the run's own held-out text if neither is given.

    Args:
        trained: the run.
        paths: files and folders, as `data.read_articles` takes them; their articles are joined by spaces.
        text: a text, given instead of files.
        text_column: column or key of the text in a table.
        clean: see `Trained.encode`.
        unknown: see `Trained.encode`.
        most: largest number of ids to return, counted from the beginning; 0 returns all.

    Raises:
        InputError: if both a text and files are given; if neither is given and the run has no held-out text, or its data have changed; if a
            file cannot be read; if `Trained.encode` raises an error; if `most` is below 0.
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
        unix = trained.config.data.clean != "exact"  # the text of the run was read in the same way
        ids = trained.encode(" ".join(map(data.unix_line_ends, articles) if unix else articles), clean, unknown)
    return ids[:most] if most else ids


train, load = Generation.train, Trained.load
