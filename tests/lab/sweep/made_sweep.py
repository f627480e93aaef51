"""Configs and functions of the sweeps in the tests, in a module that the processes of a
sweep can import.

As a script, the module runs a sweep of twelve runs, two of which fail, or a sweep of
two endless runs.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lstm_jax.base.errors import Interrupted
from lstm_jax.lab import sweep

ROOT = Path(__file__).parents[3]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
}
"""Environment variables of a process that imports the library and this module."""


def run_python(*arguments, **options):
    """Run Python in a new process, and return its exit code and its output."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        **options,
    )


@dataclass(frozen=True)
class Inner:
    scale: float = 1.0


@dataclass(frozen=True)
class Config:
    number: int = 0
    wrong: str = ""
    log: str = ""
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class Optional:
    one: Inner | None = None
    several: tuple[Inner, ...] = ()


@dataclass(frozen=True)
class Sgd:
    rate: float = 0.1


@dataclass(frozen=True)
class Adam:
    rate: float = 0.1


@dataclass(frozen=True)
class Nested:
    """Config with values that JSON cannot distinguish, such as tuples and lists, or
    classes with equal fields.
    """

    optimizer: Sgd | Adam = field(default_factory=Sgd)
    model: Inner = Inner()
    grid: tuple[tuple[int, ...], ...] = ((1, 2), (3,))
    names: list[Any] = field(default_factory=lambda: ["a", ("b", ["c"])])
    more: tuple[Sgd | Adam, ...] = ()
    path: Any = ""


@dataclass(frozen=True)
class Said:
    """Config of a run of the function `say`. The field `text` determines whether `say`
    raises an error or exits.
    """

    text: str = ""


@dataclass(frozen=True)
class Draws:
    """Config of a run of the function `draw`."""

    seed: int = 0
    size: int = 2
    inner: Inner = Inner()


def draw(config):
    """Return random numbers in JAX, some of them in a list."""
    import jax

    values = config.inner.scale * jax.random.normal(
        jax.random.key(config.seed), (config.size,)
    )
    return {"values": values, "first": values[0], "size": config.size}


def say(config):
    """Exit with the text if it begins with "exit", otherwise raise `ValueError` with
    the text as its message.
    """
    if config.text.startswith("exit"):
        sys.exit(config.text)
    raise ValueError(config.text)


def show(config):
    """Return a dict with the `repr` of the config."""
    return {"config": repr(config)}


def nest(config):
    """Run a sweep with a single run, which calls `show` on `config.inner`, and return
    the result of this run.

    The sweep runs in processes, and writes its rows to the file `config.log`.
    """
    (row,) = sweep.run(show, [config.inner], config.log, "processes", workers=1)
    return row["result"]


def score(config):
    """Append `config.number` to the file `config.log`, and return a score.

    Depending on `config.wrong`, the function fails or sleeps before it returns.
    """
    with Path(config.log).open("a") as file:
        file.write(f"{config.number}\n")
    if config.wrong == "raise":
        raise ValueError("no such thing")
    if config.wrong == "interrupted":
        raise Interrupted(7)
    if config.wrong == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if config.wrong == "exit":
        os._exit(3)
    if config.wrong == "slow":
        time.sleep(0.3)
    if config.wrong == "endless":
        time.sleep(60)
    return {"score": config.number * config.inner.scale + sum(config.sizes)}


def where(config):
    """Return the id of this process, and the GPU that it sees."""
    return score(config) | {
        "process": os.getpid(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }


def cores(config):
    """Sleep for `config.number` tenths of a second, and return the cores on which this
    process may run.
    """
    time.sleep(0.1 * config.number)
    return {"cores": sorted(os.sched_getaffinity(0))}


def configs(log):
    wrong = {3: "raise", 7: "killed"}
    return [
        Config(number, wrong.get(number, "slow"), str(log), inner=Inner(2.0))
        for number in range(12)
    ]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    # a shell lets its background jobs ignore the signal
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[2:] == ["endless"]:
        sweep.run(
            score,
            [Config(n, "endless", str(folder / "log")) for n in range(2)],
            folder / "rows.jsonl",
            "processes",
            workers=2,
        )
    sweep.run(
        score, configs(folder / "log"), folder / "rows.jsonl", "processes", workers=2
    )
