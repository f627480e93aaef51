"""Code that commands share: starting JAX, training, loading a run, printing lines."""

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from lstm_jax.config import RecurrentConfig

Flat = tyro.conf.OmitArgPrefixes
Positional = tyro.conf.Positional


def start(devices: int = 0) -> None:
    """Give JAX `devices` CPU devices (if 0, one per core) before it is first used, and enable its compilation cache."""
    from lstm_jax.runtime.compilation_cache import keep_compiled
    from lstm_jax.runtime.sharding import use_cpu_cores

    use_cpu_cores(devices)
    keep_compiled()


def start_training(devices: int, model: RecurrentConfig) -> None:
    """Do the same as `start`, but if `devices` is 0, choose the number of devices that suits the model.

    If `devices` is 0 and JAX has made its devices already, they stay.
    """
    from lstm_jax.recurrence import cpu_devices
    from lstm_jax.runtime.compilation_cache import keep_compiled
    from lstm_jax.runtime.sharding import prefer_cpu_devices

    zoned = model.zoneout or model.zoneout_cell
    suited = 0 if zoned else cpu_devices(model.backend, model.dtype, model.cell)
    if devices:
        start(devices)
        return
    prefer_cpu_devices(suited)
    keep_compiled()


def warn(notes: Iterable[str]) -> None:
    """Print notes as warnings on standard error."""
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)


def say(console: Console, line: str) -> None:
    """Print a line unchanged: it is not wrapped, and its brackets are not read as markup."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def load_run(task: str, folder: Path) -> Any:
    """Load a run of the task named `task`, and print warnings about it."""
    trained = import_module(f"lstm_jax.tasks.{task}").load(folder)
    warn(trained.notes)
    return trained


@dataclass(frozen=True)
class Train(ABC):
    """Base of the commands that train; each task adds the type of its config, a default folder and its report."""

    config: Any
    run: Path
    """Folder of the run, which holds its config, environment, metrics.jsonl, TensorBoard events, figures and checkpoints."""
    resume: bool = False
    """Continue the interrupted run in the folder of --run."""
    allow_other_machine: bool = False
    """Resume even if devices, versions or compiled code have changed. The last bits of later numbers will then differ."""
    figures: bool = True
    """Draw the figures at the end."""

    @abstractmethod
    def report(self, result: dict[str, Any]) -> Iterable[str]:
        """Return the lines to print at the end; `result` is the content of result.json."""

    def __call__(self, console: Console) -> None:
        start_training(self.config.train.devices, self.config.model)
        import_module(f"lstm_jax.tasks.{self.config.task}").train(
            self.config,
            self.run,
            resume=self.resume,
            allow_other_machine=self.allow_other_machine,
            console=console,
            figures=self.figures,
        )
        for line in self.report(json.loads((self.run / "result.json").read_text())):
            say(console, line)
