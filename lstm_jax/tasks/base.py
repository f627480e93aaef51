"""Base class of the tasks (`Task`), and base class of the trained models of the tasks (`Trained`).

A new task needs three modules, each with the name of the task:
- One in this folder, with a subclass of `Task`, a subclass of `Trained`, and the functions `train` and `load`.
- One in `lstm_jax.config`, with the class of its config. The dict `lstm_jax.config.CONFIGS` then contains this class.
- One in `lstm_jax.commands`, with the classes of the task's commands, and a dict `COMMANDS` from the name of each command to its class.
"""

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from lstm_jax.config import RunConfig, read_config
from lstm_jax.errors import require
from lstm_jax.models import Functional, check_products, functional, replaced, set_products
from lstm_jax.runtime import processes, sharding
from lstm_jax.tasks.memory import require_memory
from lstm_jax.tasks.running import Content, Permissions, Run, begin, check_processes, load_params, summary
from lstm_jax.training.callbacks import Callback
from lstm_jax.training.checkpoint import steps
from lstm_jax.training.examples import Examples
from lstm_jax.training.loop import FitResult, fit
from lstm_jax.training.run_folder import RunFolder
from lstm_jax.training.step import Objective

C = TypeVar("C", bound=RunConfig)
D = TypeVar("D")
Own = TypeVar("Own")
T = TypeVar("T", bound="Trained")


class Task(ABC, Generic[C, D]):
    """Base class of a task, which makes the model, the loss and the metrics of a training run from its config and its data.

    Args:
        config: config of the run.
        data: data of the run, as `read` returns them. They have an attribute `fingerprint`, which is a checksum of the data.
        mesh: device mesh over which each batch is sharded.
    """

    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    """Names of the metrics that the objective returns."""
    table: ClassVar[str] = ""
    """Name of a parameter that the objective uses only to look up rows, or "". A step updates only those of its rows that are looked up."""
    flags: ClassVar[dict[str, str]]
    """Command-line flags that the user can lower if there is not enough memory: a dict from a kind of arrays to flags. The kinds are
    "parameters", "residuals" (arrays that the forward pass keeps for the backward pass) and "data". The error message names the flags of
    the kind that needs the most memory."""

    def __init__(self, config: C, data: D, mesh: Mesh):
        self.config, self.data, self.mesh = config, data, mesh

    @classmethod
    @abstractmethod
    def read(cls, config: C, console: Console) -> D:
        """Read and return the data that the config names. The progress may be shown on `console`."""

    @abstractmethod
    def batch(self) -> Any:
        """Return the shapes and dtypes of one batch, as a pytree of `jax.ShapeDtypeStruct`."""

    @abstractmethod
    def data_bytes(self) -> int:
        """Return the number of bytes of data in memory, counted once, that `memory.require_memory` takes into account."""

    @abstractmethod
    def examples(self) -> Examples:
        """Return the training examples: their arrays, and functions that read batches from them."""

    @abstractmethod
    def files(self) -> Mapping[str, Content]:
        """Return the task's own files in the run folder, as a dict from the name of a file to its content.

        An example is the file of the vocabulary. Predictions depend on these files. Therefore the manifest of the run contains the
        checksums of all files that `RunConfig.files` names.
        """

    @abstractmethod
    def make_model(self) -> Any:
        """Return a new model, whose random initial weights are drawn from the seed in the config."""

    @abstractmethod
    def shapes(self) -> str:
        """Return the shapes of the input and the output of the model as text, for the title of the table of layers."""

    @abstractmethod
    def objective(self, rebuild: Callable) -> Objective:
        """Return the function that computes the loss and the metrics of a batch (a `training.step.Objective`).

        Args:
            rebuild: function from parameters to the model.
        """

    @abstractmethod
    def evaluate(self, params: Any) -> dict[str, Any]:
        """Evaluate the model with the parameters `params` on held-out splits, and return the metrics.

        The training loop calls this method after each epoch, and stores the returned metrics with the training metrics of the epoch.
        """

    @abstractmethod
    def finish(self, folder: RunFolder, result: FitResult, figures: bool) -> None:
        """Write the final metrics to result.json in the run folder, and draw the figures if `figures` is true."""

    @property
    def monitor(self) -> str:
        """Name of the metric that selects the best epoch.

        The epoch with the smallest value of this metric is the best one. If the name is empty, no epoch is selected.
        """
        return "validation_loss"

    def carry(self, model: Any) -> Any:
        """Return the initial carry of each epoch.

        The carry is a pytree of arrays that each training step hands to the next step, such as the recurrent state of a text stream. The
        default, (), means that steps hand nothing to the next step.
        """
        return ()

    def derive(self, row: dict[str, Any]) -> dict[str, Any]:
        """Compute and return further metrics of an epoch from its training metrics `row`, for example the perplexity from the loss."""
        return {}

    def notes(self, run: Run) -> Iterable[str]:
        """Return lines to print before training, such as the sizes of the data, the backend and the number of devices.

        `run` is the run that is about to be trained, as `running.begin` yields it.
        """
        return ()

    def pretrained(self, folder: RunFolder, resume: bool, console: Console) -> Mapping[str, Any]:
        """Train other models that initialise the model of the task, and return a dict from names of parameters to their initial values.

        By default, no other model is trained, and the dict is empty. If a resumed run already has a checkpoint of the model of the task,
        the method is not called.

        Args:
            folder: folder of the run.
            resume: whether an interrupted run is continued.
            console: console that shows progress.
        """
        return {}

    def callbacks(self, folder: RunFolder, console: Console) -> Sequence[Callback]:
        """Return the callbacks of this task, which are called after each epoch in addition to the built-in callbacks."""
        return ()

    def check_memory(self) -> None:
        """Check that the training fits into the free memory.

        Raises:
            InputError: if it does not fit.
        """
        shapes = self.batch(), self.mesh, self.flags
        require_memory(self.config, self.make_model, self.objective, *shapes, data_bytes=self.data_bytes(), carry=self.carry)

    @cached_property
    def model(self) -> Any:
        """Model with its initial weights."""
        return self.make_model()

    @cached_property
    def functional(self) -> Functional:
        """Functional form of the model: its initial parameters, and a function that rebuilds the model from parameters."""
        return functional(self.model)

    @classmethod
    def train(
        cls,
        config: C,
        folder: str | os.PathLike[str],
        *,
        data: D | None = None,
        initial: Mapping[str, jax.Array | np.ndarray] | None = None,
        resume: bool = False,
        allow_other_machine: bool = False,
        console: Console | None = None,
        callbacks: Sequence[Callback] = (),
        figures: bool = True,
    ) -> FitResult:
        """Train a model and write the folder of the run, as the command `lstm-jax train` does.

        Args:
            config: config of the run, which is also written to the folder.
            folder: folder of the run. If `resume` is true, it may hold a run that was interrupted or has ended, otherwise it must hold no
                file that a run writes.
            data: the data, if they are in memory already. If None, the data that the config names are read.
            initial: dict from the name of a parameter in `Functional.params` to its initial value. All other parameters get random initial
                values.
            resume: whether to continue the run in the folder. If the schedule of the learning rate is constant, the config may then have
                more epochs than the run was started with, even if the run has ended. The result is bitwise the same as that of one
                uninterrupted run of that many epochs.
            allow_other_machine: whether to resume even if devices, package versions or compiled code have changed. The metrics can then
                differ in their last bits from those of an uninterrupted run.
            console: console that shows the progress and a table of the model's layers. If None, nothing is shown.
            callbacks: functions that are called after each epoch, after the built-in callbacks.
            figures: whether to draw the figures at the end.

        Returns:
            The parameters of the best epoch (of the last epoch if no metric is monitored), and the metrics of each epoch.

        Raises:
            InputError: in one of these cases.

                - The config, the data or the folder is invalid.
                - `initial` contains a name that is not a parameter of the model, or an array of another shape than the parameter.
                - The training does not fit into the free memory.
                - The config of a new run sets a patience, but the task monitors no metric.

            Interrupted: if SIGINT or SIGTERM arrives. The state has been saved before this error is raised.
        """
        console = console or Console(quiet=True)
        check_processes(config, resume)
        mesh = sharding.make_mesh(config.train.devices)
        with processes.together():
            task = cls(config, cls.read(config, console) if data is None else data, mesh)
            task.check_memory()
            remedy = "early stopping needs a validation split: give --validation, or --patience 0"
            idle = bool(config.train.patience) and not task.monitor
            begun = resume and RunFolder(Path(folder)).config.exists()  # an older version let such runs start
            require(begun or not idle, "patience", config.train.patience, remedy)
            examples, (params, rebuild) = task.examples(), task.functional
            params = replaced(params, initial or {})
        permissions, fingerprint = Permissions(resume, allow_other_machine), getattr(task.data, "fingerprint")  # noqa: B009
        with begin(config, folder, mesh, examples.count, fingerprint, task.files(), permissions, console) as run:
            console.print(summary(task.model, task.shapes()))
            for note in task.notes(run):
                console.print(note, highlight=False, markup=False, soft_wrap=not console.is_terminal)
            if not (resume and steps(run.folder.checkpoints / "latest")):
                params = replaced(params, {**task.pretrained(run.folder, resume, console), **(initial or {})})
            result = fit(
                params,
                task.objective(rebuild),
                run.optimizer,
                examples,
                config.train,
                mesh,
                carry=task.carry(task.model),
                table=cls.table,
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
    """Base class of a trained model that has been loaded, with its config, from the folder of its training run.

    A subclass adds methods that use the model, for example to classify texts.
    """

    run: RunFolder
    config: C
    params: dict[str, np.ndarray]
    notes: tuple[str, ...]
    """Warnings about the run, for example that a checkpoint is damaged and an older one is used."""
    rebuild: Callable[..., Any]
    own: Own
    """Content of the task's own file in the run folder, for example the vocabulary, as `_read_own` returns it."""

    kind: ClassVar[type[RunConfig]]

    @property
    def model(self) -> Any:
        """Flax NNX module with the trained parameters.

        Each access returns a new module. A change to this module affects neither later accesses nor the methods of this class. If the
        config has dropout, a call of the module applies dropout by default, and needs `rngs`. To run the module without dropout, call its
        method `eval()` first, or pass `deterministic=True`.
        """
        return self.rebuild({name: jnp.asarray(array) for name, array in self.params.items()})

    def with_products(self: T, dtype: str) -> T:
        """Return a copy of this trained model whose recurrent layers multiply matrices in another dtype; see `models.set_products`.

        Args:
            dtype: "float32", "bfloat16" or "int8".

        Raises:
            InputError: if `dtype` is none of these names.
        """
        check_products(dtype)
        return dataclasses.replace(self, rebuild=lambda params: set_products(self.rebuild(params), dtype))

    @staticmethod
    @abstractmethod
    def _read_own(run: RunFolder) -> Own:
        """Read the task's own file in the run folder, for example the vocabulary, and return its content."""

    @staticmethod
    @abstractmethod
    def _make_model(config: C, own: Own) -> nnx.Module:
        """Return a new model with the sizes in `config`."""

    @classmethod
    def load(cls: type[T], folder: str | os.PathLike[str]) -> T:
        """Load the trained model of a training run from the folder of the run.

        The parameters are those of the best epoch. If no metric selects the best epoch, they are those of the newest epoch.

        Raises:
            InputError: if the folder does not hold a run of this task, if one of its files has changed, or if none of its checkpoints is
                intact.
        """
        run = RunFolder(Path(folder))
        notes = run.verify()
        config = _with_found_data(read_config(run.config, cls.kind), run)
        own = cls._read_own(run)
        like, rebuild = functional(cls._make_model(config, own))
        params, damaged = load_params(run, like)
        return cls(run, config, params, notes + damaged, rebuild, own)


def _with_found_data(config: Any, run: RunFolder) -> Any:
    """Resolve relative paths of the data that exist only relative to the folder in which the training was started."""
    started = Path(next((found["folder"] for found in reversed(run.environments()) if "folder" in found), ""))

    def found(path: str) -> str:
        return str(started / path) if path and not Path(path).exists() and (started / path).exists() else path

    given = {name: getattr(config.data, name) for name in ("data", "test_data", "csv") if hasattr(config.data, name)}
    paths = {name: found(value) if isinstance(value, str) else tuple(map(found, value)) for name, value in given.items()}
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **paths))
