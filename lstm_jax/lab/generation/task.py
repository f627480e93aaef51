"""Text-generation task: training a character model, drawing texts from the trained
model, and scoring texts with the trained model.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from numpy import ndarray

from lstm_jax import convert
from lstm_jax.base.checks import (
    MOST,
    Count,
    CountOrNone,
    Seed,
    check_number,
    checked,
    frozen,
)
from lstm_jax.base.errors import InputError, parsing, require
from lstm_jax.base.types import Values
from lstm_jax.base.writing import write_atomically
from lstm_jax.cells import CELLS
from lstm_jax.lab import task as base
from lstm_jax.lab.config import flatten
from lstm_jax.lab.files.mapped import MappedIds
from lstm_jax.lab.files.shuffled import shuffled
from lstm_jax.lab.files.text import counted
from lstm_jax.lab.generation import data
from lstm_jax.lab.generation.config import GenerationConfig, WantedMode
from lstm_jax.lab.generation.data import Characters, Corpus
from lstm_jax.lab.generation.data.characters import UNKNOWN
from lstm_jax.lab.generation.data.corpus import article_starts, cleaned_articles
from lstm_jax.lab.generation.model import CharGenerator
from lstm_jax.lab.generation.sampling import (
    Mode,
    Rules,
    Sampler,
    check_tokens,
    make_rules,
)
from lstm_jax.lab.generation.scores import Scorer, Scores, bits_and_perplexity
from lstm_jax.lab.machine.console import say
from lstm_jax.lab.task import Metrics, initial_rngs, require_free
from lstm_jax.training.examples import Examples, Plan, order_of, permuted
from lstm_jax.training.step import Objective

CHUNK = 25
"""Number of characters that one compiled call draws for each text."""
SHOWN = 3000
"""Number of characters that the HTML pages of a run show. They are the first characters
of the held-out text, or of the training text if no text is held out."""
UNITS = 12
"""Number of hidden units in the HTML page of the most active hidden units."""


def make_model(config: GenerationConfig, vocabulary: int) -> CharGenerator:
    """Return a new model, whose random initial weights are drawn from the seed in the
    config.
    """
    return CharGenerator(config.model, vocabulary, rngs=initial_rngs(config.train.seed))


def load_corpus(config: GenerationConfig) -> Corpus:
    """Load the corpus that a config names: a training text and a held-out text, both as
    character ids.
    """
    text = config.data
    if text.input == "stream":
        return data.sharded_corpus(
            text.data[0], text.clean, text.unit, text.validation, text.length
        )
    corpus = data.prepare_corpus(
        text.data,
        text.text_column,
        text.clean,
        text.unit,
        text.validation,
        text.unseen,
        text.length,
        text.num_words,
        text.validation_data,
    )
    if not text.article_resets:
        return corpus
    starts = b"|".join(
        own.tobytes() for own in (corpus.train_starts, corpus.validation_starts)
    )
    return replace(
        corpus, fingerprint=f"{corpus.fingerprint} {hashlib.sha256(starts).hexdigest()}"
    )


def noun_of(config: GenerationConfig) -> str:
    """Return what the model predicts: "character" or "word"."""
    return "word" if config.data.unit == "word" else "character"


def reading_mode(config: GenerationConfig) -> Mode:
    """Return the mode in which the model reads text during training: "window" or
    "carried"; see `sampling`.
    """
    return "window" if config.data.regime == "windows" else "carried"


def _gather(length: int, step: int) -> Callable[[Any, Any], Any]:
    def gather(text, numbers):
        positions = (numbers * step)[:, None] + np.arange(
            length + 1, dtype=numbers.dtype
        )[None, :]
        return text.take(positions, mode="clip").astype(np.int32)

    return gather


def window_examples(text: ndarray | MappedIds, length: int, step: int) -> Examples:
    """Return the training examples of a text that is read in windows. Each epoch reads
    the windows in random order.
    """
    count = data.some_windows(len(text), length, step)
    streamed = _is_streamed(text)
    return Examples(
        text, count, _gather(length, step), shuffled if streamed else permuted, streamed
    )


def streams(key: Array, count: int, batch_size: int, length: int) -> Plan:
    """Return a function that gives the order in which a text is read in parallel
    streams; see `data.stream_chunks`.
    """
    steps, shift = count // batch_size, int(jax.random.randint(key, (), 0, length))

    def plan(first, stop):
        chunks = (
            np.arange(batch_size, dtype=np.int64) * steps
            + np.arange(first, stop, dtype=np.int64)[:, None]
        )
        return order_of(np, chunks * length + shift, chunks.size, first)

    return plan


def stream_examples(
    text: ndarray | MappedIds,
    length: int,
    batch: int,
    starts: ndarray | None = None,
    noun: str = "character",
) -> Examples:
    """Return the training examples of a text that is read as streams."""
    # the random shift is at most length - 1, and the last chunk needs one more
    # character as target
    needed = (batch + 1) * length
    remedy = (
        f"{batch} streams of {length} {noun}s need {needed}: give more text, a "
        "smaller batch or length"
    )
    require(len(text) >= needed, "text", f"{len(text)} {noun}s", remedy)
    count = (len(text) - length) // (length * batch) * batch
    plan = partial(streams, length=length)
    streamed = _is_streamed(text)
    gather = _gather(length, 1)

    def gather_both(arrays, numbers):
        ids, resets = arrays
        return gather(ids, numbers), gather(resets, numbers)[:, :-1] > 0

    if starts is None:
        return Examples(text, count, gather, plan, streamed)
    require(
        not streamed,
        "article_resets",
        True,
        "shards hold no beginnings of articles: read the text with input memory",
    )
    flags = np.zeros(len(text), bool)
    flags[starts] = True
    return Examples((text, flags), count, gather_both, plan)


def _is_streamed(text: ndarray | MappedIds) -> bool:
    # else a training step computes positions in int32
    streamed = isinstance(text, MappedIds)
    remedy = (
        f"at most {MOST} fit in memory: write shards with lstm-jax data shard, "
        "and read them with --input stream"
    )
    require(streamed or len(text) <= MOST, "text", f"{len(text)} characters", remedy)
    return streamed


def _metrics(
    logits: Array, targets: Array, weight: Array
) -> tuple[Array, dict[str, Array]]:
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    # right is a target that is the first of the largest; over many words XLA computes
    # this much faster than argmax
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    earlier = (
        lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
        < targets[..., None]
    )
    correct = (
        jnp.where(earlier, logits < chosen, logits <= chosen).all(-1).astype(nats.dtype)
    )
    loss, accuracy = (
        (metric.reshape(len(weight), -1).mean(1) * weight).sum()
        for metric in (nats, correct)
    )
    return loss, {"loss": loss, "accuracy": accuracy}


def window_objective(rebuild: Callable) -> Objective:
    """Return the training objective for windows: the cross-entropy, in nats, of the
    character after each window.
    """

    def objective(params, ids, weight, key):
        logits, _ = rebuild(params)(
            ids[:, :-1], last=True, deterministic=False, rngs=key
        )
        return _metrics(logits, ids[:, -1], weight)

    return objective


def stream_objective(rebuild: Callable) -> Objective:
    """Return the training objective for streams: the mean cross-entropy, in nats, of
    each character given those before it.
    """

    def objective(params, batch, weight, key, state):
        model = rebuild(params)
        ids, resets = batch if isinstance(batch, tuple) else (batch, None)
        h, state = model.hidden(
            ids[:, :-1], resets=resets, state=state, deterministic=False, rngs=key
        )
        # with one axis for all steps, XLA need not transpose the gradient of the logits
        logits = model.logits(jnp.swapaxes(h, 0, 1).reshape(-1, h.shape[-1]))
        loss, metrics = _metrics(logits, ids[:, 1:].ravel(), weight)
        return loss, (metrics, state)

    return objective


class Generation(base.Task[GenerationConfig, Corpus]):
    """Task that trains a model to predict the next character of a text, which it reads
    in windows or as streams; see `text_examples`.
    """

    curves = ("bits", "accuracy")
    flags = {  # noqa: RUF012
        "parameters": "--units, --layers or --embed",
        "residuals": (
            "--batch-size, --length, --units or --layers, or give --microbatches "
            "or --remat sqrt"
        ),
        "data": "--length, or raise --step",
    }

    @classmethod
    def read(cls, config, console):
        with console.status("reading text"):
            return load_corpus(config)

    @property
    def stream(self) -> bool:
        """Whether the model reads the text as streams, and carries its recurrent state
        from one training step to the next.
        """
        return self.config.data.regime == "stream"

    def batch(self):
        size, length = self.config.train.batch_size, self.config.data.length
        ids = jax.ShapeDtypeStruct((size, length + 1), np.int32)
        if self.config.data.article_resets:
            return (ids, jax.ShapeDtypeStruct((size, length), np.bool_))
        return ids

    def data_bytes(self):
        # windows of the training text are never stored
        corpus, config = self.data, self.config.data
        held = (
            0
            if self.stream
            else len(corpus.validation) // config.step * (config.length + 1)
        )
        return corpus.train.nbytes + held * corpus.validation.itemsize

    def examples(self):
        length, (text, starts) = self.config.data.length, self.split("train")
        if self.stream:
            return stream_examples(
                text, length, self.config.train.batch_size, starts, self.noun
            )
        return window_examples(text, length, self.config.data.step)

    @property
    def noun(self) -> str:
        return noun_of(self.config)

    def split(self, name: str) -> "ReadText":
        return ReadText(
            getattr(self.data, name),
            getattr(self.data, f"{name}_starts")
            if self.config.data.article_resets
            else None,
        )

    def files(self):
        return {"characters.json": self.data.characters.to_json()}

    def make_model(self):
        return make_model(self.config, self.data.characters.size)

    def shapes(self):
        length = self.config.data.length
        return (
            f"ids (B, {length}) -> logits (B, "
            f"{f'{length}, ' if self.stream else ''}{self.data.characters.size})"
        )

    def objective(self, rebuild):
        return stream_objective(rebuild) if self.stream else window_objective(rebuild)

    def carry(self, model):
        return model.initial_state(self.config.train.batch_size) if self.stream else ()

    def notes(self, start):
        corpus, config = self.data, self.config
        copies = (
            f", {counted(corpus.copies, 'article')} left out of it as copies"
            if corpus.copies
            else ""
        )
        held = (
            f", {len(corpus.validation):,} held out{copies}"
            if len(corpus.validation)
            else ""
        )
        text = (
            f"{counted(corpus.articles, 'article')}, {len(corpus.train):,} "
            f"{self.noun}s ({corpus.characters.size} distinct){held}"
        )
        kind = (
            f"chunks of {config.train.batch_size} streams"
            if self.stream
            else f"windows every {config.data.step}"
        )
        yield (
            f"{text}; {start.examples:,} {kind}; backend {start.backend}, "
            f"{counted(self.mesh.size, 'device')}"
        )
        yield from corpus.notes

    def callbacks(self, run, console):
        config, corpus, mode = self.config.sample, self.data, reading_mode(self.config)
        sampler = Sampler(
            self.functional.rebuild,
            corpus.characters.size,
            mode,
            self.config.data.length,
        )
        # of a larger text, the prompt is from the part that int32 can index
        whole = min(len(corpus.train), MOST)
        size = min(config.sample_prompt, whole)

        def sample(record):
            begin_key, draw_key = jax.random.split(
                jax.random.fold_in(jax.random.key(record.seed), record.epoch)
            )
            begin = int(jax.random.randint(begin_key, (), 0, whole - size + 1))
            prompt = corpus.train[begin : begin + size]
            # sharded parameters are gathered first, because a step for a single text is
            # too small to pay for communication between devices
            params = jax.tree.map(np.asarray, record.params)
            # later epochs are trained again
            rows = [
                row for row in read_samples(run.samples) if row["epoch"] < record.epoch
            ]
            for number, temperature in enumerate(config.sample_temperatures):
                key = jax.random.fold_in(draw_key, number)
                rules = make_rules(temperature=temperature)
                drawn = sampler.generate(
                    params, key, prompt[None], config.sample_chars, rules
                )
                texts = {
                    "prompt": corpus.characters.decode(prompt),
                    "text": corpus.characters.decode(
                        np.asarray(drawn[0]), last_of(prompt)
                    ),
                }
                say(
                    console,
                    f"  temperature {temperature:g}: prompt "
                    f"{texts['prompt']!r}\n{texts['text']}",
                )
                rows.append(
                    {
                        "epoch": record.epoch,
                        "seed": record.seed,
                        "temperature": temperature,
                        "mode": mode,
                    }
                    | texts
                )
            write_atomically(
                run.samples,
                "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
            )

        return (sample,) if config.sample_chars and config.sample_temperatures else ()

    @property
    def monitor(self):
        return "validation_loss" if len(self.data.validation) else ""

    @cached_property
    def scorer(self) -> Scorer:
        """Scorer that reads text in the mode of the training; see `reading_mode`."""
        return Scorer(
            self.functional.rebuild,
            self.mesh,
            reading_mode(self.config),
            self.config.data.length,
        )

    def derive(self, row):
        return flatten(bits_and_perplexity(row["train_loss"]), "train_")

    def evaluate(self, params):
        if self.stream or not self.monitor:
            return self._score_held_out(params)
        windows = np.column_stack(
            data.windows(
                self.data.validation, self.config.data.length, self.config.data.step
            )
        )
        return self.scorer.windows(params, windows).metrics("validation_")

    def _score_held_out(self, params) -> Metrics:
        if self.monitor:
            return self.scorer.text(params, *self.split("validation")).metrics(
                "validation_"
            )
        return {}

    def results(self, run, params):
        """Return the metrics of the whole held-out text, and a function that draws the
        pages of coloured text.
        """

        def draw():
            ids, starts = self.split("validation" if self.monitor else "train")
            read, characters = (params, ids[:SHOWN], starts), self.data.characters
            title = f"Surprise, {'held-out' if self.monitor else 'training'} text"
            draw_surprise(
                characters,
                read[1],
                self.scorer.text(*read),
                run.figures / "surprise.html",
                title,
            )
            draw_units(
                characters,
                read[1],
                self.scorer.activations(*read),
                run.figures / "units.html",
                UNITS,
            )

        return self._score_held_out(params), draw


def read_samples(path: Path) -> list[Values]:
    """Return the texts that a run has drawn so far, as stored in its file
    samples.jsonl.
    """
    if not path.exists():
        return []
    with parsing(f"samples {path}", "move the file away"):
        # a text may contain other line endings (U+2028)
        rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
        for row in rows:
            index(row["epoch"])
    return rows


def draw_surprise(
    characters: Characters,
    ids: ndarray,
    scores: Scores,
    path: Path,
    title: str,
    force: bool = True,
) -> None:
    """Write an HTML page that shows a text, with each character coloured by its
    surprise in bits; see `text_map.surprise_page`.
    """
    from lstm_jax.lab.inspection import text_map

    text_map.surprise_page(
        characters.pieces(ids), scores.nats / np.log(2), path, title, force
    )


def draw_units(
    characters: Characters,
    ids: ndarray,
    activations: ndarray,
    path: Path,
    count: int,
    force: bool = True,
) -> None:
    """Write an HTML page that shows a text once for each of the `count` most active
    hidden units; see `text_map.units_page`.
    """
    from lstm_jax.lab.inspection import text_map

    require(count >= 1, "count", count, "give 1 unit or more")
    units = text_map.most_active(activations, count)
    title = f"The {len(units)} most active of {activations.shape[1]} units"
    text_map.units_page(characters.pieces(ids), activations, units, path, title, force)


def last_of(ids: ndarray) -> int | None:
    """Return the last of some ids, or None if there are none."""
    return int(ids[-1]) if len(ids) else None


class ReadText(NamedTuple):
    """Text that a trained model is to read."""

    ids: ndarray
    """Ids (N,) of the characters."""
    starts: ndarray | None
    """Positions at which the articles begin. None if the config does not reset the
    state there (`article_resets`)."""


@frozen
class Trained(base.Trained[GenerationConfig, Characters]):
    """The trained model of a text-generation run, loaded from the folder of the run.

    The method `write` continues a text, and the method `score` measures how surprising
    a text is.
    """

    kind = GenerationConfig

    @property
    def characters(self) -> Characters:
        """Vocabulary of the run: its characters and their ids."""
        return self.own

    @staticmethod
    def _open(run, config):
        characters = Characters.load(run.characters)
        return characters, make_model(config, characters.size)

    def network(self):
        from lstm_jax.lab.generation.page import TextNetwork

        return TextNetwork(self)

    def to_onnx(self):
        data = self.config.data
        settings = {
            "mode": reading_mode(self.config),
            "length": data.length,
            "clean": data.clean,
        }
        return self._to_onnx(convert.generation_to_onnx, settings)

    def encode(
        self, text: str | bytes, clean: bool = False, unknown: str = ""
    ) -> ndarray:
        """Return the character ids (N,) of a text with N characters.

        Args:
            text: a string, or bytes.
            clean: whether to first convert the line ends of the text and clean it, as
                was done with the training text.
            unknown: character of the vocabulary that replaces each character outside
                it. If empty, such characters raise an error.

        Raises:
            InputError: if `unknown` is not in the vocabulary, or if `unknown` is empty
                and the text has characters outside the vocabulary.
        """
        known = self.characters
        require(
            not unknown or known.unit != "word",
            "unknown",
            unknown,
            f"words that the run does not know are {UNKNOWN}: leave it out",
        )
        if known.unit == "byte":
            content = (
                text
                if isinstance(text, bytes)
                else text.encode(errors="surrogateescape")
            )
            return known.encode(
                data.clean(content, self.config.data.clean) if clean else content
            )
        shown = (
            text.decode(errors="surrogateescape") if isinstance(text, bytes) else text
        )
        if clean:
            recipe = self.config.data.clean
            shown = data.clean(
                shown if recipe == "exact" else data.unix_line_ends(shown), recipe
            )
        if unknown:
            require(
                unknown in known.char_to_id,
                "unknown",
                unknown,
                "give one character that the run knows",
            )
            shown = shown.translate(
                {ord(character): unknown for character in known.unknown(shown)}
            )
        elif strange := known.unknown(shown):
            cleaned = "treat the text as the run's own (clean=True, or --clean)"
            mapped = "(unknown=' ', or --unknown ' ')"
            remedy = f"{cleaned}, or map them to a character that it knows {mapped}"
            raise InputError(
                "characters that the run does not know",
                ", ".join(map(repr, strange)),
                remedy,
            )
        return known.encode(shown)

    def read_text(
        self,
        paths: Sequence[str] = (),
        text: str | None = None,
        text_column: str = "",
        clean: bool = False,
        unknown: str = "",
        most: int = 0,
    ) -> ReadText:
        """Return the character ids of a text and the beginnings of its articles.

        The text is in files or folders (`paths`, with the column `text_column` of a
        table) or is `text` itself; by default, it is the held-out text of the run.
        `encode` describes `clean` and `unknown`. At most `most` characters are
        returned, or all for 0.

        Raises:
            InputError: if both `paths` and `text` are given, if the text cannot be read
                or encoded, or if there is no held-out text or the data of the run have
                changed.
        """
        require(
            text is None or not paths, "text", "given with files", "give one of the two"
        )
        require(most >= 0, "chars", most, "give 1 or more, or 0 for all")
        if text is not None:
            ids, starts = self.encode(text, clean, unknown), np.zeros(1, np.int64)
        elif not paths:
            corpus = load_corpus(self.config)
            self.check_own(corpus)
            ids, starts = corpus.validation, corpus.validation_starts
            require(
                len(ids) > 0,
                "text",
                "none given, and the run held none out",
                "name files, - for standard input, or --text",
            )
        else:
            articles, space, _ = cleaned_articles(
                paths, text_column, self.config.data.clean, self.characters.unit, clean
            )
            ids = self.encode(space.join(articles), unknown=unknown)
            starts = article_starts(articles)
            if self.characters.unit == "word":
                starts = article_starts(
                    [self.encode(article) for article in articles], 0
                )
        ids = ids[:most] if most else ids
        return ReadText(
            ids, starts[starts < len(ids)] if self.config.data.article_resets else None
        )

    def mode(self, wanted: WantedMode = "auto") -> Mode:
        """Return the mode in which to read text: "carried" or "window" as it is, and
        the mode of the training for "auto".
        """
        if wanted == "auto":
            return reading_mode(self.config)
        return checked("mode", wanted, Mode)

    def rules(
        self, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
    ) -> Rules:
        """Return the rules by which characters are drawn; see `sampling.make_rules`."""
        return make_rules(temperature=temperature, top_k=top_k, top_p=top_p)

    def write(
        self,
        prompt: ndarray,
        chars: int,
        rules: Rules,
        *,
        seed: int = 0,
        samples: int = 1,
        mode: WantedMode = "auto",
    ) -> Iterator[ndarray]:
        """Continue a prompt with characters drawn from the model, and yield their ids
        in chunks (samples, n).

        Args:
            prompt: character ids (P,) of the prompt. If P is 0, the model starts from
                its zero state. The mode "window" reads only the end of a longer prompt.
            chars: number of characters to draw for each text.
            rules: rules by which characters are drawn, as the method `rules` returns
                them.
            seed: seed of the random draws; the same seed gives the same ids.
            samples: number of texts to draw, all of which continue the same prompt.
            mode: "carried", "window", or "auto" for the mode of the training.

        Raises:
            InputError: if an argument is not as described, or if there is not enough
                memory.
        """
        prompt = self._known("prompt", prompt)
        chars = check_number("chars", chars, CountOrNone)
        samples = check_number("samples", samples, Count)
        seed = check_number("seed", seed, Seed)
        require(
            isinstance(rules, Rules),
            "rules",
            repr(rules),
            "give what the method rules returns",
        )
        model = self.config.model
        vocabulary = self.characters.size
        length = self.config.data.length
        sampler = Sampler(self.rebuild, vocabulary, self.mode(mode), length, self.mesh)
        windows = length if sampler.mode == "window" else 1
        row = (
            windows * model.units * (2 * model.layers + CELLS[model.cell].gates)
            + vocabulary
            + min(chars, CHUNK)
        )
        require_free(
            4 * samples * row,
            self.mesh,
            f"drawing {samples} texts at once: lower --samples",
        )
        started = sampler.start(
            self.params, jax.random.key(seed), prompt[None], samples
        )

        def chunks():
            drawing = started
            for done in range(0, chars, CHUNK):
                drawing, drawn = sampler.advance(self.params, drawing, rules, CHUNK)
                yield np.asarray(drawn)[:, : chars - done]

        return chunks()

    def texts(
        self, pieces: Iterable[ndarray], samples: int, after: int | None = None
    ) -> list[str]:
        """Return the texts that `write` has drawn, from the chunks that it yields for
        this number of samples, after the id `after`.
        """
        drawn = np.concatenate([np.zeros((samples, 0), np.int32), *pieces], axis=1)
        return [self.characters.decode(row, after) for row in drawn]

    def score(
        self, ids: ndarray, mode: WantedMode = "auto", starts: ndarray | None = None
    ) -> Scores:
        """Return the scores of the characters 1 to N - 1 of a text, given the
        characters before each.

        Args:
            ids: character ids (N,) of the text, as `encode` returns them.
            mode: "carried", "window", or "auto" for the mode of the training.
            starts: positions before which the recurrent state is replaced by zeros, as
                `read_text` returns them.

        Raises:
            InputError: if N is below 2, or if an argument is not as described.
        """
        return self._scorer(mode).text(self.params, self._known("ids", ids), starts)

    def activations(self, ids: ndarray, starts: ndarray | None = None) -> ndarray:
        """Return the outputs (N, H) of the last recurrent layer after each of N
        characters; see `score`. N may be 1, but not 0.
        """
        return self._scorer("auto").activations(
            self.params, self._known("ids", ids), starts
        )

    def _scorer(self, mode: WantedMode) -> Scorer:
        return Scorer(self.rebuild, self.mesh, self.mode(mode), self.config.data.length)

    def _known(self, name: str, ids) -> ndarray:
        require(
            not isinstance(ids, str | bytes),
            name,
            repr(ids),
            "encode it first, with the method encode of the trained run",
        )
        return check_tokens(name, ids, self.characters.size)


train, load = Generation.train, Trained.load
