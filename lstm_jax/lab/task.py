"""Base class of the tasks (`Task`), and base class of the trained models of the tasks
(`Trained`).

A task is one folder of `lstm_jax.lab` and one row in `lstm_jax.lab.tasks`. Its modules
are `config`, `task` (a subclass of `Task`, a subclass of `Trained`, and the functions
`train` and `load`) and `command` (a dict `COMMANDS` from the name of each command to its
class).
"""

import contextlib
import itertools
import json
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, ClassVar, Generic, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh
from numpy import ndarray
from rich.console import Console
from rich.table import Column, Table

from lstm_jax import native
from lstm_jax.base import processes, sharding
from lstm_jax.base.checks import checked, frozen
from lstm_jax.base.errors import InputError, parsing, require
from lstm_jax.base.types import AnyPath, Texts, Values
from lstm_jax.base.writing import MARK, write_atomically
from lstm_jax.cells import CELLS
from lstm_jax.lab.config import (
    RunConfig,
    Trackers,
    config_values,
    flatten,
    read_config,
    to_json,
)
from lstm_jax.lab.files.reading import read_input
from lstm_jax.lab.files.text import json_text
from lstm_jax.lab.inspection.figures import learning_curves
from lstm_jax.lab.machine import resources
from lstm_jax.lab.machine.console import say
from lstm_jax.lab.machine.processes import CONNECT_SECONDS, code_digest
from lstm_jax.lab.model import layer_rows, replaced
from lstm_jax.lab.optimizers import make_optimizer
from lstm_jax.lab.runs.folder import (
    RunFolder,
    differences,
    environment,
    same_data,
    versions,
)
from lstm_jax.lab.runs.reports import metrics_file, print_row, progress, tensorboard
from lstm_jax.lab.runs.trackers import SERVICES
from lstm_jax.layers.products import check_products, set_products
from lstm_jax.recurrence import ZONEOUT, dropout_kinds, resolve_backend
from lstm_jax.recurrence.dropout import draw_masks
from lstm_jax.training import checkpoint
from lstm_jax.training.config import TrainConfig
from lstm_jax.training.examples import Examples, steps_per_epoch
from lstm_jax.training.fit import (
    Callback,
    FitResult,
    Metrics,
    check_batch_size,
    run_epochs,
)
from lstm_jax.training.parts import Functional, functional
from lstm_jax.training.row_sparse import Optimizer
from lstm_jax.training.step import Objective

C = TypeVar("C", bound=RunConfig)
D = TypeVar("D")
Own = TypeVar("Own")
T = TypeVar("T", bound="Trained")

Results = tuple[Metrics, Callable[[], object]]
"""Metrics of a trained model for result.json, and a function that draws the task's own
figures."""
Content = str | bytes | Callable[[IO[bytes]], object]
"""Content of a file: a string, bytes, or a function that writes the content to an open
binary file (see `write_atomically`)."""
SHARED_SECONDS = 10.0
"""Number of seconds until each process must see a file that process 0 has written. A
network file system can delay it."""


@frozen
class TaskResult(FitResult):
    """Result of the training of a task, with the metrics in its result.json."""

    metrics: Metrics


@frozen
class Start:
    """Training run that is about to begin: the name of its backend, its optimiser, and
    the number of its training examples.
    """

    backend: str
    optimizer: Optimizer
    examples: int


class Training(ABC):
    """Base class of a training: its model, its objective, the shapes of its batches,
    and the memory that it needs.
    """

    flags: ClassVar[dict[str, str]]
    """Command-line flags that the user can lower if there is not enough memory: a dict
    from a kind of arrays to flags. The kinds are "parameters", "residuals" (arrays that
    the forward pass keeps for the backward pass) and "data". The error message names
    the flags of the kind that needs the most memory."""

    def __init__(self, train: TrainConfig, mesh: Mesh):
        self.train_config, self.mesh = train, mesh

    @abstractmethod
    def batch(self) -> Any:
        """Return the shapes and dtypes of one batch, as a pytree of
        `jax.ShapeDtypeStruct`.
        """

    @abstractmethod
    def data_bytes(self) -> int:
        """Return the number of bytes of data in memory, counted once, that
        `check_memory` takes into account.
        """

    @abstractmethod
    def make_model(self) -> Any:
        """Return a new model, whose random initial weights are drawn from the seed in
        the config.
        """

    @abstractmethod
    def objective(self, rebuild: Callable) -> Objective:
        """Return the function that computes the loss and the metrics of a batch.
        `rebuild` is a function from parameters to the model.
        """

    def carry(self, model) -> Any:
        """Return the initial carry of each epoch: arrays that each training step hands
        to the next, such as a recurrent state.
        """
        return ()

    @cached_property
    def model(self) -> Any:
        """Model with its initial weights."""
        return self.make_model()

    @cached_property
    def functional(self) -> Functional:
        """Functional form of the model: its initial parameters, and a function that
        rebuilds the model from parameters.
        """
        return functional(self.model)

    def check_memory(self) -> None:
        """Raise an `InputError` unless the training fits into the free memory.

        The needed memory is a lower bound, which is computed from array shapes before
        any array is allocated.
        """
        train, mesh = self.train_config, self.mesh
        optimizer = make_optimizer(TrainConfig(optimizer=train.optimizer), 1)
        size = train.batch_size // train.microbatches

        def trace(batch):
            model = self.make_model()
            params, rebuild = functional(model)
            batch, carried = jax.tree.map(
                lambda rows: rows[:size], (batch, self.carry(model))
            )
            loss = self.objective(rebuild)
            rest = (carried,) if jax.tree.leaves(carried) else ()
            key = jax.random.key(0)
            _, residuals, _ = jax.vjp(
                lambda params: loss(
                    params, batch, jnp.full(size, 1 / size), key, *rest
                ),
                params,
                has_aux=True,
            )
            return params, optimizer.init(params), residuals

        with sharding.on(mesh):
            params, moments, residuals = jax.eval_shape(trace, self.batch())
        cpu = _is_cpu(mesh)
        params, moments = (
            _bytes(tree, 1 if cpu else mesh.size) for tree in (params, moments)
        )
        # devices whose arrays lie in the memory that is checked
        sharing = len(mesh.local_devices) if cpu else 1
        residuals = _bytes(residuals) * sharing // mesh.size
        # initial, trained, gradients of the batch and of a microbatch
        copies = (3 if train.microbatches == 1 else 4) * params
        # copies on devices: several processes place a few batches at a time
        placed = 0 if processes.several() else mesh.size if cpu else 1
        # CPU devices lie in the memory of the host, which has a copy
        data = self.data_bytes() * (placed + cpu)
        _, largest = max(
            (copies + moments, "parameters"), (residuals, "residuals"), (data, "data")
        )
        needed = {
            "parameters": copies,
            "moments of the optimiser": moments,
            "residuals of a batch": residuals,
            "training data": data,
        }
        parts = ", ".join(f"{name} {_shown(count)}" for name, count in needed.items())
        require_free(
            sum(needed.values()), mesh, f"{parts}: lower {self.flags[largest]}"
        )


def require_free(needed: int, mesh: Mesh, remedy: str) -> None:
    """Check that at least `needed` bytes of memory are free. If the free memory is
    unknown, do nothing.
    """
    free = _free(mesh)
    require(
        free is None or needed <= free,
        "memory",
        f"{_shown(needed)} needed, {_shown(free or 0)} free",
        remedy,
    )


def _is_cpu(mesh: Mesh) -> bool:
    return mesh.local_devices[0].platform == "cpu"


def _bytes(tree, devices: int = 1) -> int:
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        total += (
            leaf.size
            * leaf.dtype.itemsize
            // (devices if sharding.param_spec(devices, path, leaf) else 1)
        )
    return total


def _shown(count: int) -> str:
    return f"{count / 2**30:,.2f} GiB"


def _free(mesh: Mesh) -> int | None:
    if _is_cpu(mesh):
        return resources.free_memory()
    stats = mesh.local_devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return None


class Task(Training, Generic[C, D]):
    """Base class of a task, which makes the model, the loss and the metrics of a
    training run from its config and its data.

    Args:
        config: config of the run.
        data: data of the run, as `read` returns them, with their checksum as
            `fingerprint`.
        mesh: device mesh over which each batch is sharded.
    """

    metrics: ClassVar[Texts] = ("loss", "accuracy")
    """Names of the metrics that the objective returns."""
    curves: ClassVar[Texts] = ("loss", "accuracy")
    """Metrics that the figure of learning curves shows; see `figures.learning_curves`.
    """
    table: ClassVar[str] = ""
    """Name of a parameter that the objective uses only to look up rows, or "". A step
    updates only those of its rows that are looked up."""

    def __init__(self, config: C, data: D, mesh: Mesh):
        super().__init__(config.train, mesh)
        self.config, self.data = config, data

    @classmethod
    @abstractmethod
    def read(cls, config: C, console: Console) -> D:
        """Read and return the data that the config names. The progress may be shown on
        `console`.
        """

    @abstractmethod
    def examples(self) -> Examples:
        """Return the training examples: their arrays, and functions that read batches
        from them.
        """

    @abstractmethod
    def files(self) -> Mapping[str, Content]:
        """Return the task's own files in the run folder, on which predictions depend,
        such as the vocabulary, as a dict from the name of a file to its content.

        `RunConfig.files` names them, and the manifest of the run has their checksums.
        """

    @abstractmethod
    def shapes(self) -> str:
        """Return the shapes of the input and the output of the model as text, for the
        title of the table of layers.
        """

    @abstractmethod
    def evaluate(self, params) -> Metrics:
        """Evaluate the model with the parameters `params` on held-out splits, and
        return the metrics. This is called after each epoch.
        """

    @abstractmethod
    def results(self, run: RunFolder, params) -> Results:
        """Return the results of the training, whose parameters are `params`."""

    def finish(self, run: RunFolder, result: FitResult, figures: bool) -> Metrics:
        """Write the final metrics to result.json in the run folder, draw the figures if
        `figures` is true, and return the metrics.
        """
        metrics, draw = self.results(run, result.params)
        metrics = {
            "best_epoch": result.best_epoch,
            "stopped_early": result.stopped_early,
            "seconds": result.seconds,
        } | metrics
        write_atomically(run.result, json_text(metrics, indent=2) + "\n")
        if figures:
            learning_curves(
                result.rows,
                run.figures / "learning_curves.png",
                "Learning curves",
                self.curves,
            )
            draw()
        return metrics

    @property
    def monitor(self) -> str:
        """Name of the metric whose smallest value selects the best epoch. If empty, no
        epoch is selected.
        """
        return "validation_loss"

    def derive(self, row: Metrics) -> Metrics:
        """Compute and return further metrics of an epoch from its training metrics
        `row`, for example the perplexity from the loss.
        """
        return {}

    def notes(self, start: Start) -> Iterable[str]:
        """Return lines to print before training, such as the sizes of the data, the
        backend and the number of devices.
        """
        return ()

    def pretrained(self, run: RunFolder, resume: bool, console: Console) -> Mapping:
        """Train other models that initialise the model of the task, and return a dict
        from names of parameters to their initial values.

        A resumed run that has a checkpoint of the task's model does not call it.
        """
        return {}

    def callbacks(self, run: RunFolder, console: Console) -> Sequence[Callback]:
        """Return the callbacks of this task, which are called after each epoch in
        addition to the built-in callbacks.
        """
        return ()

    @classmethod
    def train(
        cls,
        config: C,
        folder: AnyPath,
        *,
        data: D | None = None,
        initial: Mapping[str, Array | ndarray] | None = None,
        resume: bool = False,
        allow_other_machine: bool = False,
        console: Console | None = None,
        callbacks: Sequence[Callback] = (),
        figures: bool = True,
        tracker: Trackers = ("tensorboard", "jsonl"),
    ) -> TaskResult:
        """Train a model and write the folder of the run, as the command `lstm-jax
        train` does.

        Args:
            config: config of the run, which is also written to the folder.
            folder: folder of the run. If `resume` is true, it may hold a run that was
                interrupted or has ended.
            data: the data, if they are in memory already. If None, the data that the
                config names are read.
            initial: dict from the name of a parameter in `Functional.params` to its
                initial value. All other parameters get random initial values.
            resume: whether to continue the run in the folder, with the bits of an
                uninterrupted run. With a constant learning rate, the config may then
                have more epochs than the run was started with.
            allow_other_machine: whether to resume even if devices, package versions or
                compiled code have changed, which can change the last bits of metrics.
            console: console that shows the progress and a table of the model's layers.
                If None, nothing is shown.
            callbacks: functions that are called after each epoch.
            figures: whether to draw the figures at the end.
            tracker: what records the metrics: "tensorboard" (events), "jsonl"
                (metrics.jsonl), "wandb" or "mlflow". A resumed run may have other ones.

        Raises:
            InputError: in one of these cases.

                - The config, the data or the folder is invalid.
                - `initial` contains a name that is not a parameter of the model, or an
                  array of another shape than the parameter.
                - The training does not fit into the free memory.
                - The config sets a patience, but the task monitors no metric.
                - The package of a tracker is not installed, or a tracker cannot begin.

            Interrupted: if SIGINT or SIGTERM arrives. The state has been saved.
        """
        console = console or Console(quiet=True)
        initial = initial or {}
        marks = [time.perf_counter()]
        steps = []
        _check_processes(config, resume)
        tracker = checked("tracker", tracker, Trackers)
        trackers = [
            SERVICES[name](folder, asdict(config), resume)
            for name in tracker
            if name in SERVICES
        ]
        mesh = sharding.make_mesh(config.train.devices)
        with processes.together():
            task = cls(
                config, cls.read(config, console) if data is None else data, mesh
            )
            marks.append(time.perf_counter())
            backend = _check_request(config, mesh)
            task.check_memory()
            remedy = (
                "early stopping needs a validation split: give --validation, or "
                "--patience 0"
            )
            require(
                task.monitor or not config.train.patience,
                "patience",
                config.train.patience,
                remedy,
            )
            examples, (params, rebuild) = task.examples(), task.functional
            params = replaced(params, initial)
        optimizer = make_optimizer(
            config.train,
            config.train.epochs
            * steps_per_epoch(examples.count, config.train.batch_size),
        )
        with (
            task._begin(
                Path(folder), backend, resume, allow_other_machine, console
            ) as run_folder,
            contextlib.ExitStack() as stack,
        ):
            with processes.together():
                trackers = trackers if processes.first() else []
                for service in trackers:
                    stack.enter_context(service)
            total = sum(array.size for array in params.values())
            caption = f"{total:,} parameters ({total * 4 / 2**20:.1f} MiB)"
            table = Table(
                "layer",
                "type",
                "parameters",
                Column("count", justify="right"),
                title=task.shapes(),
                caption=caption,
            )
            for row in layer_rows(task.model):
                table.add_row(*row.values())
            console.print(table)
            for note in task.notes(Start(backend, optimizer, examples.count)):
                say(console, note)
            if not (resume and checkpoint.steps(run_folder.checkpoints / "latest")):
                params = replaced(
                    params, {**task.pretrained(run_folder, resume, console), **initial}
                )
            files = {
                "tensorboard": tensorboard(run_folder.events),
                "jsonl": metrics_file(run_folder.metrics),
            }
            marks.append(time.perf_counter())
            with progress(console) as watch:
                result = run_epochs(
                    params,
                    task.objective(rebuild),
                    optimizer,
                    examples,
                    config.train,
                    mesh,
                    carry=task.carry(task.model),
                    table=cls.table,
                    metrics=cls.metrics,
                    evaluate=lambda params, row: (
                        task.derive(row) | task.evaluate(params)
                    ),
                    monitor=task.monitor,
                    checkpoints=run_folder.checkpoints,
                    resume=resume,
                    callbacks=(
                        run_folder.check_exists,
                        *(files[name] for name in tracker if name in files),
                        print_row(console, config.train.epochs),
                        lambda record: steps.append(record.row["seconds"]),
                        *task.callbacks(run_folder, console),
                        *trackers,
                        *callbacks,
                    ),
                    watch=watch,
                )
            marks.append(time.perf_counter())
            metrics = task.finish(run_folder, result, figures)
            drawn = sorted(run_folder.figures.glob("*.png"))
            run_folder.check_exists()
            own = [
                path
                for path in run_folder.path.iterdir()
                if path.is_file() and path != run_folder.lock
            ]
            for service in trackers:
                service.result(metrics, drawn, [*own, run_folder.checkpoints / "best"])
            read, prepared, trained, finished = (
                end - start
                for start, end in itertools.pairwise([*marks, time.perf_counter()])
            )
            training = (
                f"training {trained:.1f} s ({sum(steps):.1f} s without "
                "validation, samples and checkpoints)"
            )
            say(
                console,
                f"time: data {read:.1f} s, start {prepared:.1f} s, "
                f"{training}, results and figures {finished:.1f} s",
            )
            return TaskResult(**vars(result), metrics=metrics)

    @contextlib.contextmanager
    def _begin(
        self,
        path: Path,
        backend: str,
        resume: bool,
        allow_other_machine: bool,
        console: Console,
    ) -> Iterator[RunFolder]:
        data: Any = self.data
        files, fingerprint = self.files(), data.fingerprint
        assert set(files) == set(self.config.files), (
            "the config of a task names each file that the task writes"
        )
        here = environment(self.mesh) | {
            "backend": backend,
            **_compiled_code(),
            "folder": os.getcwd(),
        }
        processes.require_equal({"backend": backend, "data": fingerprint})
        with contextlib.ExitStack() as stack:
            run = RunFolder(path)
            with processes.together():
                if not processes.first():
                    run = RunFolder(
                        Path(
                            stack.enter_context(
                                tempfile.TemporaryDirectory(prefix="lstm_jax_")
                            )
                        ),
                        checkpoints=run.checkpoints,
                    )
                stack.enter_context(run.locked())
            _require_shared(path)
            with processes.together():
                longer = run.start(to_json(self.config), resume)
                environments = run.environments() or (here,)
                if found := "; ".join(differences(environments[-1], here)):
                    remedy = (
                        f"{found}: the last bits of what follows would differ; go "
                        "back to it, or resume with --allow-other-machine"
                    )
                    require(
                        allow_other_machine,
                        f"machine of run {run.path}",
                        "not the one it was trained on",
                        remedy,
                    )
                    say(
                        console,
                        "resumed on another machine, so that the last bits "
                        f"differ: {found}",
                    )
                    environments = (*environments, here)
                run.fix_data(fingerprint)
                for name, content in files.items():
                    # without a manifest it cannot be verified
                    if not (run.manifest.exists() and (run.path / name).exists()):
                        write_atomically(run.path / name, content)
                if longer:
                    run.lengthen(to_json(self.config))
                run.seal(environments)
            yield run
            run.check_exists()
            with processes.together():  # none ends while another one still needs it
                pass


def _check_processes(config: RunConfig, resume: bool) -> None:
    """Check that all processes have the same config, `resume`, versions and code and,
    once JAX has made its devices, as many devices.
    """
    if not processes.several():
        return
    values = {
        "processes": str(processes.count()),
        "platforms": os.environ.get("JAX_PLATFORMS", "any"),
        "resume": str(resume),
    }
    values |= {
        name: json.dumps(value)
        for name, value in flatten(config_values(config)).items()
    }
    values |= versions() | {
        "compiled code": _compiled_code()["compiled"] or "none",
        "code": code_digest(),
    }
    processes.require_equal(values, CONNECT_SECONDS)
    processes.require_equal({"devices": str(jax.local_device_count())}, CONNECT_SECONDS)


def _require_shared(folder: Path) -> None:
    """Check that all processes see the folder that process 0 has locked, by the content
    of its lock.
    """
    if not processes.several():
        return

    def owner():
        with contextlib.suppress(OSError):
            return RunFolder(folder).lock.read_text()
        return ""

    locked_by = next(processes.exchange(owner()))
    until = time.monotonic() + SHARED_SECONDS
    while not (same := owner() == locked_by) and time.monotonic() < until:
        time.sleep(0.1)
    processes.require_equal(
        {"run folder, which all processes must share": "found" if same else "missing"}
    )


def _compiled_code() -> dict[str, str]:
    path = native.loaded_library()
    if path:
        return {"compiled": path.name}
    return {"compiled": "", "not_compiled": native.why_not()}


def _check_request(config: RunConfig, mesh: Mesh) -> str:
    # the name of the chosen backend
    model = config.model
    rates = (model.dropout, model.recurrent_dropout, model.dropout_masks)
    masks = jax.eval_shape(
        lambda: draw_masks(
            jax.random.key(0), 1, 1, 1, *rates, gates=CELLS[model.cell].gates
        )
    )
    kinds = dropout_kinds(masks) + (ZONEOUT,) * bool(
        model.zoneout or model.zoneout_cell
    )
    mask = "mask" if getattr(model, "mask_zero", False) else ""
    named = None if model.backend == "auto" else model.backend
    backend = resolve_backend(
        named,
        model.cell,
        compute_dtype=model.dtype,
        dropout=kinds,
        mask=mask,
    )
    check_batch_size(config.train, mesh)
    return backend.name


def initial_rngs(seed: int) -> nnx.Rngs:
    """Return the random-number streams from which the initial weights of a run are
    drawn.
    """
    return nnx.Rngs(params=jax.random.fold_in(jax.random.key(seed), 1))


@frozen
class Trained(ABC, Generic[C, Own]):
    """Base class of a trained model that has been loaded, with its config, from the
    folder of its training run.

    A subclass adds methods that use the model, for example to classify texts.
    """

    run: RunFolder
    config: C
    params: dict[str, ndarray]
    notes: Texts
    """Warnings about the run, for example that a checkpoint is damaged and an older one
    is used."""
    rebuild: Callable
    own: Own
    """Content of the task's own file in the run folder, for example the vocabulary."""

    kind: ClassVar[type[RunConfig]]

    @property
    def model(self) -> Any:
        """Flax NNX module with the trained parameters, a new one at each access.

        If the config has dropout, call its method `eval()` first, or pass
        `deterministic=True`, to run it without dropout.
        """
        return self.rebuild(jax.tree.map(jnp.asarray, self.params))

    def with_products(self: T, dtype: str) -> T:
        """Return a copy of this trained model whose recurrent layers multiply matrices
        in another dtype, "float32", "bfloat16" or "int8".

        Raises:
            InputError: if `dtype` is none of these names.
        """
        check_products(dtype)
        return replace(
            self, rebuild=lambda params: set_products(self.rebuild(params), dtype)
        )

    @cached_property
    def mesh(self) -> Mesh:
        """Device mesh of as many devices as the config asks for, or of all devices if
        there are fewer.
        """
        return sharding.make_mesh(
            self.config.train.devices
            if self.config.train.devices <= jax.device_count()
            else 0
        )

    def network(self) -> Any:
        """Return what `lstm-jax inspect` shows of the model, an
        `lstm_jax.lab.inspection.common.Network`.
        """
        raise InputError("task", self.config.task, "its runs have no page")

    def to_onnx(self) -> Any:
        """Convert the model to an `onnx.ModelProto`, whose metadata are the name of the
        task, the settings with which the run encodes a text, and the vocabulary.

        See `convert.sentiment_to_onnx` and `convert.generation_to_onnx`.

        Raises:
            InputError: if the run is of another task, if ONNX cannot express its model,
                or if the package onnx is not installed.
        """
        remedy = "name a run of sentiment or generation"
        raise InputError("task", self.config.task, remedy)

    def _to_onnx(self, convert: Callable, settings: Values, **options) -> Any:
        task, model, own = self.config.task, self.config.model, cast(Any, self.own)
        for name in ("zoneout", "zoneout_cell"):
            rate = getattr(model, name)
            require(
                rate == 0,
                name,
                rate,
                "ONNX's recurrent operators have no zoneout: train without it to export",
            )
        require(
            model.dtype == "float32",
            "dtype",
            model.dtype,
            "ONNX's recurrent operators multiply in float32: train with dtype float32",
        )
        return convert(
            self.params,
            cell=model.cell,
            description=f"{task} model, {MARK}",
            metadata={"task": task}
            | {name: str(value) for name, value in settings.items()}
            | {"vocabulary": own.to_json().decode()},
            **options,
        )

    def write_onnx(self, path: Path, force: bool = True) -> Values:
        """Write the model to an ONNX file, and return a description of the file.

        Only if `force` is true, a file without the mark of lstm-jax is replaced.

        Returns:
            A dict with "file", "task", "bytes", "opset" (version of the ONNX
            operators), "inputs" and "outputs", which are dicts from names to dtype and
            shape as text, such as "int64 (batch, time)".

        Raises:
            InputError: if `to_onnx` raises an error, or if the file may not be written.
        """
        model = self.to_onnx()
        # protobuf refuses files of 2 GiB and more
        with parsing("ONNX model", "give a smaller model"):
            content = model.SerializeToString(deterministic=True)
        write_atomically(path, content, force)
        return {
            "file": str(path),
            "task": self.config.task,
            "bytes": len(content),
            "opset": model.opset_import[0].version,
            "inputs": dict(map(_described, model.graph.input)),
            "outputs": dict(map(_described, model.graph.output)),
        }

    def is_own(self, data) -> bool:
        """Return whether `data`, such as a series, equal the data that the run was
        trained on.
        """
        return same_data(
            read_input(
                self.run.fingerprint,
                remedy="name the folder of a finished or interrupted run",
            ),
            data.fingerprint,
        )

    def check_own(self, data) -> None:
        """Raise an `InputError` unless `data` equal the data that the run was trained
        on.
        """
        subject = f"data of run {self.run.path}"
        require(
            self.is_own(data),
            subject,
            "changed since the run began",
            "give back the data that its config.json names",
        )

    @staticmethod
    @abstractmethod
    def _open(run: RunFolder, config: C) -> tuple[Own, nnx.Module]:
        """Read the task's own file in the run folder, and return its content and a new
        model that fits the config and this content.
        """

    @classmethod
    def load(cls: type[T], folder: AnyPath) -> T:
        """Load the trained model of a run from its folder, with the parameters of the
        best epoch or, if no metric selects one, of the newest.

        Raises:
            InputError: if the folder does not hold a run of this task, if one of its
                files has changed, or if none of its checkpoints is intact.
        """
        run = RunFolder(Path(folder))
        run.verify()
        notes: Texts = (
            ()
            if run.result.exists()
            else (f"run {run.path} has not finished: this is its model so far",)
        )
        config = _with_found_data(read_config(run.config, cls.kind), run)
        own, model = cls._open(run, config)
        like, rebuild = functional(model)
        found = checkpoint.restore(run.checkpoints / "best", like)
        lost = {step: f"damaged ({reason})" for step, reason in found.rejected}
        lost |= dict.fromkeys(found.unfinished, "unfinished (it has no manifest)")
        notes += tuple(
            f"checkpoint of step {step} is {why}; an older one is used"
            for step, why in lost.items()
        )
        params = jax.tree.map(np.asarray, found.state)
        for name, array in params.items():
            remedy = "the training has diverged: train anew with a lower learning rate"
            require(
                np.isfinite(array).all(),
                f"run {run.path}",
                f"{name} is not finite",
                remedy,
            )
        return cls(run, config, params, notes, rebuild, own)


def _described(value) -> tuple[str, str]:
    import onnx

    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    axes = [axis.dim_param or str(axis.dim_value) for axis in kind.shape.dim]
    return value.name, f"{dtype} ({', '.join(axes)}{',' * (len(axes) == 1)})"


def _with_found_data(config, run: RunFolder) -> Any:
    """Resolve relative paths of the data that exist only relative to the folder in
    which the training was started.
    """
    environments = run.environments()
    started = Path(environments[-1].get("folder", "")) if environments else Path()

    def found(path: str) -> str:
        moved = path and not Path(path).exists() and (started / path).exists()
        return str(started / path) if moved else path

    own = config.data
    for name in ("data", "test_data", "validation_data", "csv"):
        value = getattr(own, name, "")
        if isinstance(value, str):
            changed: Any = found(value)
        else:
            changed = tuple(map(found, value))
        if value:
            own = replace(own, **{name: changed})
    return replace(config, data=own)
