"""The base class of the training commands, and functions that start JAX, load a run,
print warnings and make help texts.
"""

import dataclasses
import json
import os
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import tyro
from rich.console import Console

from lstm_jax.base.checks import Checked, frozen
from lstm_jax.base.writing import user_path
from lstm_jax.lab.config import (
    Processes,
    RecurrentConfig,
    RunConfig,
    Trackers,
    with_file,
)
from lstm_jax.lab.files.text import json_text
from lstm_jax.lab.machine.console import say

T = TypeVar("T")
Flat = Annotated[tyro.conf.OmitArgPrefixes[T], tyro.conf.arg(name="")]
"""Section of a config, whose flags have no prefix and whose panel in the help has no
"config." before its name."""
Positional = tyro.conf.Positional


def start() -> None:
    """Give JAX one CPU device per core, and enable JAX's compilation cache. Call this
    function before JAX is first used.
    """
    from lstm_jax.base.sharding import use_cpu_cores
    from lstm_jax.lab.machine.compilation_cache import keep_compiled

    use_cpu_cores()
    keep_compiled()


def start_training(devices: int, model: RecurrentConfig) -> None:
    """Set the number of JAX's CPU devices for the training of a model, and enable JAX's
    compilation cache.
    """
    from lstm_jax.base.sharding import prefer_cpu_devices, use_cpu_cores
    from lstm_jax.lab.machine.compilation_cache import keep_compiled
    from lstm_jax.recurrence import cpu_devices

    if devices:
        use_cpu_cores(devices)
    else:
        zoned = model.zoneout or model.zoneout_cell
        prefer_cpu_devices(
            0 if zoned else cpu_devices(model.backend, model.dtype, model.cell)
        )
    keep_compiled()


@cache
def set_help(kind: Any) -> None:
    """Use the docstring of each field of a dataclass as the help text of the field's
    flag, without the line breaks in it.
    """
    import docstring_parser

    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return
    texts: dict[str, str | None] = {}
    for part in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        texts |= {
            param.arg_name: param.description
            for param in docstring_parser.parse_from_object(part).params
        }
    for own in dataclasses.fields(kind):
        set_help(next(iter(get_args(own.type)), own.type))
        if text := texts.get(own.name):
            hint = (
                (lambda default: default and f"(default: {default})")
                if own.default in ((), dataclasses.MISSING)
                else None
            )
            kind.__annotations__[own.name] = Annotated[
                own.type,
                tyro.conf.arg(help=" ".join(text.split()), help_behavior_hint=hint),
            ]


def warn(notes: Iterable[str]) -> None:
    """Print each note as a warning on standard error."""
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)


def metric_text(value: float | None, form: str) -> str:
    """Return a metric as text in the format `form`, such as "0.8125" if `form` is
    ".4f".
    """
    return format(float("nan") if value is None else value, form)


Products = Literal["", "float32", "bfloat16", "int8"]


def load_run(task: str, folder: Path, dtype: Products = "") -> Any:
    """Start JAX, load a trained run from its folder, print the warnings that loading
    gave, and return the run.
    """
    start()
    from lstm_jax.lab.tasks import TASKS

    trained = TASKS[task].module().load(folder)
    warn(trained.notes)
    return trained.with_products(dtype) if dtype else trained


class Command(Checked, ABC):
    """Base class of the commands. A command is a frozen dataclass, whose fields are its
    flags.
    """

    @abstractmethod
    def __call__(self, console: Console) -> None:
        """Run the command, and print on `console` what is not the command's answer."""


def suggest(console: Console, command: str, run: Path) -> None:
    """Print the next command for a run; `command` may end with flags."""
    name, _, flags = command.partition(" --")
    say(
        console,
        f"next: lstm-jax {name} --run {shlex.quote(str(run))}{flags and ' --' + flags}",
    )


@frozen
class Train(Command):
    """Base class of the commands that train a model. Each task has a subclass with the
    task's config, default folder and report.
    """

    config: Any
    run: Path
    """Folder in which the run stores its config, environment, metrics.jsonl,
    TensorBoard events, figures and checkpoints."""
    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """The config.json of a run, or a TOML file with some fields, such as units = 64
    below [model]. Its values replace the defaults of the other flags. A flag that is
    given replaces the value of the file."""
    print_config: bool = False
    """Print the whole config as JSON, which --config can read, and do not train."""
    resume: bool = False
    """Continue the interrupted run in the folder of --run. Its config gives the values
    of the flags that are left out. With --schedule constant, the run may also be given
    more epochs."""
    allow_other_machine: bool = False
    """Resume even if devices, package versions or compiled code have changed. Later
    results may then differ in their last bits."""
    figures: bool = True
    """Draw figures of the training when it ends."""
    tracker: Trackers = ("tensorboard", "jsonl")
    """Where to record the metrics: 'tensorboard' (events in the run's folder), 'jsonl'
    (metrics.jsonl there), 'wandb' (Weights & Biases), 'mlflow'. The last two, which
    need the extras [wandb] and [mlflow], also get the config, the figures and the best
    checkpoint. Several may be named. The results do not depend on them, and a resumed
    run may have other ones."""
    quiet: bool = False
    """Print nothing but errors and warnings."""
    json: bool = False
    """Print nothing but the content of the run's result.json, on one line, when the
    training ends."""
    place: Annotated[
        tyro.conf.OmitArgPrefixes[Processes], tyro.conf.arg(name="processes")
    ] = Processes()
    """Settings of this process in a run of several processes."""

    presets: ClassVar[Mapping[str, RunConfig]] = {}
    """Dict from each value of --preset to its config."""

    @classmethod
    def with_defaults(cls, given: Mapping[str, str]) -> "Train":
        """Return this command with its default values, those of the preset that
        --preset names, and those of the file --config.

        Without these two flags, --resume takes the config of the run. `given` is a dict
        from each given flag to its value.
        """
        command: Any = cls()  # pyright: ignore[reportCallIssue]
        preset, file = given.get("--preset", ""), given.get("--config")
        if preset in cls.presets:
            command = dataclasses.replace(
                command, config=cls.presets[preset], preset=preset
            )
        own = user_path(given.get("--run") or command.run) / "config.json"
        if "--resume" in given and not (file or preset) and own.exists():
            file = own
        if not file:
            return command
        return dataclasses.replace(
            command, config=with_file(command.config, user_path(file))
        )

    following: ClassVar[str]
    """Command to try after the training, without the flag --run."""

    @abstractmethod
    def report(self, result: dict[str, Any]) -> Iterable[str]:
        """Return the lines to print after training, from the content of result.json."""

    def __call__(self, console):
        if self.print_config:
            print(
                json.dumps(
                    {"task": self.config.task} | dataclasses.asdict(self.config),
                    indent=2,
                )
            )
            return
        if self.place.completed().processes > 1:
            # before XLA is imported: `processes.join` says in one line what XLA logs
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from lstm_jax.lab.machine import processes

        place = processes.join(self.place)
        if place.process or self.quiet or self.json:
            console = Console(quiet=True)
        start_training(
            processes.own_devices(self.config.train.devices, place), self.config.model
        )
        from lstm_jax.lab.tasks import TASKS

        trained = (
            TASKS[self.config.task]
            .module()
            .train(
                self.config,
                self.run,
                resume=self.resume,
                allow_other_machine=self.allow_other_machine,
                console=console,
                figures=self.figures,
                tracker=self.tracker,
            )
        )
        if place.process:
            return
        result = trained.metrics
        if self.json:
            print(json_text(result))
        for line in self.report(result):
            say(console, line)
        if result["stopped_early"]:
            say(
                console,
                f"stopped early: {self.config.train.patience} epochs without "
                "a better one (--patience)",
            )
        run, folder = shlex.quote(str(self.run)), self.run / "figures"
        figures = (
            sorted(
                f"figures/{path.name}"
                for path in folder.iterdir()
                if path.suffix != ".svg"
            )
            if self.figures
            else []
        )
        files = ", ".join(
            [*figures, *["metrics.jsonl"] * ("jsonl" in self.tracker), "result.json"]
        )
        say(
            console,
            f"in {self.run}: {files}"
            + f"; tensorboard --logdir {run}" * ("tensorboard" in self.tracker),
        )
        suggest(console, self.following, self.run)
