"""Base classes of a task (`Task`) and of its trained runs (`Trained`), with the `train` and `load` that all tasks share.

A new task needs a module in this folder with a subclass of `Task` and one of `Trained`, a config with a row in
`lstm_jax.config.CONFIGS`, and its commands.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from lstm_jax.config import RunConfig, read_config
from lstm_jax.models import Functional, functional, replaced
from lstm_jax.runtime import sharding
from lstm_jax.tasks.memory import require_memory
from lstm_jax.tasks.running import Content, Permissions, Run, begin, load_params, open_run, summary
from lstm_jax.training.callbacks import Callback
from lstm_jax.training.examples import Examples
from lstm_jax.training.loop import FitResult, fit
from lstm_jax.training.run_folder import RunFolder
from lstm_jax.training.step import Objective

C = TypeVar("C", bound=RunConfig)
D = TypeVar("D")
Own = TypeVar("Own")
T = TypeVar("T", bound="Trained")


class Task(ABC, Generic[C, D]):
    """One run of a task: how its config and data become a model, a loss and metrics.

    Args:
        config: the whole config of the run.
        data: the data that `read` returns; they have an attribute `fingerprint`.
        mesh: devices that a batch is sharded over.
    """

    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    """Names of the metrics that the objective returns."""
    flags: ClassVar[dict[str, str]]
    """Flags to lower for "parameters", "residuals" and "data", which the error for too little memory names."""

    def __init__(self, config: C, data: D, mesh: Mesh):
        self.config, self.data, self.mesh = config, data, mesh

    @classmethod
    @abstractmethod
    def read(cls, config: C, console: Console) -> D:
        """Read the data that the config names."""

    @abstractmethod
    def batch(self) -> Any:
        """Return the shapes and dtypes of one batch, as a pytree of `jax.ShapeDtypeStruct`."""

    @abstractmethod
    def data_bytes(self) -> int:
        """Return the size of the data in memory, in bytes."""

    @abstractmethod
    def examples(self) -> Examples:
        """Return the training examples that an epoch reads."""

    @abstractmethod
    def files(self) -> Mapping[str, Content]:
        """Return the contents of the task's own files, by file name; predictions of the run depend on them (see `manifest.FILES`)."""

    @abstractmethod
    def make_model(self) -> Any:
        """Return the model with its initial weights; their random values depend only on the seed."""

    @abstractmethod
    def shapes(self) -> str:
        """Return the shapes of the input and the output, as a title for the table of layers."""

    @abstractmethod
    def objective(self, rebuild: Callable) -> Objective:
        """Return the function that computes loss and metrics of a batch; `rebuild` is a function from parameters to the model."""

    @abstractmethod
    def evaluate(self, params: Any) -> dict[str, Any]:
        """Return the metrics of the held-out splits, which become part of the row of an epoch."""

    @abstractmethod
    def finish(self, folder: RunFolder, result: FitResult, figures: bool) -> None:
        """Write result.json with the final metrics, and draw the figures if `figures` is true."""

    @property
    def monitor(self) -> str:
        """Name of the metric whose smallest value selects the best epoch, or "" if no metric selects it."""
        return "validation_loss"

    def carry(self, model: Any) -> Any:
        """Return the initial carry of an epoch (see `loop.fit`), or () if steps hand nothing on."""
        return ()

    def derive(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return further metrics, computed from the training metrics of an epoch."""
        return {}

    def notes(self, run: Run) -> Iterable[str]:
        """Return lines to print before training: sizes of the data, backend, devices."""
        return ()

    def callbacks(self, folder: RunFolder, console: Console) -> Sequence[Callback]:
        """Return the callbacks that this task adds to the built-in ones."""
        return ()

    @cached_property
    def model(self) -> Any:
        """Model with its initial weights."""
        return self.make_model()

    @cached_property
    def functional(self) -> Functional:
        """Initial parameters, and the function that rebuilds the model from parameters."""
        return functional(self.model)

    @classmethod
    def train(
        cls,
        config: C,
        folder: Path,
        *,
        data: D | None = None,
        initial: Mapping[str, jax.Array | np.ndarray] | None = None,
        resume: bool = False,
        allow_other_machine: bool = False,
        console: Console | None = None,
        callbacks: Sequence[Callback] = (),
        figures: bool = True,
    ) -> FitResult:
        """Train a model, and write the run to `folder`, as `lstm-jax train` does.

        Args:
            config: config of the run; the whole of it is written to the folder.
            folder: a new folder, or the folder of an interrupted run if `resume` is true.
            data: data in memory; if None, the data that the config names are read.
            initial: initial parameters by name, as in `Functional.params`. Parameters that it does not name are drawn from the seed.
            resume: whether to continue the interrupted run in the folder.
            allow_other_machine: whether to resume even if devices, versions or compiled code have changed. The last bits of later numbers
                then differ.
            console: console that shows progress and the table of layers; if None, nothing is shown.
            callbacks: functions that are called after each epoch, after the built-in callbacks.
            figures: whether to draw the figures at the end.

        Returns:
            Parameters of the best epoch (of the last epoch if no metric is monitored), and a row of metrics for each epoch.

        Raises:
            InputError: if the input is invalid, for example if the model has no parameter of a name in `initial`.
            Interrupted: after SIGINT or SIGTERM, once the state has been saved.
        """
        console = console or Console(quiet=True)
        mesh = sharding.make_mesh(config.train.devices)
        task = cls(config, cls.read(config, console) if data is None else data, mesh)
        require_memory(
            config, task.make_model, task.objective, task.batch(), mesh, cls.flags, data_bytes=task.data_bytes(), carry=task.carry
        )
        examples, (params, rebuild) = task.examples(), task.functional
        params = replaced(params, initial or {})
        permissions, fingerprint = Permissions(resume, allow_other_machine), getattr(task.data, "fingerprint")  # noqa: B009
        with begin(config, folder, mesh, examples.count, fingerprint, task.files(), permissions, console) as run:
            console.print(summary(task.model, task.shapes()))
            for note in task.notes(run):
                console.print(note, highlight=False, markup=False, soft_wrap=True)
            result = fit(
                params,
                task.objective(rebuild),
                run.optimizer,
                examples,
                config.train,
                mesh,
                carry=task.carry(task.model),
                metrics=cls.metrics,
                derive=task.derive,
                evaluate=task.evaluate,
                monitor=task.monitor,
                checkpoints=run.folder.checkpoints,
                resume=resume,
                callbacks=run.callbacks(console, (*task.callbacks(run.folder, console), *callbacks)),
                console=console,
            )
            task.finish(run.folder, result, figures)
            return result


@dataclass(frozen=True)
class Trained(ABC, Generic[C, Own]):
    """A trained run, loaded from its folder.

    A subclass adds the methods that use the model.
    """

    run: RunFolder
    config: C
    params: dict[str, np.ndarray]
    notes: tuple[str, ...]
    """Warnings about the folder and its checkpoints."""
    rebuild: Callable[..., Any]
    own: Own
    """Content of the task's own file in the run folder, as `_read_own` returns it."""

    kind: ClassVar[type[RunConfig]]

    @staticmethod
    @abstractmethod
    def _read_own(run: RunFolder) -> Own:
        """Return the content of the task's own file in the run folder, for example the vocabulary."""

    @staticmethod
    @abstractmethod
    def _make_model(config: C, own: Own) -> nnx.Module:
        """Return a model of the sizes in `config`; `own` is what `_read_own` returned."""

    @classmethod
    def load(cls: type[T], folder: Path) -> T:
        """Load a run with the parameters of its best epoch, or of its newest epoch if no validation split selected one.

        Raises:
            InputError: if the folder holds no run of this task, one of its files has changed, or no intact checkpoint is left in it.
        """
        run, notes = open_run(folder)
        config = read_config(run.config, cls.kind)
        own = cls._read_own(run)
        like, rebuild = functional(cls._make_model(config, own))
        params, damaged = load_params(run, like)
        return cls(run, config, params, notes + damaged, rebuild, own)
