"""Text generation: config -> run folder, and what a trained run writes and how surprised it is."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from lstm_jax import data
from lstm_jax.config import GenerationConfig, generation_from_json
from lstm_jax.errors import InputError, require
from lstm_jax.files.writing import write_atomically
from lstm_jax.models import CharGenerator, functional
from lstm_jax.runtime import sharding
from lstm_jax.sampling import Mode, Rules, Sampler, make_rules
from lstm_jax.tasks.memory import require_free, require_memory
from lstm_jax.tasks.running import Takes, begin, check_own_data, initial_rngs, load_params, mesh_of, open_run, summary, write_result
from lstm_jax.tasks.text_examples import stream_examples, stream_objective, window_examples, window_objective
from lstm_jax.training.callbacks import Callback, EpochRecord
from lstm_jax.training.loop import FitResult, fit
from lstm_jax.training.run_folder import RunFolder
from lstm_jax.training.scoring import Scorer, Scores, bits_and_perplexity

SHOWN = 3000
"""Characters of the held-out text (else of the training text) in the figures of a run."""
UNITS = 12
"""Units in the figure of the most active ones."""
STRETCH = 25
"""Characters that are drawn before they are shown."""


def load_corpus(config: GenerationConfig) -> data.Corpus:
    """The config's text, as ids."""
    text = config.data
    return data.prepare_corpus(text.data, text.text_column, text.clean, text.unit, text.validation, text.unseen, text.length)


def make_model(config: GenerationConfig, vocabulary: int) -> CharGenerator:
    """The model with its initial weights; deterministic in the seed."""
    return CharGenerator(config.model, vocabulary, rngs=initial_rngs(config.train.seed))


def reading_mode(config: GenerationConfig) -> Mode:
    """How a run reads what it was trained to read: windows from a zero state, or a stream with the state carried."""
    return "window" if config.data.regime == "windows" else "carried"


def train(
    config: GenerationConfig,
    folder: Path,
    *,
    corpus: data.Corpus | None = None,
    resume: bool = False,
    allow_other_machine: bool = False,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
    figures: bool = True,
) -> FitResult:
    """Train a run in `folder`: the whole of `lstm-jax train generation`.

    Args:
        config: all of it is written to the folder.
        folder: new, or with `resume` that of an interrupted run.
        corpus: in memory already; else that which the config names.
        allow_other_machine: resume where devices, versions or compiled code are others than before: the last bits will differ.
        console: where to show progress, the table of layers and the samples.
        callbacks: called after each epoch, behind the built-in ones.
        figures: draw them at the end.

    Returns:
        What `fit` gives; rows have loss, bits, perplexity and accuracy of the training part, and of the held-out part if there is one.

    Raises:
        InputError: for bad input. Interrupted: after SIGINT or SIGTERM, when the state is saved.
    """
    console = console or Console(quiet=True)
    mesh = sharding.make_mesh(config.train.devices)
    if corpus is None:
        with console.status("reading text"):
            corpus = load_corpus(config)
    _require_memory(config, corpus, mesh)
    length, batch = config.data.length, config.train.batch_size
    stream = config.data.regime == "stream"
    examples = stream_examples(corpus.train, length, batch) if stream else window_examples(corpus.train, length, config.data.step)
    files = {"characters.json": corpus.characters.to_json()}
    takes = Takes(resume, allow_other_machine)
    with begin(config, folder, mesh, examples.count, corpus.fingerprint, files, takes, console) as run:
        model = make_model(config, corpus.characters.size)
        params, rebuild = functional(model)
        console.print(summary(model, f"ids (B, {length}) -> logits (B, {f'{length}, ' if stream else ''}{corpus.characters.size})"))
        console.print(_described(corpus, config, examples.count, run.backend, mesh.size), highlight=False)
        for note in corpus.notes:
            console.print(note, highlight=False, markup=False)

        scorer = Scorer(rebuild, mesh, reading_mode(config), length)
        held_out = len(corpus.validation) > 0

        def evaluate(params) -> dict[str, float]:
            if not held_out:
                return {}
            if stream:
                return scorer.text(params, corpus.validation).figures("validation_")
            X, Y = data.windows(corpus.validation, length, config.data.step)
            return scorer.windows(params, np.column_stack([X, Y])).figures("validation_")

        def derive(row: dict[str, Any]) -> dict[str, float]:
            return {f"train_{name}": value for name, value in bits_and_perplexity(row["train_loss"]).items()}

        result = fit(
            params,
            stream_objective(rebuild) if stream else window_objective(rebuild),
            run.optimizer,
            examples,
            config.train,
            mesh,
            carry=model.initial_state(batch) if stream else (),
            derive=derive,
            evaluate=evaluate,
            monitor="validation_loss" if held_out else "",
            checkpoints=run.folder.checkpoints,
            resume=resume,
            callbacks=run.callbacks(console, (_sample_callback(config, corpus, rebuild, run.folder.samples, console), *callbacks)),
            console=console,
        )
        final = scorer.text(result.params, corpus.validation).figures("validation_") if held_out else {}
        write_result(run.folder, result, final)
        if figures:
            draw_figures(run.folder, result, corpus, scorer)
        return result


def _require_memory(config: GenerationConfig, corpus: data.Corpus, mesh: jax.sharding.Mesh) -> None:
    length, size = config.data.length, config.train.batch_size
    stream = config.data.regime == "stream"
    flags = {
        "parameters": "--units, --layers or --embed",
        "residuals": "--batch-size, --length, --units or --layers, or give --remat sqrt",
        "data": "--length, or raise --step",
    }
    # the held-out windows lie in memory, those of the training part are cut from the text
    held = 0 if stream else len(corpus.validation) // config.data.step * (length + 1)
    require_memory(
        config,
        partial(make_model, config, corpus.characters.size),
        stream_objective if stream else window_objective,
        jax.ShapeDtypeStruct((size, length + 1), np.int32),
        mesh,
        flags,
        rows=corpus.train.nbytes + held * corpus.validation.itemsize,
        carry=(lambda model: model.initial_state(size)) if stream else lambda model: (),
    )


def _described(corpus: data.Corpus, config: GenerationConfig, examples: int, backend: str, devices: int) -> str:
    copies = f", {corpus.copies} articles left out of it as copies" if corpus.copies else ""
    held = f", {len(corpus.validation):,} held out{copies}" if len(corpus.validation) else ""
    kind = f"windows every {config.data.step}" if config.data.regime == "windows" else f"stretches of {config.train.batch_size} streams"
    text = f"{corpus.articles:,} articles, {len(corpus.train):,} characters ({corpus.characters.size} distinct){held}"
    return f"{text}; {examples:,} {kind}; backend {backend}, {devices} devices"


def _sample_callback(config: GenerationConfig, corpus: data.Corpus, rebuild: Callable[..., Any], path: Path, console: Console) -> Callback:
    """After each epoch: a random prompt from the training text, continued at each temperature; printed, and kept in `path`."""
    wanted = config.sample
    sampler = Sampler(rebuild, corpus.characters.size, reading_mode(config), config.data.length)
    prompt_size = min(wanted.sample_prompt, len(corpus.train))

    def sample(record: EpochRecord) -> None:
        if not (wanted.sample_chars and wanted.sample_temperatures):
            return
        key = jax.random.fold_in(jax.random.key(record.seed), record.epoch)
        place_key, draw_key = jax.random.split(key)
        place = int(jax.random.randint(place_key, (), 0, len(corpus.train) - prompt_size + 1))
        prompt = corpus.train[place : place + prompt_size]
        # the parameters may lie split over the mesh; a step of one row is not worth an exchange
        params = jax.tree.map(np.asarray, record.params)
        rows = []
        for number, temperature in enumerate(wanted.sample_temperatures):
            rules = make_rules(corpus.characters.size, temperature)
            drawn = sampler.generate(params, jax.random.fold_in(draw_key, number), jnp.asarray(prompt)[None], wanted.sample_chars, rules)
            row = {"epoch": record.epoch, "seed": record.seed, "temperature": temperature, "mode": sampler.mode}
            row |= {"prompt": corpus.characters.decode(prompt), "text": corpus.characters.decode(np.asarray(drawn[0]))}
            rows.append(row)
            console.print(f"  temperature {temperature:g}: {row['prompt']!r} goes on", highlight=False, markup=False)
            console.print(row["text"], highlight=False, markup=False, soft_wrap=True)
        kept = [row for row in read_samples(path) if row["epoch"] < record.epoch]  # of a resumed run
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (*kept, *rows)))

    return sample


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The samples of a run so far: epoch, seed, temperature, mode, prompt, text.

    Raises:
        InputError: if the file is damaged.
    """
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]  # a text may hold other line ends (U+2028)
        if not all(isinstance(row, dict) and type(row.get("epoch")) is int for row in rows):
            raise ValueError("a row without its epoch")
        return rows
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"samples {path}", error, "move the file away") from error


def draw_figures(run: RunFolder, result: FitResult, corpus: data.Corpus, scorer: Scorer) -> None:
    """Learning curve, the text coloured by surprise, and by its most active units, in the run's folder."""
    from lstm_jax.inspection import plots

    plots.learning_curves(list(result.rows), run.figures / "learning_curves.png", "Learning curves", ("bits", "accuracy"))
    held_out = len(corpus.validation) > 0
    ids = (corpus.validation if held_out else corpus.train)[:SHOWN]
    which = "held-out" if held_out else "training"
    draw_surprise(corpus.characters, ids, scorer.text(result.params, ids), run.figures / "surprise.html", f"Surprise, {which} text")
    draw_units(corpus.characters, ids, scorer.activations(result.params, ids), run.figures / "units.html", UNITS)


def draw_surprise(characters: data.Characters, ids: np.ndarray, scores: Scores, path: Path, title: str, force: bool = True) -> None:
    """An HTML page of the text, each character coloured by its bits."""
    from lstm_jax.inspection import text_map

    text_map.surprise_page(_shown(characters, ids), scores.nats / np.log(2), path, title, force)


def draw_units(characters: data.Characters, ids: np.ndarray, activations: np.ndarray, path: Path, count: int, force: bool = True) -> None:
    """An HTML page of the text, once for each of the `count` most active hidden units, coloured by its output."""
    from lstm_jax.inspection import text_map

    require(count >= 1, "count", count, "give 1 unit or more")
    units = text_map.most_active(activations, count)
    title = f"The {len(units)} most active of {activations.shape[1]} units"
    text_map.units_page(_shown(characters, ids), activations, units, path, title, force)


def _shown(characters: data.Characters, ids: np.ndarray) -> str:
    """A character an id, so that colours fit; a byte that is not ASCII is shown as the character of that number."""
    return "".join(characters.characters[int(i)] for i in ids)


@dataclass(frozen=True)
class Trained:
    """A run read back: `write` goes on with a text, `score` says how surprising one is."""

    run: RunFolder
    config: GenerationConfig
    characters: data.Characters
    params: dict[str, np.ndarray]
    notes: tuple[str, ...]
    rebuild: Callable[..., Any]

    def encode(self, text: str | bytes, clean: bool = False, unknown: str = "") -> np.ndarray:
        """Ids (N,) of a text.

        Args:
            clean: by the recipe of the run's own text first.
            unknown: a character of the run that stands for those that it does not know; empty: they are refused.

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

    def mode(self, wanted: Literal["auto", "carried", "window"] = "auto") -> Mode:
        """`wanted`, or the mode that the run was trained in."""
        return reading_mode(self.config) if wanted == "auto" else wanted

    def rules(self, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Rules:
        """See `sampling.make_rules`."""
        return make_rules(self.characters.size, temperature, top_k, top_p)

    def write(
        self,
        prompt: np.ndarray,
        chars: int,
        rules: Rules,
        *,
        seed: int = 0,
        samples: int = 1,
        mode: Literal["auto", "carried", "window"] = "auto",
    ) -> Iterator[np.ndarray]:
        """Go on from a prompt's ids (P,): ids (samples, n), stretch by stretch, `chars` of them in all. The same seed gives the same ids.

        P may be 0, then the model begins from its zero state; in "window" mode only the last `length` ids of a longer prompt are read.

        Raises:
            InputError: if `chars` is below 0, `samples` below 1 or `seed` no number from 0 to below 2**32.
        """
        require(chars >= 0, "chars", chars, "give 0 or more")
        require(0 <= seed < 2**32, "seed", seed, "give a number from 0 to below 2**32")
        mesh, model = mesh_of(self.config), self.config.model
        windows = self.config.data.length if self.mode(mode) == "window" else 1
        row = windows * model.units * (2 * model.layers + 4) + self.characters.size + min(chars, STRETCH)
        require_free(4 * samples * row, mesh, f"drawing {samples} texts at once: lower --samples")
        sampler = Sampler(self.rebuild, self.characters.size, self.mode(mode), self.config.data.length, mesh)
        drawing = sampler.start(self.params, jax.random.key(seed), jnp.asarray(prompt, jnp.int32)[None], samples)
        return self._stretches(sampler, drawing, chars, rules)

    def _stretches(self, sampler: Sampler, drawing: Any, chars: int, rules: Rules) -> Iterator[np.ndarray]:
        for done in range(0, chars, STRETCH):
            drawing, drawn = sampler.advance(self.params, drawing, rules, STRETCH)
            yield np.asarray(drawn)[:, : chars - done]

    def texts(self, pieces: Iterable[np.ndarray], samples: int) -> list[str]:
        """What `write` gives, put together: a text a sample."""
        drawn = np.concatenate([np.zeros((samples, 0), np.int32), *pieces], axis=1)
        return [self.characters.decode(row) for row in drawn]

    def score(self, ids: np.ndarray, mode: Literal["auto", "carried", "window"] = "auto") -> Scores:
        """Nats of the characters 1 .. N - 1 of ids (N,).

        Raises:
            InputError: for fewer than two characters.
        """
        return self._scorer(mode).text(self.params, ids)

    def activations(self, ids: np.ndarray) -> np.ndarray:
        """The last LSTM's output after each of ids (N,): (N, H), the state carried."""
        return self._scorer("auto").activations(self.params, ids)

    def _scorer(self, mode: Literal["auto", "carried", "window"]) -> Scorer:
        return Scorer(self.rebuild, mesh_of(self.config), self.mode(mode), self.config.data.length)


def load(folder: Path) -> Trained:
    """Read a run: the parameters of its best epoch where a held-out part chose it, else of its newest.

    Raises:
        InputError: if the folder is no run of text generation, or no good checkpoint is left in it.
    """
    run, notes = open_run(folder)
    config = generation_from_json(run.config)
    characters = data.Characters.load(run.characters)
    like, rebuild = functional(make_model(config, characters.size))
    params, damaged = load_params(run, like)
    return Trained(run, config, characters, params, notes + damaged, rebuild)


def read_ids(
    trained: Trained,
    paths: Sequence[str] = (),
    text: str | None = None,
    text_column: str = "",
    clean: bool = False,
    unknown: str = "",
    most: int = 0,
) -> np.ndarray:
    """Ids of a text or of the articles of files joined by spaces; of the run's own held-out part if neither is given.

    Args:
        trained: the run.
        paths, text_column: as `data.read_articles` takes them.
        clean, unknown: see `Trained.encode`.
        most: characters at most, from the beginning; 0 for all.

    Raises:
        InputError: for both a text and files; for a run without a held-out part, or whose data are others now; for what cannot be read or
            is unknown.
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
        unix = trained.config.data.clean != "exact"  # as the run's own text was read
        ids = trained.encode(" ".join(map(data.unix_line_ends, articles) if unix else articles), clean, unknown)
    return ids[:most] if most else ids
