"""The commands `demo`, `data prepare`, `data shard`, `data shard-reviews`, `launch`,
`backends` and `completion` of `lstm-jax`.
"""

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table
from tyro.extras import SubcommandApp

from lstm_jax.base.checks import Count, Seed, frozen
from lstm_jax.base.errors import require
from lstm_jax.base.machine import cores
from lstm_jax.lab.commands.common import Command, Flat, Positional, say, set_help, start
from lstm_jax.lab.files.text import counted
from lstm_jax.lab.generation.config import Clean, Unit
from lstm_jax.lab.machine.interrupts import before_end, handled
from lstm_jax.lab.machine.resources import pin
from lstm_jax.lab.sentiment.config import DataConfig, SentimentConfig


@frozen
class PrepareData(Command):
    """Read, tokenise and cache reviews."""

    config: Flat[DataConfig] = DataConfig()
    tfds: bool = False
    """Build the data set lstm_jax_imdb under TFDS_DATA_DIR from --data. If --data is
    empty, the archive is downloaded."""

    def __call__(self, console):
        from lstm_jax.lab.sentiment.data import build_tfds
        from lstm_jax.lab.sentiment.rows import encoded_reviews

        config = self.config
        if self.tfds:
            builder = build_tfds(config.data or None)
            say(console, f"built {builder.info.full_name} in {builder.data_dir}")
            config = dataclasses.replace(config, data="tfds")
        reviews = encoded_reviews(SentimentConfig(config))
        for name, split in (("train", reviews.train), ("test", reviews.test)):
            if split is not None:
                positive, mean = int(split.labels.sum()), split.lengths.mean()
                say(
                    console,
                    f"{name}: {counted(len(split), 'review')}, {positive:,} "
                    f"positive, {mean:.1f} ids on average",
                )
        say(
            console,
            f"vocabulary: {reviews.vocabulary.kind}, {reviews.vocabulary.size:,} ids",
        )
        say(console, "next: lstm-jax train sentiment with the same flags")


@frozen
class WriteShards(Command):
    """Base class of the commands that write shards."""

    data: Positional[tuple[str, ...]]
    """Text files, or folders of text files."""
    out: Path = Path("shards")
    """Folder of the shards."""
    verify: bool = False
    """Write nothing, and check the shards in --out against their checksums."""

    @abstractmethod
    def write(self, on_progress: Callable[[int, int], None]) -> Iterator[str]:
        """Write the shards, and yield the lines to print."""

    def __call__(self, console):
        from lstm_jax.lab.files.mapped import verify_shards
        from lstm_jax.lab.runs.reports import progress_bar

        if self.verify:
            say(console, f"{self.out}: {verify_shards(self.out):,} intact files")
            return
        with progress_bar(console) as progress:
            bar = progress.add_task("read", total=None)

            def report(done: int, total: int):
                progress.update(bar, completed=done, total=total)

            lines = list(self.write(report))
        for line in lines:
            say(console, line)


@frozen
class ShardText(WriteShards):
    """Write a text as files of token ids, called shards.

    Use shards for a text that is larger than the memory.

    After an interrupt, the same command begins anew.

    To train on the shards, use train generation --input stream.
    """

    clean: Clean = "source"
    """Recipe by which the text is cleaned. The help of --clean in train generation
    describes the recipes."""
    unit: Unit = "character"
    """Token of the model: a Unicode character or a byte. With 'byte', a text file may
    have any encoding."""

    def write(self, on_progress):
        from lstm_jax.lab.generation.data import write_shards

        text = write_shards(self.data, self.out, self.clean, self.unit, on_progress)
        yield (
            f"{self.out}: {counted(len(text.ids), 'character')} "
            f"({text.characters.size} distinct) of {counted(text.articles, 'file')}"
        )
        yield (
            "next: lstm-jax train generation --input stream --data "
            f"{shlex.quote(str(self.out))} --clean {self.clean} --unit {self.unit}"
        )


@frozen
class ShardReviews(WriteShards):
    """Write reviews as files of word ids, called shards.

    Use shards for a set of reviews that is larger than the memory.

    After an interrupt, the same command begins anew.

    To train on the shards, use train sentiment --input stream.
    """

    data: Positional[tuple[str, ...]]
    """Tables (.csv or .jsonl, .xz too) with training reviews, or folders of such
    tables."""
    test: tuple[str, ...] = ()
    """Tables, or folders of tables, with test reviews."""
    text_column: str = "text"
    """Column or key that contains the text of a review."""
    label_column: str = "label"
    """Column or key that contains the label (0 or 1)."""

    def write(self, on_progress):
        from lstm_jax.lab.sentiment.data import write_review_shards

        columns = self.text_column, self.label_column
        found = write_review_shards(
            self.data, self.out, self.test, *columns, on_progress
        )
        tests = len(found.test) if found.test else 0
        yield (
            f"{self.out}: {len(found.train):,} training and {tests:,} test "
            f"reviews, {len(found.vocabulary.words):,} words"
        )
        yield (
            "next: lstm-jax train sentiment --input stream --data "
            f"{shlex.quote(str(self.out))} --vocabulary frequency"
        )


@frozen
class Backends(Command):
    """Print the capabilities of each recurrence backend, and whether it is available."""

    json: bool = False
    """Print one JSON object per line."""
    build: bool = False
    """First compile the backend `compiled` for exactly this CPU, and store the library
    in the user's cache folder. lstm_jax then uses this library instead of the installed
    one. Compiling takes about a minute and needs a C++ compiler: the command in $CXX,
    c++, g++, clang++, or the one that the optional dependencies `native` install."""

    def __call__(self, console):
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
        table = Table(
            "backend", "", "", title="recurrence backends, in the order of choice"
        )
        for row in rows:
            backend = row.pop("backend")
            for name, fact in row.items():
                table.add_row(backend, name, fact)
                backend = ""
            table.add_section()
        console.print(table)
        say(console, f"compiled code: {native.describe_library()}")


@frozen
class Demo(Command):
    """Train two small models without any download, in about two minutes.

    The demo then prints examples of their predictions, and what to try next.
    """

    run: Path = Path("runs/demo")
    """Folder in which the two runs are stored. The files of an earlier demo in this
    folder are replaced."""
    seed: Seed = 0
    """Seed of the synthetic reviews, the initial weights and the drawn texts."""
    quiet: bool = False
    """Print nothing but errors and warnings."""

    def __call__(self, console):
        start()
        from lstm_jax.lab import demo

        demo.run(self.run, self.seed, Console(quiet=True) if self.quiet else console)


@frozen
class Completion(Command):
    """Print a shell script that completes commands, flags and the values of flags."""

    shell: Positional[Literal["bash", "zsh", "fish"]]
    """Shell that reads the script: `eval "$(lstm-jax completion bash)"`, or `lstm-jax
    completion fish | source`."""

    def __call__(self, console):
        from lstm_jax.lab.commands import COMMANDS

        top, groups = SubcommandApp(), dict[str, SubcommandApp]()
        for name, command in COMMANDS.items():
            set_help(command)
            first, _, second = name.partition(" ")
            if second and first in COMMANDS:
                continue  # a parser has either subcommands or flags
            if second and first not in groups:
                top.command(groups.setdefault(first, SubcommandApp()), name=first)
            (groups[first] if second else top).command(command, name=second or first)
        top.cli(prog="lstm-jax", args=["--tyro-write-completion", self.shell, "-"])


@frozen
class Launch(Command):
    """Run a training command in several processes on this machine.

    For example: lstm-jax launch -n 2 -- train sentiment --run runs/two
    """

    command: Positional[tuple[str, ...]]
    """Command and flags of lstm-jax, after --."""
    n: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 2
    """Number of processes. The cores of this machine are divided among them."""

    def __call__(self, console):
        require(
            self.command[:1] == ("train",),
            "command",
            " ".join(self.command[:2]) or "none",
            "give one of lstm-jax train ...",
        )
        codes = run_processes(
            [sys.executable, "-P", "-m", "lstm_jax.lab.cli", *self.command], self.n
        )
        if any(codes):
            raise SystemExit(next(code for code in codes if code))


def run_processes(command: list[str], count: int) -> list[int]:
    """Run a command in several processes, and return the exit codes of these processes
    in the order in which they end.

    SIGINT, SIGTERM and SIGHUP are passed on to all processes, as soon as all have
    started.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    place = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_COORDINATOR_BIND_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
    }
    started: list[subprocess.Popen] = []
    came = deque[int]()

    def note(number: int, _: object):
        # a second SIGTERM would end the processes before they have saved their state
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)
        came.append(signal.SIGTERM if number == signal.SIGHUP else number)

    hangups = (
        () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
    )
    with (
        handled(note, signal.SIGINT, signal.SIGTERM, *hangups),
        before_end(lambda: _kill(started)),
    ):
        try:
            for number, own in enumerate(divided_cores(count)):
                # a session of its own, so that a Ctrl-C in the terminal reaches it once
                environment = {**os.environ, **place, "JAX_PROCESS_ID": str(number)}
                child = subprocess.Popen(
                    command, env=environment, start_new_session=True
                )
                started.append(child)
                with contextlib.suppress(OSError):
                    pin(child.pid, own)
            return _codes(started, came)
        finally:
            _kill(started)
            for child in started:
                child.wait()


def _kill(processes: Iterable[subprocess.Popen]) -> None:
    for process in processes:
        process.kill()


def divided_cores(count: int) -> list[list[int]]:
    """Divide the cores of this machine among `count` processes, and return a list with
    the cores of each process.
    """
    own = cores()
    return [own[number::count] if len(own) >= count else own for number in range(count)]


def _codes(started: list[subprocess.Popen], came: deque[int]) -> list[int]:
    running, codes = dict(enumerate(started)), []
    while running:
        while came:
            number = came.popleft()
            for child in started:
                child.send_signal(number)
        time.sleep(0.05)
        for number, child in list(running.items()):
            if (code := child.poll()) is None:
                continue
            del running[number]
            codes.append(code if code >= 0 else 128 - code)
            if code < 0:
                print(
                    f"process {number} was ended by "
                    f"{signal.Signals(-code).name}; the others end too",
                    file=sys.stderr,
                    flush=True,
                )
    return codes
