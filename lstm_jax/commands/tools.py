"""The commands `demo`, `data prepare`, `data shard`, `data shard-reviews`, `run accept` and `backends` of `lstm-jax`."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from lstm_jax.bounds import Checked, CountOrNone, Seed
from lstm_jax.commands.common import Flat, Positional, say, start
from lstm_jax.config import DataConfig
from lstm_jax.runtime.machine import cores


@dataclass(frozen=True)
class PrepareData:
    """Read, tokenise and cache reviews."""

    config: Flat[DataConfig] = field(default_factory=DataConfig)
    tfds: bool = False
    """Build the data set lstm_jax_imdb under TFDS_DATA_DIR from --data. If --data is empty, the archive is downloaded."""

    def __call__(self, console: Console) -> None:
        from lstm_jax.tasks import prepare

        prepare.prepare(self.config, self.tfds, console)


@dataclass(frozen=True)
class ShardText(Checked):
    """Write a text as files of token ids, called shards.

    Use shards for a text that is larger than the memory.

    After an interrupt, the same command continues where it stopped.

    To train on the shards, use train generation --input stream.
    """

    data: Positional[tuple[str, ...]]
    """Text files, or folders of text files."""
    out: Path = Path("shards")
    """Folder of the shards."""
    clean: Literal["source", "source-cased", "lower", "none", "exact"] = "source"
    """Recipe by which the text is cleaned. The help of --clean in train generation describes the recipes."""
    unit: Literal["character", "byte"] = "character"
    """Token of the model: a Unicode character or a byte. With 'byte', a text file may have any encoding."""
    workers: CountOrNone = 0
    """Number of processes that write shards at the same time. 0 means one per core."""
    verify: bool = False
    """Write nothing, and check the shards in --out against their checksums."""

    def __call__(self, console: Console) -> None:
        from lstm_jax import data

        if self.verify:
            say(console, f"{self.out}: {data.verify_shards(self.out):,} intact shards")
            return
        with _shard_progress(console) as report:
            text = data.write_shards(self.data, self.out, self.clean, self.unit, _workers(self.workers), report)
        say(console, f"{self.out}: {len(text):,} characters ({text.characters.size} distinct) of {text.index.articles:,} files")
        say(console, f"lstm-jax train generation --input stream --data {self.out} --clean {self.clean} --unit {self.unit}")


@dataclass(frozen=True)
class ShardReviews(Checked):
    """Write reviews as files of word ids, called shards.

    Use shards for a set of reviews that is larger than the memory.

    After an interrupt, the same command continues where it stopped.

    To train on the shards, use train sentiment --input stream.
    """

    data: Positional[tuple[str, ...]]
    """Tables (.csv or .jsonl, .xz too) with training reviews, or folders of such tables. Each table becomes one shard."""
    test: tuple[str, ...] = ()
    """Tables, or folders of tables, with test reviews."""
    out: Path = Path("shards")
    """Folder of the shards."""
    text_column: str = "text"
    """Column or key that contains the text of a review."""
    label_column: str = "label"
    """Column or key that contains the label (0 or 1)."""
    workers: CountOrNone = 0
    """Number of processes that write shards at the same time. 0 means one per core."""
    verify: bool = False
    """Write nothing, and check the shards in --out against their checksums."""

    def __call__(self, console: Console) -> None:
        from lstm_jax import data

        if self.verify:
            say(console, f"{self.out}: {data.verify_shards(self.out):,} intact shards")
            return
        columns = self.text_column, self.label_column
        with _shard_progress(console) as report:
            found = data.write_review_shards(self.data, self.out, self.test, *columns, _workers(self.workers), report)
        tests = len(found.test) if found.test else 0
        say(console, f"{self.out}: {len(found.train):,} training and {tests:,} test reviews, {len(found.vocabulary.words):,} words")
        say(console, f"lstm-jax train sentiment --input stream --data {self.out} --vocabulary frequency")


def _workers(given: int) -> int:
    return given or len(cores())


@contextlib.contextmanager
def _shard_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar for shards until the context ends, and yield a function update(finished, total)."""
    from lstm_jax.training.callbacks import progress_bar

    with progress_bar(console) as progress:
        bar = progress.add_task("shards", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


@dataclass(frozen=True)
class AcceptRun:
    """Accept the changed files of a run, so that the run can be loaded again.

    Without this command, a run whose files have changed cannot be loaded.
    """

    run: Path
    """Folder of a run."""

    def __call__(self, console: Console) -> None:
        from lstm_jax.training.run_folder import RunFolder

        found = RunFolder(self.run).accept()
        for name, kind in found.items():
            say(console, f"{name}: {kind}")
        say(console, f"{self.run}: " + (f"{len(found)} accepted" if found else "as the run wrote it"))


@dataclass(frozen=True)
class Backends:
    """Print the capabilities of each recurrence backend, and whether it is available."""

    json: bool = False
    """Print one JSON object per line."""
    build: bool = False
    """First compile the backend `compiled` for exactly this CPU, and store the library in the user's cache folder. lstm_jax then uses this
    library instead of the installed one. Compiling takes about a minute and needs a C++ compiler: the command in $CXX, c++, g++,
    clang++, or the one that the optional dependencies `native` install."""

    def __call__(self, console: Console) -> None:
        start()
        from lstm_jax import native
        from lstm_jax.recurrence import capability_rows

        if self.build:
            native.build()
        rows = capability_rows()
        if self.json:
            for row in rows:
                print(json.dumps(row))
            return
        table = Table("backend", "", "", title="recurrence backends, in the order of choice")
        for row in rows:
            for number, name in enumerate(name for name in row if name != "backend"):
                table.add_row(row["backend"] if number == 0 else "", name, row[name])
            table.add_section()
        console.print(table)
        say(console, f"compiled code: {native.describe_library()}")


@dataclass(frozen=True)
class Demo(Checked):
    """Train two small models without any download, in about two minutes.

    The demo then prints examples of their predictions, and what to try next.
    """

    run: Path = Path("runs/demo")
    """Folder in which the two runs are stored. The files of an earlier demo in this folder are replaced."""
    seed: Seed = 0
    """Seed of the synthetic reviews, the initial weights and the drawn texts."""
    quiet: bool = False
    """Print nothing but errors and warnings."""

    def __call__(self, console: Console) -> None:
        start()
        from lstm_jax.tasks import demo

        demo.run(self.run, self.seed, Console(quiet=True) if self.quiet else console)
