"""Protocol of a task: data, model, objective, evaluate, finish; and the `train` and `load` that all tasks share.

A new task is a file here with a subclass of `Task` and one of `Trained`, a config with a row in `lstm_jax.config.CONFIGS`, and its
commands.
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
T = TypeVar("T", bound="Trained")


class Task(ABC, Generic[C, D]):
    """One run of a task: how its config and data become a model, a loss and metrics.

    Args:
        config: the whole config of the run.
        data: as `read` returns it; it has a `fingerprint`.
        mesh: devices.
    """

    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    """Names of the metrics that the objective returns."""
    flags: ClassVar[dict[str, str]]
    """Flags that make parameters, residuals and data smaller, shown if memory does not suffice."""

    def __init__(self, config: C, data: D, mesh: Mesh):
        self.config, self.data, self.mesh = config, data, mesh

    @classmethod
    @abstractmethod
    def read(cls, config: C, console: Console) -> D:
        """Read the data that the config names."""

    @abstractmethod
    def batch(self) -> Any:
        """Return shapes and types of one batch of the objective."""

    @abstractmethod
    def data_bytes(self) -> int:
        """Return the size of the examples in memory."""

    @abstractmethod
    def examples(self) -> Examples:
        """Return the examples of an epoch."""

    @abstractmethod
    def files(self) -> Mapping[str, Content]:
        """Return the files that answers of the run depend on, by name; see `manifest.FILES`."""

    @abstractmethod
    def make_model(self) -> Any:
        """Return the model with its initial weights, which depend on the seed alone."""

    @abstractmethod
    def shapes(self) -> str:
        """Return the shapes of input and output, for the title of the table of layers."""

    @abstractmethod
    def objective(self, rebuild: Callable) -> Objective:
        """Return the loss of one batch."""

    @abstractmethod
    def evaluate(self, params: Any) -> dict[str, Any]:
        """Return the metrics of the parts that are not trained on, for the row of an epoch."""

    @abstractmethod
    def finish(self, folder: RunFolder, result: FitResult, figures: bool) -> None:
        """Write result.json with the final metrics, and the figures if asked."""

    @property
    def monitor(self) -> str:
        """Name of the metric that selects the best epoch; empty for none."""
        return "validation_loss"

    def carry(self, model: Any) -> Any:
        """Return the initial carry of an epoch, see `loop.fit`; () for none."""
        return ()

    def derive(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return further metrics, computed from the training metrics of an epoch."""
        return {}

    def notes(self, run: Run) -> Iterable[str]:
        """Return lines to print before training: sizes of the data, backend, devices."""
        return ()

    def callbacks(self, folder: RunFolder, console: Console) -> Sequence[Callback]:
        """Return the callbacks of the task itself."""
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
        """Train a run in `folder`, as `lstm-jax train` does.

        Args:
            config: written to the folder as a whole.
            folder: a new folder, or with `resume` the folder of an interrupted run.
            data: data in memory; None to read what the config names.
            initial: parameters by name, as in `Functional.params`, that replace those drawn from the seed; some or all.
            resume: continue the interrupted run in the folder.
            allow_other_machine: resume even if devices, versions or compiled code have changed: the last bits will differ.
            console: shows progress and the table of layers.
            callbacks: called after each epoch, after the built-in ones.
            figures: draw the figures at the end.

        Returns:
            Parameters of the best epoch, and a row of metrics for each epoch.

        Raises:
            InputError: for bad input, such as an initial parameter that the model does not have.
            Interrupted: after SIGINT or SIGTERM, when the state is saved.
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
class Trained(ABC, Generic[C]):
    """A run read back. A subclass adds one field, what `_read_own` returns, and the answers of the task."""

    run: RunFolder
    config: C
    params: dict[str, np.ndarray]
    notes: tuple[str, ...]
    """Warnings about the folder and its checkpoints."""
    rebuild: Callable[..., Any]

    kind: ClassVar[type[RunConfig]]

    @staticmethod
    @abstractmethod
    def _read_own(run: RunFolder) -> Any:
        """Read the file of the run that its answers depend on."""

    @staticmethod
    @abstractmethod
    def _make_model(config: Any, own: Any) -> nnx.Module:
        """Return a model of the config."""

    @classmethod
    def load(cls: type[T], folder: Path) -> T:
        """Read a run: the parameters of its best epoch where a validation part selected one, else those of the newest epoch.

        Raises:
            InputError: if the folder holds no run of this task, one of its files has changed, or no good checkpoint is left in it.
        """
        run, notes = open_run(folder)
        config = read_config(run.config, cls.kind)
        own = cls._read_own(run)
        like, rebuild = functional(cls._make_model(config, own))
        params, damaged = load_params(run, like)
        return cls(run, config, params, notes + damaged, rebuild, own)  # type: ignore[call-arg]
