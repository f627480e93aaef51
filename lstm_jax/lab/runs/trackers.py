"""Trackers: callbacks that a training calls at its beginning, after each epoch and at
its end, such as `Wandb` and `Mlflow`.

Example: `fit(..., callbacks=[Mlflow()])`. A tracker of one's own is a subclass of
`Tracker`.
"""

import contextlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import field
from functools import partial
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import ClassVar

from lstm_jax.base import processes
from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import Interrupted, parsing, require
from lstm_jax.base.types import Values
from lstm_jax.base.writing import write_atomically
from lstm_jax.training.callbacks import Callback, EpochRecord
from lstm_jax.training.config import flatten


@frozen
class About:
    """Description of a training that is about to begin."""

    config: dict[str, Values]
    """Config of the training: a dict from the name of a section to the dict of its
    values."""
    folder: Path | None = None
    """Folder of the run or, in `fit`, of the checkpoints. If None, nothing is saved."""
    resumed: bool = False
    """Whether the training was asked to resume the one in the folder, if there is one.
    """


@frozen
class Outcome:
    """Outcome of a training that has ended. Unless its status is "finished", all other
    fields are empty.
    """

    status: str
    """"finished", "interrupted" or "failed"."""
    metrics: Values = field(default_factory=dict)
    """Final metrics: those in result.json or, in `fit`, those of the best epoch."""
    figures: tuple[Path, ...] = ()
    """PNG files of the figures."""
    best: tuple[Path, ...] = ()
    """Folder of the best checkpoints and, in the run of a task, the other files that
    `load` reads. All are in `About.folder`."""


class Tracker:
    """Base class of trackers, whose methods do nothing.

    If `begin` raises an exception, the training does not begin. The first exception of
    the other methods is printed as a warning, and the training goes on. In a run of
    several processes, only process 0 calls a tracker.
    """

    remedy: ClassVar[str] = "correct it, or leave the tracker out"
    """Advice to the user if `begin` raises an exception."""

    def begin(self, about: About) -> None:
        """Begin to track a training."""

    def epoch(self, record: EpochRecord) -> None:
        """Track an epoch that has ended."""

    def end(self, outcome: Outcome) -> None:
        """Track the end of the training. This method is called if `begin` has returned,
        also after an interrupt or an error.
        """


@contextlib.contextmanager
def tracked(
    callbacks: Sequence[Callback | Tracker], about: About
) -> Iterator[tuple[list[Callback], Values]]:
    """Call `begin` of the trackers among `callbacks`, and at the end of the context
    their method `end`.

    Yields:
        the callbacks, with functions in place of the trackers, and a dict to which the
        fields of the `Outcome` are to be added.

    Raises:
        InputError: if `begin` of a tracker raises an exception.
    """
    begun = {}  # trackers, and whether none of their methods has failed yet

    def call(tracker, method, value):
        try:
            if tracker in begun:
                method(value)
        except Exception as error:
            if begun[tracker]:
                shown = f"tracker {type(tracker).__name__}: {shorten(repr(error), 160)}"
                print(
                    f"warning: {shown}; nothing of the training itself is lost",
                    file=sys.stderr,
                )
            begun[tracker] = False

    fields: Values = {"status": "failed"}
    try:
        with processes.together():
            for tracker in callbacks if processes.first() else ():
                if isinstance(tracker, Tracker):
                    with parsing(f"tracker {type(tracker).__name__}", tracker.remedy):
                        tracker.begin(about)
                    begun[tracker] = True
        yield (
            [
                partial(call, one, one.epoch) if isinstance(one, Tracker) else one
                for one in callbacks
            ],
            fields,
        )
        fields["status"] = "finished"
    except (Interrupted, KeyboardInterrupt):
        fields["status"] = "interrupted"
        raise
    finally:
        for tracker in begun:
            call(tracker, tracker.end, Outcome(**fields))


class Service(Tracker, ABC):
    """Base class of the trackers of a service, which knows a run by an id.

    The file `NAME.id` in the folder of the training keeps this id, so that a resumed
    training continues the same run of the service.

    Raises:
        InputError: if the package of the service is not installed.
    """

    package: ClassVar[str]
    """Name of the package of the service, and of the extra of this project that
    installs it."""

    def __init__(self):
        with parsing(
            f"tracker {self.package}", f'pip install ".[{self.package}]"', ImportError
        ):
            self.api = import_module(self.package)

    @abstractmethod
    def start(self, about: About, known: str | None) -> str:
        """Start a run, or continue the run whose id is `known`, and return its id."""

    def begin(self, about):
        self.folder, known = about.folder or Path(), None
        file = self.folder / f"{self.package}.id"
        if about.folder and file.exists():
            require(
                about.resumed,
                f"file {file}",
                "of another training",
                "resume that one, or name another folder",
            )
            known = file.read_text()
        found = self.start(about, known)
        if about.folder:
            write_atomically(file, found)


def _numbers(metrics, prefix=""):
    return {
        prefix + name: value
        for name, value in metrics.items()
        if isinstance(value, int | float)
    }


class Wandb(Service):
    """Tracker of Weights & Biases. It logs the config, the metrics, the figures and, as
    artifact `best-ID`, `Outcome.best`.

    The environment variables of the package wandb apply, such as WANDB_PROJECT,
    WANDB_MODE and WANDB_DIR.
    """

    package, remedy = "wandb", "log in, or set WANDB_MODE=offline; then resume"

    def start(self, about, known):
        name, settings = self.folder.absolute().name, {"console": "off"}
        resume = "allow" if known else None
        self.run = self.api.init(
            id=known,
            resume=resume,
            name=name,
            config=about.config,
            reinit="create_new",
            settings=settings,
        )
        return self.run.id

    def epoch(self, record):
        self.run.log(_numbers(record.row), step=record.step)

    def end(self, outcome):
        try:
            images = {
                f"figures/{path.stem}": self.api.Image(path) for path in outcome.figures
            }
            self.run.log(_numbers(outcome.metrics, "result/") | images)
            artifact = self.api.Artifact(f"best-{self.run.id}", "model")
            for path in outcome.best:
                add = artifact.add_dir if path.is_dir() else artifact.add_file
                add(path, name=str(path.relative_to(self.folder)))
            if outcome.best:
                self.run.log_artifact(artifact)
        finally:
            # 255, as wandb's own for Ctrl-C
            self.run.finish(
                {"finished": 0, "failed": 1, "interrupted": 255}[outcome.status]
            )


class Mlflow(Service):
    """Tracker of MLflow. It logs the config as parameters, the metrics and, as
    artifacts in `run/`, the figures and `Outcome.best`.

    The environment variables of MLflow apply, such as MLFLOW_TRACKING_URI and
    MLFLOW_EXPERIMENT_NAME. A file store is allowed.
    """

    package, remedy = "mlflow", "give a store in MLFLOW_TRACKING_URI; then resume"

    def start(self, about, known):
        # else MLflow 3.17 refuses one
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        run = self.api.start_run(known, run_name=self.folder.absolute().name)
        # a resumed training may have more epochs, but MLflow changes no parameter
        if not known:
            self.api.log_params(flatten(about.config))
        return run.info.run_id

    def epoch(self, record):
        self.api.log_metrics(_numbers(record.row), record.step)

    def end(self, outcome):
        try:
            self.api.log_metrics(_numbers(outcome.metrics, "result/"))
            for path in (*outcome.figures, *outcome.best):
                self.api.log_artifact(
                    path, str(Path("run", path.relative_to(self.folder)).parent)
                )
        finally:
            # it prints the address of the run
            with contextlib.redirect_stdout(sys.stderr):
                self.api.end_run(
                    "KILLED"
                    if outcome.status == "interrupted"
                    else outcome.status.upper()
                )


SERVICES = {"wandb": Wandb, "mlflow": Mlflow}
"""Dict from the name of a service to the class of its tracker."""
