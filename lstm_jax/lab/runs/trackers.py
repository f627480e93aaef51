"""Callbacks that record a training at a service: `Wandb` and `Mlflow`.

with Mlflow("runs/a", {"units": 128}) as tracker:
lstm_jax.fit(..., callbacks=[tracker])
"""

import contextlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from types import MappingProxyType
from typing import ClassVar

from lstm_jax.base.errors import Interrupted, parsing, require
from lstm_jax.base.types import AnyPath, Values
from lstm_jax.base.writing import write_atomically
from lstm_jax.lab.config import flatten
from lstm_jax.training.fit import EpochRecord


class Tracker(ABC):
    """Callback that records a training at a service, from the beginning to the end of a
    with-statement.

    The file `NAME.id` in the folder keeps the id of the run at the service, so that a
    resumed training continues this run. After the training has begun, the first
    exception of the service is printed as a warning, and the training goes on.

    Args:
        folder: folder of the training, by which the run is named.
        config: config of the training, which may be nested.
        resume: whether to continue the run of the service, if the folder has one.

    Raises:
        InputError: if the package of the service is not installed, if the service
            refuses a run, or if the folder has one and `resume` is false.
    """

    package: ClassVar[str]
    """Name of the package of the service, and of the extra of this project that
    installs it."""
    remedy: ClassVar[str]
    """Advice to the user if the service refuses a run."""

    def __init__(
        self,
        folder: AnyPath,
        config: Mapping = MappingProxyType({}),
        resume: bool = False,
    ):
        remedy = f'pip install ".[{self.package}]"'
        with parsing(f"tracker {self.package}", remedy, ImportError):
            self.api = import_module(self.package)
        self.folder, self.config, self.resume = Path(folder), dict(config), resume
        self.failed = False

    @abstractmethod
    def start(self, known: str | None) -> str:
        """Start a run, or continue the run whose id is `known`, and return its id."""

    @abstractmethod
    def log(self, metrics: Values, step: int) -> None:
        """Log the metrics of an epoch."""

    @abstractmethod
    def log_result(
        self, metrics: Values, figures: Sequence[Path], files: Sequence[Path]
    ) -> None:
        """Log the result of a training; see `result`."""

    @abstractmethod
    def stop(self, status: str) -> None:
        """End the run as "finished", "interrupted" or "failed"."""

    def __enter__(self) -> "Tracker":
        file = self.folder / f"{self.package}.id"
        known = None
        if file.exists():
            remedy = "resume that one, or name another folder"
            require(self.resume, f"file {file}", "of another training", remedy)
            known = file.read_text()
        with parsing(f"tracker {self.package}", self.remedy):
            found = self.start(known)
        write_atomically(file, found)
        return self

    def __call__(self, record: EpochRecord) -> None:
        """Log the metrics of an epoch."""
        self._try(self.log, _numbers(record.row), record.step)

    def result(
        self, metrics: Values, figures: Sequence[Path] = (), files: Sequence[Path] = ()
    ) -> None:
        """Log the final metrics, the PNG files of figures, and files or folders in the
        folder of the training, such as its best checkpoint.
        """
        self._try(self.log_result, _numbers(metrics, "result/"), figures, files)

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        status = "finished" if kind is None else "failed"
        if kind and issubclass(kind, Interrupted | KeyboardInterrupt):
            status = "interrupted"
        self._try(self.stop, status)

    def _try(self, function: Callable, *args):
        try:
            function(*args)
        except Exception as error:
            if not self.failed:
                print(
                    f"warning: tracker {self.package}: {shorten(repr(error), 160)}; "
                    "nothing of the training itself is lost",
                    file=sys.stderr,
                )
            self.failed = True


def _numbers(metrics: Mapping, prefix: str = "") -> Values:
    return {
        prefix + name: value
        for name, value in metrics.items()
        if isinstance(value, int | float)
    }


class Wandb(Tracker):
    """Tracker of Weights & Biases. It logs the config, the metrics, the figures and, as
    artifact `best-ID`, the files of the result.

    The environment variables of the package wandb apply, such as WANDB_PROJECT,
    WANDB_MODE and WANDB_DIR.
    """

    package, remedy = "wandb", "log in, or set WANDB_MODE=offline; then resume"

    def start(self, known):
        self.run = self.api.init(
            id=known,
            resume="allow" if known else None,
            name=self.folder.absolute().name,
            config=self.config,
            reinit="create_new",
            settings={"console": "off"},
        )
        return self.run.id

    def log(self, metrics, step):
        self.run.log(metrics, step=step)

    def log_result(self, metrics, figures, files):
        images = {f"figures/{path.stem}": self.api.Image(path) for path in figures}
        self.run.log(metrics | images)
        artifact = self.api.Artifact(f"best-{self.run.id}", "model")
        for path in files:
            add = artifact.add_dir if path.is_dir() else artifact.add_file
            add(path, name=str(path.relative_to(self.folder)))
        if files:
            self.run.log_artifact(artifact)

    def stop(self, status):
        # 255, as wandb's own for Ctrl-C
        codes = {"finished": 0, "failed": 1, "interrupted": 255}
        self.run.finish(codes[status])


class Mlflow(Tracker):
    """Tracker of MLflow. It logs the config as parameters, the metrics and, as
    artifacts in `run/`, the figures and the files of the result.

    The environment variables of MLflow apply, such as MLFLOW_TRACKING_URI and
    MLFLOW_EXPERIMENT_NAME. A file store is allowed.
    """

    package, remedy = "mlflow", "give a store in MLFLOW_TRACKING_URI; then resume"

    def start(self, known):
        # else MLflow 3.17 refuses one
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        run = self.api.start_run(known, run_name=self.folder.absolute().name)
        # a resumed training may have more epochs, but MLflow changes no parameter
        if not known:
            self.api.log_params(flatten(self.config))
        return run.info.run_id

    def log(self, metrics, step):
        self.api.log_metrics(metrics, step)

    def log_result(self, metrics, figures, files):
        self.api.log_metrics(metrics)
        for path in (*figures, *files):
            folder = Path("run", path.relative_to(self.folder)).parent
            self.api.log_artifact(path, str(folder))

    def stop(self, status):
        # it prints the address of the run
        with contextlib.redirect_stdout(sys.stderr):
            self.api.end_run("KILLED" if status == "interrupted" else status.upper())


SERVICES = {"wandb": Wandb, "mlflow": Mlflow}
"""Dict from the name of a service to the class of its tracker."""
