"""Text-generation task: training a character model, drawing texts from the trained model, and scoring texts with the trained model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console

from lstm_jax import data
from lstm_jax.bounds import CharactersOrNone, Count, DrawingSeed, check_number
from lstm_jax.cells import CELLS
from lstm_jax.config import GenerationConfig
from lstm_jax.errors import InputError, require
from lstm_jax.models import CharGenerator
from lstm_jax.sampling import Mode, Rules, Sampler, check_ids, check_mode, make_rules
from lstm_jax.tasks import base
from lstm_jax.tasks.corpora import load_corpus
from lstm_jax.tasks.memory import require_free
from lstm_jax.tasks.running import Run, initial_rngs, mesh_of, write_result
from lstm_jax.tasks.samples import sample_callback
from lstm_jax.tasks.text_examples import stream_examples, stream_objective, window_examples, window_objective
from lstm_jax.tasks.text_pages import draw_figures
from lstm_jax.training.callbacks import Callback
from lstm_jax.training.examples import Examples
from lstm_jax.training.loop import FitResult
from lstm_jax.training.run_folder import RunFolder
from lstm_jax.training.scoring import Scorer, Scores, bits_and_perplexity
from lstm_jax.training.step import Objective

CHUNK = 25
"""Number of characters that one compiled call draws for each text."""

WantedMode = Literal["auto", "carried", "window"]


def make_model(config: GenerationConfig, vocabulary: int) -> CharGenerator:
    """Return a new model, whose random initial weights are drawn from the seed in the config."""
    return CharGenerator(config.model, vocabulary, rngs=initial_rngs(config.train.seed))


def reading_mode(config: GenerationConfig) -> Mode:
    """Return the mode in which the model reads text during training, "window" or "carried".

    In mode "window" the model reads each window of characters from a zero state. In mode "carried" it reads a text in chunks, and carries
    its recurrent state from one chunk to the next.
    """
    return "window" if config.data.regime == "windows" else "carried"


class Generation(base.Task[GenerationConfig, data.Corpus]):
    """Task that trains a model to predict the next character of a text.

    The config selects one of two ways in which the model reads the text. In windows, the model starts each window from a zero state. In
    streams, the model carries its recurrent state from one training step to the next.
    """

    flags = {  # noqa: RUF012
        "parameters": "--units, --layers or --embed",
        "residuals": "--batch-size, --length, --units or --layers, or give --microbatches or --remat sqrt",
        "data": "--length, or raise --step",
    }

    @classmethod
    def read(cls, config: GenerationConfig, console: Console) -> data.Corpus:
        with console.status("reading text"):
            return load_corpus(config)

    @property
    def stream(self) -> bool:
        """Whether the model reads the text as streams, and carries its recurrent state from one training step to the next."""
        return self.config.data.regime == "stream"

    def batch(self) -> Any:
        size, length = self.config.train.batch_size, self.config.data.length
        ids = jax.ShapeDtypeStruct((size, length + 1), np.int32)
        return (ids, jax.ShapeDtypeStruct((size, length), np.bool_)) if self.config.data.article_resets else ids

    def data_bytes(self) -> int:
        """Return the total size in bytes of the training text and the windows of the held-out text.

        The windows of the training text are not counted, because they are never stored. If the model reads the text as streams, the
        held-out text has no windows either, and only the training text is counted.
        """
        corpus, config = self.data, self.config.data
        held = 0 if self.stream else len(corpus.validation) // config.step * (config.length + 1)
        return corpus.train.nbytes + held * corpus.validation.itemsize

    def examples(self) -> Examples:
        return self._examples

    @cached_property
    def _examples(self) -> Examples:
        length, text = self.config.data.length, self.data.train
        if self.stream:
            starts = self.data.train_starts if self.config.data.article_resets else None
            return stream_examples(text, length, self.config.train.batch_size, starts)
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
        """Scorer that reads text in the mode of the training; see `reading_mode`."""
        return Scorer(self.functional.rebuild, self.mesh, reading_mode(self.config), self.config.data.length)

    def derive(self, row: dict[str, Any]) -> dict[str, Any]:
        return {f"train_{name}": value for name, value in bits_and_perplexity(row["train_loss"]).items()}

    def evaluate(self, params: Any) -> dict[str, Any]:
        held_out = self.data.validation
        if not len(held_out):
            return {}
        if self.stream:
            return self._score_held_out(params)
        X, Y = data.windows(held_out, self.config.data.length, self.config.data.step)
        return self.scorer.windows(params, np.column_stack([X, Y])).metrics("validation_")

    def _score_held_out(self, params: Any) -> dict[str, Any]:
        starts = self.data.validation_starts if self.config.data.article_resets else None
        return self.scorer.text(params, self.data.validation, starts).metrics("validation_")

    def finish(self, folder: RunFolder, result: FitResult, figures: bool) -> None:
        """Write the number of the best epoch, the training time and the metrics of the whole held-out text to result.json.

        If `figures` is true, also draw the figures.
        """
        held_out = self.data.validation
        write_result(folder, result, self._score_held_out(result.params) if len(held_out) else {})
        if figures:
            draw_figures(folder, result, self.data, self.scorer, self.config.data.article_resets)


@dataclass(frozen=True)
class Trained(base.Trained[GenerationConfig, data.Characters]):
    """The trained model of a text-generation run, loaded from the folder of the run.

    The method `write` continues a text, and the method `score` measures how surprising a text is.
    """

    kind = GenerationConfig

    @property
    def characters(self) -> data.Characters:
        """Vocabulary of the run: its characters and their ids."""
        return self.own

    @staticmethod
    def _read_own(run: RunFolder) -> data.Characters:
        return data.Characters.load(run.characters)

    @staticmethod
    def _make_model(config: GenerationConfig, own: data.Characters) -> CharGenerator:
        return make_model(config, own.size)

    def encode(self, text: str | bytes, clean: bool = False, unknown: str = "") -> np.ndarray:
        """Return the character ids (N,) of a text with N characters.

        Args:
            text: a string, or bytes.
            clean: whether to first convert the line ends of the text and clean it, in the same way as was done with the training text of
                the run.
            unknown: character of the vocabulary that replaces each character outside the vocabulary. If empty, characters outside the
                vocabulary raise an error. The argument has no effect if the vocabulary consists of bytes, because no byte is outside it.

        Raises:
            InputError: if `unknown` is not in the vocabulary, or if `unknown` is empty and the text has characters outside the vocabulary.
                In the second case the error names these characters.
        """
        known = self.characters
        if known.unit == "byte":
            content = text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
            return known.encode(data.clean(content, self.config.data.clean) if clean else content)
        shown = text.decode(errors="surrogateescape") if isinstance(text, bytes) else text
        if clean:
            recipe = self.config.data.clean
            shown = data.clean(shown if recipe == "exact" else data.unix_line_ends(shown), recipe)
        if unknown:
            require(unknown in known.char_to_id, "unknown", unknown, "give one character that the run knows")
            shown = shown.translate({ord(character): unknown for character in known.unknown(shown)})
        elif strange := known.unknown(shown):
            cleaned, mapped = "treat the text as the run's own (clean=True, or --clean)", "(unknown=' ', or --unknown ' ')"
            remedy = f"{cleaned}, or map them to a character that it knows {mapped}"
            raise InputError("characters that the run does not know", ", ".join(map(repr, strange)), remedy)
        return known.encode(shown)

    def mode(self, wanted: WantedMode = "auto") -> Mode:
        """Return the mode in which to read text: `wanted` itself, or the mode of the training if `wanted` is "auto".

        Raises:
            InputError: if `wanted` is none of "auto", "carried" and "window".
        """
        return reading_mode(self.config) if wanted == "auto" else check_mode(wanted)

    def rules(self, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Rules:
        """Return the rules by which characters are drawn from the probabilities that the model predicts.

        `sampling.make_rules` explains the three arguments.
        """
        return make_rules(temperature=temperature, top_k=top_k, top_p=top_p)

    def write(
        self, prompt: np.ndarray, chars: int, rules: Rules, *, seed: int = 0, samples: int = 1, mode: WantedMode = "auto"
    ) -> Iterator[np.ndarray]:
        """Continue a prompt with characters drawn from the model, and yield their ids in chunks.

        Args:
            prompt: character ids (P,) of the prompt. If P is 0, the model starts from its zero state. If the prompt is longer than a
                window, the model reads only the end of the prompt in mode "window", and the whole prompt in mode "carried".
            chars: number of characters to draw for each text.
            rules: rules by which characters are drawn, as the method `rules` returns them.
            seed: seed of the random draws; the same seed gives the same ids.
            samples: number of texts to draw, all of which continue the same prompt.
            mode: "carried", "window", or "auto" for the mode of the training; see `reading_mode`.

        Yields:
            Chunks of character ids. A chunk is an array (samples, n) with the next n characters of each text. The values of n add up to
            `chars`.

        Raises:
            InputError: in one of these cases.

                - `prompt` is not an array (P,) of ids of the vocabulary.
                - `chars` is below 0, `samples` is below 1, or `seed` is outside 0 .. 2**32 - 1. The three numbers must also be ints.
                - `rules` are no `Rules`, or `mode` is unknown.
                - There is not enough memory.
        """
        prompt = self._known("prompt", prompt)
        chars, samples = check_number("chars", chars, CharactersOrNone), check_number("samples", samples, Count)
        seed = check_number("seed", seed, DrawingSeed)
        require(isinstance(rules, Rules), "rules", repr(rules), "give what the method rules returns")
        mesh, model = mesh_of(self.config), self.config.model
        windows = self.config.data.length if self.mode(mode) == "window" else 1
        row = windows * model.units * (2 * model.layers + CELLS[model.cell].gates) + self.characters.size + min(chars, CHUNK)
        require_free(4 * samples * row, mesh, f"drawing {samples} texts at once: lower --samples")
        sampler = Sampler(self.rebuild, self.characters.size, self.mode(mode), self.config.data.length, mesh)
        drawing = sampler.start(self.params, jax.random.key(seed), prompt[None], samples)
        return self._chunks(sampler, drawing, chars, rules)

    def _chunks(self, sampler: Sampler, drawing: Any, chars: int, rules: Rules) -> Iterator[np.ndarray]:
        for done in range(0, chars, CHUNK):
            drawing, drawn = sampler.advance(self.params, drawing, rules, CHUNK)
            yield np.asarray(drawn)[:, : chars - done]

    def texts(self, pieces: Iterable[np.ndarray], samples: int) -> list[str]:
        """Join the chunks of ids that `write` yields, and return a list of the drawn texts as strings.

        Args:
            pieces: the chunks.
            samples: number of texts, as given to `write`.
        """
        drawn = np.concatenate([np.zeros((samples, 0), np.int32), *pieces], axis=1)
        return [self.characters.decode(row) for row in drawn]

    def score(self, ids: np.ndarray, mode: WantedMode = "auto", starts: np.ndarray | None = None) -> Scores:
        """Compute the negative log-probability of each character of a text, given the characters before it.

        Args:
            ids: character ids (N,) of the text, as `encode` returns them.
            mode: "carried", "window", or "auto" for the mode of the training; see `reading_mode`.
            starts: positions in the text before which the recurrent state is replaced by zeros, as `corpora.read_text` returns them. They
                are ignored in mode "window".

        Returns:
            The scores of the last N - 1 characters. The first character has no score, because no character precedes it.

        Raises:
            InputError: if N is below 2, if `ids` is not an array (N,) of ids of the vocabulary, or if `mode` is unknown.
        """
        return self._scorer(mode).text(self.params, self._known("ids", ids), starts)

    def activations(self, ids: np.ndarray, starts: np.ndarray | None = None) -> np.ndarray:
        """Return the outputs of the last recurrent layer after each character of a text.

        The model reads the text once, and the recurrent state is carried from each character to the next.

        Args:
            ids: character ids (N,) of the text, as `encode` returns them.
            starts: positions in the text before which the recurrent state is replaced by zeros, as `corpora.read_text` returns them.

        Returns:
            An array (N, H), where H is the number of hidden units.

        Raises:
            InputError: if `ids` is not an array (N,) of ids of the vocabulary, or if N is 0.
        """
        return self._scorer("auto").activations(self.params, self._known("ids", ids), starts)

    def _scorer(self, mode: WantedMode) -> Scorer:
        return Scorer(self.rebuild, mesh_of(self.config), self.mode(mode), self.config.data.length)

    def _known(self, name: str, ids: Any) -> np.ndarray:
        require(not isinstance(ids, str | bytes), name, repr(ids), "encode it first, with the method encode of the trained run")
        return check_ids(name, ids, self.characters.size)


train, load = Generation.train, Trained.load
