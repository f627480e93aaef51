"""Training loop: `fit` for a user's own Flax NNX module, and `run_epochs`, with which
`fit` and the tasks train pure functions of parameters.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh
from numpy import ndarray

from lstm_jax.base import processes, sharding
from lstm_jax.base.checks import as_tuple, frozen
from lstm_jax.base.errors import InputError, Interrupted, check_class, parsing, require
from lstm_jax.base.types import AnyPath, Texts
from lstm_jax.base.types import Values as Metrics
from lstm_jax.base.writing import plain
from lstm_jax.recurrence import check_32_bits, of_kinds
from lstm_jax.training import checkpoint
from lstm_jax.training.config import TrainConfig
from lstm_jax.training.examples import (
    Examples,
    Group,
    make_source,
    steps_per_epoch,
    take_rows,
)
from lstm_jax.training.make_train_step import (
    check_floats,
    check_functions,
    checked_mesh,
    split_model,
)
from lstm_jax.training.row_sparse import Optimizer
from lstm_jax.training.state import EXAMPLES, FINITE, create_state
from lstm_jax.training.step import Objective, largest_table, make_run_steps

CHUNK_SECONDS = 0.5
"""Target duration, in seconds, of the chunk of training steps that one compiled call
takes. After each chunk, the loop calls the functions of `Watch`."""
SAVE_SECONDS = 3.0
"""Number of seconds after a checkpoint within which the end of an epoch saves no other
one, since an epoch of a small model takes less time than a checkpoint. The first and
the last epoch save one in any case, and so do all with `checkpoint_steps` and each
after an interrupt."""
KEEP = {"latest": 3, "best": 2, "epochs": 0}
"""Dict from the folders in the folder `checkpoints` of `run_epochs` to the number of
newest checkpoints that are kept, or 0 for all."""
_TOO_FAST = "give a lower learning_rate or a clip_norm; stop_on_nan=False goes on"


@frozen
class EpochRecord:
    """Record of a training run at the end of an epoch, which the training loop passes
    to each callback.
    """

    epoch: int
    """Number of the epoch, counted from 1."""
    step: int
    """Number of training steps since the start of the run."""
    row: Metrics
    """Metrics of this epoch by name, such as epoch, step, train_loss, train_accuracy
    and seconds, and the metrics of the held-out splits."""
    rows: tuple[Metrics, ...]
    """Metrics of all epochs up to this one. In a resumed run they include the epochs
    before the interruption."""
    params: Any = field(repr=False)
    """Parameters of the model. They are valid only until the callback returns, because
    the next training step reuses their memory."""
    seed: int = 0
    resumed: bool = False
    """Whether the training was asked to resume from checkpoints, if there are any."""
    best_epoch: int = 0
    """Number of the best epoch so far, or 0 if no metric is monitored."""
    last: bool = False
    """Whether the training ends with this epoch."""


Callback = Callable[[EpochRecord], object]


@frozen
class Watch:
    """Functions that the training loop calls about twice a second, between two steps,
    such as those of `lstm_jax.lab.runs.reports`.
    """

    note: Callable[[str], object] = lambda line: None
    """Show a message, such as that the training was resumed."""
    steps: Callable[[int, int, int, int], object] = lambda *_: None
    """Show the progress: the number of the epoch and of all epochs, and the number of
    steps of this epoch that have been taken and of all its steps."""
    stop: Callable[[], int] = lambda: 0
    """Return the number of the signal that asks the training to stop, or 0."""


@frozen
class Best:
    """Choice of the best epoch by a metric, and early stopping."""

    monitor: str
    """Name of the metric."""
    mode: str = "min"
    """ "min" if the metric should be small, as a loss, or "max" if it should be large,
    as an accuracy."""
    patience: int = 0
    """The training stops early once the metric has not improved for this number of
    epochs. If 0, it does not stop early."""


@frozen
class Checkpoints:
    """Checkpoints of a training, and its resumption from them."""

    folder: AnyPath
    """Folder of the checkpoints; see `run_epochs`."""
    steps: int = 0
    """Number of steps between checkpoints within an epoch. If 0, one is saved only at
    the end of an epoch (of short epochs about every 3 seconds) and after an interrupt.
    """
    keep_epochs: bool = False
    """Whether to keep the parameters of each epoch in the subfolder `epochs/`."""
    resume: bool = False
    """Whether to continue from the newest checkpoint, if there is one."""


@frozen
class FitResult:
    """Result of `fit` and of `run_epochs`: the trained parameters and the metrics of
    all epochs.

    `params` are the parameters of the best epoch, whose number, counted from 1, is
    `best_epoch`. If no metric was monitored, both belong to the last epoch. `rows` has
    one dict of metrics for each epoch. `stopped_early` says whether early stopping
    ended the training before the last epoch of the config. `seconds` is the training
    time, including the time before a resumption.
    """

    params: Any
    rows: tuple[Metrics, ...]
    best_epoch: int
    stopped_early: bool
    seconds: float


def fit(
    model: nnx.Module,
    loss_fn: Callable,
    optimizer: Optimizer,
    arrays: Sequence,
    *,
    epochs: int = 1,
    batch_size: int = 32,
    microbatches: int = 1,
    seed: int = 0,
    stop_on_nan: bool = True,
    evaluate: Callable[[nnx.Module], Metrics] | None = None,
    best: Best | None = None,
    mesh: Mesh | None = None,
    checkpoints: Checkpoints | None = None,
    callbacks: Iterable[Callback] = (),
    watch: Watch | None = None,
) -> FitResult:
    """Train a Flax NNX module in place, with the training loop that this project's
    tasks also use.

    Each epoch reads the examples in a new random order. This order and the random
    streams of the module, such as those of dropout, depend only on `seed`, the number
    of the epoch and the number of the step. Therefore a training that is interrupted
    and resumed ends with the same bits as one that is not interrupted. If the optimiser
    has a row-sparse update, a step updates only those rows of the largest embedding
    table that the batch looks up; see `make_train_step`.

    Args:
        model: the module. At the end it has the parameters of the best epoch, or of the
            last epoch if no metric is monitored.
        loss_fn: function loss_fn(model, *rows) that returns the losses (B,) of the B
            examples in a batch. `rows` has the B rows of each array in `arrays`.
        optimizer: an optimiser of this project or of optax.
        arrays: training examples, as a sequence of arrays (N, ...) for N examples. A
            batch consists of B rows of each array.
        epochs: number of epochs.
        batch_size: number of examples in a batch. The last batch of an epoch may have
            fewer, as in Keras.
        microbatches: number of microbatches into which each batch is divided. The
            gradients of the microbatches are computed one after another and added up.
            Only the residuals of one microbatch are in memory at a time. Residuals are
            the arrays that are kept for the backward pass. `batch_size` must be a
            multiple of this number times the number of devices.
        seed: seed of the order of the examples and of the random streams of the module.
        stop_on_nan: whether to end the training with an error as soon as the training
            loss, or a parameter after an epoch, is not finite.
        evaluate: function from the module to a dict of further metrics of an epoch,
            such as those of a validation set. The module is in the same mode as
            `model`, usually the training mode. If the module has dropout, `evaluate`
            must therefore first call the module's method `eval()`.
        best: metric by which the best epoch is chosen. If None, no epoch is the best
            one, and the training does not stop early.
        mesh: devices that each batch is sharded over. If None, one device is used.
        checkpoints: folder of the checkpoints, and whether to resume from them, or None
            to save none.
        callbacks: functions that are called with an `EpochRecord` after each epoch. For
            example, `lambda record: print(record.row["train_loss"])`.
        watch: functions that show the progress and ask the training to stop. For
            example, that of `with lstm_jax.lab.runs.reports.progress() as watch` has a
            progress bar, and saves the state after SIGINT and SIGTERM.

    Returns:
        The result of `run_epochs`. Its field `rows` has one dict of metrics for each
        epoch.

    Raises:
        InputError: in one of these cases.

            - `model` is not a module, or has variables that are neither parameters nor
              random streams.
            - `evaluate` or a member of `callbacks` is not a function.
            - `arrays` is no sequence of arrays of numbers with equally many rows, or
              one holds an int that does not fit in 32 bits.
            - The losses are not floats of the shape (B,).
            - A number, such as `epochs`, is outside its allowed range.
            - `make_train_step` or `run_epochs` raises this error.

        Interrupted: if `watch` asks the training to stop. If `checkpoints` is given,
            the state has been saved before this error is raised.
    """
    check_functions(loss_fn, optimizer)
    callbacks = as_tuple("callbacks", callbacks, "give a list of functions")
    for callback in callbacks:
        remedy = "give a list of functions"
        require(callable(callback), "callbacks", repr(callback), remedy)
    remedy = "give a function of the model, or None"
    fits = evaluate is None or callable(evaluate)
    require(fits, "evaluate", repr(evaluate), remedy)
    for name, value, kind in (
        ("best", best, Best),
        ("checkpoints", checkpoints, Checkpoints),
    ):
        check_class(name, value, kind | None, f"give {kind.__name__}(...), or None")
    remedy = "give an nnx.Module; make_train_step takes a pytree, too"
    check_class("model", model, nnx.Module, remedy)
    parts: Any = split_model(model)
    for _, variable in nnx.to_flat_state(parts.variables):
        require(
            isinstance(variable, nnx.RngState),
            "variables",
            type(variable).__name__,
            "fit trains parameters alone: use make_train_step, which carries all "
            "variables from step to step",
        )
    examples = _examples(arrays)
    mesh = checked_mesh(mesh)
    best = best or Best("")
    folder = Path(checkpoints.folder) if checkpoints else None
    config = TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        microbatches=microbatches,
        seed=seed,
        patience=best.patience,
        stop_on_nan=stop_on_nan,
        checkpoint_steps=checkpoints.steps if checkpoints else 0,
        keep_epochs=bool(checkpoints and checkpoints.keep_epochs),
    )

    def objective(params, rows, weight, key):
        losses = loss_fn(parts.rebuild(params, _reseeded(parts.variables, key)), *rows)
        remedy = f"return floats, one loss per example, {weight.shape}"
        check_floats("losses", losses, weight.shape, remedy)
        mean = (losses * weight.astype(losses.dtype)).sum()
        return mean, {"loss": mean}

    def copied(params):
        # since the next step reuses the memory of the parameters
        return parts.rebuild(jax.tree.map(jnp.copy, params), parts.variables)

    result = run_epochs(
        parts.params,
        objective,
        optimizer,
        examples,
        config,
        mesh,
        table=None,
        metrics=("loss",),
        evaluate=evaluate and (lambda params, _: evaluate(copied(params))),
        monitor=best.monitor,
        mode=best.mode,
        checkpoints=folder,
        resume=bool(checkpoints and checkpoints.resume),
        callbacks=callbacks,
        watch=watch,
    )
    trained = parts.rebuild(result.params, parts.variables)
    nnx.update(model, nnx.state(trained, nnx.Param))
    return result


def _examples(arrays: Sequence) -> Examples:
    remedy = "give a sequence of arrays, such as (x, y)"
    several = not isinstance(arrays, Array | ndarray | dict)
    require(several, "arrays", type(arrays).__name__, remedy)
    kinds = (jnp.number, jnp.bool_, jax.dtypes.extended)
    each = "give arrays of numbers, with one row per example"
    given = tuple(
        of_kinds("arrays", array, kinds, each)
        for array in as_tuple("arrays", arrays, remedy)
    )
    for array in given:
        check_32_bits("arrays", array)
        require(array.ndim > 0, "arrays", "a scalar", each)
    counts = sorted({len(array) for array in given})
    remedy = "give arrays with the same number of rows"
    require(len(counts) == 1, "arrays", f"{counts} rows", remedy)

    def gather(arrays, numbers):
        rows = take_rows(arrays, numbers)
        return jax.tree.map(lambda array: sharding.constrain(array, 0), rows)

    return Examples(given, counts[0], gather)


def _reseeded(variables, key: Array):
    flat = []
    for number, (path, var) in enumerate(nnx.to_flat_state(variables)):
        value = jnp.zeros_like(var[...])
        if isinstance(var, nnx.RngKey):
            shape = var[...].shape
            value = jax.random.fold_in(key, number)
            if shape:
                value = jax.random.split(value, shape)
        flat.append((path, var.replace(value)))
    return nnx.from_flat_state(flat)


def check_batch_size(config: TrainConfig, mesh: Mesh) -> None:
    """Check that a batch can be divided into microbatches, and each microbatch among
    the devices in the mesh.
    """
    size = config.batch_size
    parts = config.microbatches
    remedy = f"give a multiple of the mesh's {mesh.size} devices, or set --devices 1"
    require(size % mesh.size == 0, "batch_size", size, remedy)
    shown = f"{size} rows on {mesh.size} devices in {parts} parts"
    fits = size % (mesh.size * parts) == 0
    require(fits, "microbatches", shown, "give a number that divides them")


def run_epochs(
    params,
    objective: Objective,
    optimizer: Optimizer,
    examples: Examples,
    config: TrainConfig,
    mesh: Mesh,
    *,
    carry=(),
    table: str | None = "",
    metrics: Texts = ("loss", "accuracy"),
    evaluate: Callable[[Any, Metrics], Metrics] | None = None,
    monitor: str = "",
    mode: str = "min",
    checkpoints: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    watch: Watch | None = None,
    last: bool = True,
) -> FitResult:
    """Train a model for the number of epochs in the config, or until early stopping
    ends the training.

    `fit` trains a module with this function, and describes the arguments that are not
    described here. `params` is not changed, `objective` returns the loss and the
    metrics `metrics` of a batch (see `step.Objective`), and `carry` are arrays (B,
    ...), for the batch size B, that each step hands to the next, from the same ones in
    each epoch. `table` names a parameter that the objective uses only to look up rows
    (see `state.create_state`); if it is None, the largest one is searched for.
    `evaluate` computes further metrics of an epoch, from the parameters at its end and
    from its training metrics.

    The subfolder `latest/` of `checkpoints` holds the whole training state, from which
    a run is resumed, `best/` the parameters of the best epoch, or of the newest if no
    metric is monitored, and `epochs/`, with `keep_epochs`, those of each epoch. If
    `last` is true, a request to stop during or after the last step raises no error,
    because the training is complete.

    Raises:
        InputError: if the batch size does not fit `mesh` and the microbatches, if the
            loss is not finite and `stop_on_nan` is true, if `monitor` is not the name
            of a number, if `evaluate` returns no dict of new metrics, if another
            training uses the folder `checkpoints`, if it holds checkpoints and `resume`
            is false, or if those in `latest/` are damaged or of another training.
        Interrupted: if `watch` asks the training to stop; see also `last`. If
            `checkpoints` is given, the state has been saved before.
    """
    count = examples.count
    require(count >= 1, "training examples", count, "give at least one")
    check_batch_size(config, mesh)
    require(mode in ("min", "max"), "mode", mode, "give min or max")
    watch = watch or Watch()
    claim = contextlib.nullcontext()
    if checkpoints is not None:
        claim = checkpoint.claimed(checkpoints, KEEP, resume)
    with claim:
        run = _Run(
            params,
            objective,
            optimizer,
            examples,
            config,
            mesh,
            carry,
            table,
            metrics,
            monitor,
            mode,
            checkpoints,
            watch,
        )
        if resume and checkpoints:
            run.resume(checkpoints / "latest", checkpoints / "best")
        while not run.ended:
            row = run.train_epoch()
            more = {}
            if evaluate:
                more = _plain_metrics(evaluate(run.state.params, row))
            for name in row.keys() & more.keys():
                remedy = "the training itself has it: give another name"
                raise InputError("metric", name, remedy)
            run.end_epoch(row | more, callbacks, resume)
            due = (
                run.ended
                or config.checkpoint_steps > 0
                or time.perf_counter() > run.saved_at + SAVE_SECONDS
            )
            signal, due = processes.largest(watch.stop(), due)
            if signal or due:
                run.save()
            if signal and not (run.ended and last):
                raise Interrupted(int(run.state.step), signal)
        history = run.history
        epochs = len(history.rows)
        return FitResult(
            processes.gathered(run.best),
            tuple(history.rows),
            history.best_epoch or epochs,
            epochs < config.epochs,
            history.seconds,
        )


@dataclass
class History:
    """Metrics of the finished epochs of a run, and its best epoch. A checkpoint stores
    them as JSON.
    """

    rows: list[Metrics] = field(default_factory=list)
    best_epoch: int = 0
    """Number of the best epoch, counted from 1, or 0 if no metric is monitored."""
    best_value: float | None = None
    seconds: float = 0.0
    """Training time so far."""

    @staticmethod
    def read(extra: Mapping) -> "History":
        """Return the history that a checkpoint stores."""
        return History(**{own.name: extra[own.name] for own in fields(History)})


def _plain_metrics(found) -> Metrics:
    remedy = "return a dict from names to numbers"
    check_class("metrics", found, Mapping, remedy)
    metrics = {}
    for name, value in found.items():
        require(isinstance(name, str), "name of a metric", repr(name), remedy)
        kinds = "return numbers, texts, or lists and dicts of them"
        with parsing(f"metric {name}", kinds):
            metrics[name] = plain(value)
    return metrics


class _Run:
    """State of one call of `run_epochs`, with methods that train epoch by epoch."""

    def __init__(
        self,
        params,
        objective,
        optimizer,
        examples,
        config,
        mesh,
        carry,
        table,
        metrics,
        monitor,
        mode,
        checkpoints,
        watch,
    ):
        self.config = config
        self.mesh = mesh
        self.metrics = metrics
        self.monitor = monitor
        self.mode = mode
        self.checkpoints = checkpoints
        self.watch = watch
        # with other values, the steps of a resumed epoch would be other steps than
        # those before the interruption, or its best epoch would be chosen by comparing
        # two metrics
        self.identity = {
            "examples": examples.count,
            "batch_size": config.batch_size,
            "seed": config.seed,
            "monitor": monitor,
            "mode": mode if monitor else "min",
        }
        self.per_epoch = steps_per_epoch(examples.count, config.batch_size)
        self.source = make_source(examples, mesh, config.batch_size)
        # in host memory, since a step reuses the memory of device arrays in its state
        self.carry = jax.tree.map(np.asarray, carry)
        self.order_key, step_key = jax.random.split(jax.random.key(config.seed))
        self.step_key = self._copied(step_key)

        if table is None:
            size = config.batch_size // config.microbatches
            numbers = jax.ShapeDtypeStruct((size,), np.int32)
            weight = jax.ShapeDtypeStruct((size,), np.float32)
            with sharding.on(mesh):
                batch = jax.eval_shape(examples.gather, examples.arrays, numbers)
                given = (batch, weight, step_key)
                table = largest_table(objective, optimizer, params, *given)
        totals = (*metrics, EXAMPLES, FINITE)
        self.state, self.shardings = create_state(
            params, optimizer, totals, mesh, self.carry, table
        )
        self.run_steps = make_run_steps(
            objective,
            optimizer,
            self.shardings,
            self.source.gather,
            self.per_epoch,
            config.microbatches,
        )
        self.history = History()
        self.began = time.perf_counter()
        self.saved_at = -math.inf
        self.saved_best = 0
        self.best_params = self._params() if monitor else None
        if checkpoints is not None:
            # now, and not after an epoch whose state could not be saved
            checkpoint.check_state(self._saved())

    def _copied(self, tree):
        return sharding.put(tree, sharding.replicated(self.mesh))

    def _params(self):
        return jax.tree.map(jnp.copy, self.state.params)

    def _saved(self) -> dict[str, Any]:
        best = {} if self.best_params is None else {"best": self.best_params}
        return {"state": self.state} | best

    @property
    def best(self) -> Any:
        return self.state.params if self.best_params is None else self.best_params

    @property
    def best_step(self) -> int:
        """Step at the end of the best epoch, or 0 if the parameters at that step are no
        longer there.
        """
        rows = self.history.rows
        if not rows:
            return 0
        step = rows[(self.history.best_epoch or len(rows)) - 1]["step"]
        return step if self.monitor or step == int(self.state.step) else 0

    @property
    def ended(self) -> bool:
        epochs = len(self.history.rows)
        patience = self.config.patience if self.monitor else 0
        waited = epochs - self.history.best_epoch
        return epochs >= self.config.epochs or 0 < patience <= waited

    def resume(self, latest: Path, best: Path) -> None:
        """Load the state from the newest intact checkpoint. If there is no checkpoint,
        do nothing.
        """
        steps = {folder: checkpoint.steps(folder) for folder in (latest, best)}
        processes.require_equal(
            {f"checkpoints in {folder}": str(steps[folder]) for folder in steps}
        )
        if not steps[latest]:
            # a process that ended before it saved its first state may have left the
            # best checkpoint of the first epoch
            begun = max(steps[best], default=0) <= self.per_epoch
            remedy = f"only {best} is left, so train anew from its parameters"
            require(begun, f"checkpoints in {latest}", "none", remedy)
            return

        def check_identity(extra):
            for name, value in self.identity.items():
                was = extra["run"][name]
                remedy = (
                    f"the checkpoints in {latest} are of a training with "
                    f"{was or repr(was)}: give that, or another folder"
                )
                require(was == value, name, value or repr(value), remedy)

        found = checkpoint.restore(latest, self._saved(), check=check_identity)
        self.state = found.state["state"]
        self.best_params = found.state.get("best")
        self.history = History.read(found.extra)
        for step, reason in found.rejected:
            self.watch.note(
                f"checkpoint of step {step} is damaged ({reason}); an older one is used"
            )
        # the parameters of an earlier step are no longer there
        most = self.config.epochs * self.per_epoch
        remedy = (
            f"the newest checkpoint in {latest} is of step {found.step}, and "
            f"these epochs have {most} steps: give more epochs"
        )
        require(found.step <= most, "epochs", self.config.epochs, remedy)

        # also removes leftovers of a killed process
        checkpoint.prune(latest, KEEP["latest"])
        # a process may have ended after it saved the best, but not its state
        checkpoint.prune(best, KEEP["best"], found.step)
        if self.best_step and (damage := checkpoint.damage(best, self.best_step)):
            self.watch.note(
                f"best checkpoint of step {self.best_step} is damaged ({damage}); "
                "saved again"
            )
            self._save("best", self.best_step, self.best)
        self.watch.note(f"resumed after step {found.step} of {most}")
        self.began = time.perf_counter() - self.history.seconds

    def save(self) -> None:
        """Save the state and, before it, the parameters of the best epoch, unless they
        have been saved.
        """
        if self.best_step not in (0, self.saved_best):
            self._save("best", self.best_step, self.best)
            self.saved_best = self.best_step
        self._save("latest", int(self.state.step), self._saved())
        self.saved_at = time.perf_counter()

    def _save(self, part: str, step: int, state):
        if self.checkpoints is None:
            return
        folder = self.checkpoints / part
        rows = [row for row in self.history.rows if row["step"] <= step]
        extra = asdict(self.history) | {"rows": rows, "run": self.identity}
        checkpoint.save(folder, step, state, extra)
        if KEEP[part]:
            checkpoint.prune(folder, KEEP[part])

    def train_epoch(self) -> Metrics:
        """Take the remaining steps of the current epoch, and return its training
        metrics.
        """
        epoch = len(self.history.rows)
        every = self.config.checkpoint_steps
        began = time.perf_counter()
        # the examples that were read before the run was resumed within the epoch
        earlier = float(self.state.totals[EXAMPLES])
        first = int(self.state.step) - epoch * self.per_epoch
        progress = (epoch + 1, self.config.epochs)
        self.watch.steps(*progress, first, self.per_epoch)

        groups = self.source.groups(jax.random.fold_in(self.order_key, epoch), first)
        for start, stop, *given in _chunks(first, groups, every):
            with sharding.on(self.mesh):
                state = self.run_steps(self.state, *given, start, stop, self.step_key)
                self.state = jax.block_until_ready(state)
            self.watch.steps(*progress, stop, self.per_epoch)
            if self.config.stop_on_nan:
                # a sum over the examples of the epoch so far
                loss = float(self.state.totals.get("loss", 0))
                finite = int(self.state.totals[FINITE])
                step = 1 + max(epoch * self.per_epoch + first, finite)
                shown = f"{loss} in epoch {epoch + 1}, from step {step} on"
                require(math.isfinite(loss), "training loss", shown, _TOO_FAST)
            (signal,) = processes.largest(self.watch.stop())
            due = every and stop % every == 0
            if stop < self.per_epoch and (signal or due):
                self.history.seconds = time.perf_counter() - self.began
                self.save()
                if signal:
                    raise Interrupted(int(self.state.step), signal)

        seconds = time.perf_counter() - began
        sums = jax.tree.map(float, self.state.totals)
        row: Metrics = {"epoch": epoch + 1, "step": int(self.state.step)}
        for name in self.metrics:
            row[f"train_{name}"] = sums[name] / sums[EXAMPLES]
        row["seconds"] = seconds
        row["examples_per_second"] = (sums[EXAMPLES] - earlier) / seconds
        if self.source.waited is not None:
            row["input_seconds"] = self.source.waited
        return row

    def end_epoch(
        self, row: Metrics, callbacks: Sequence[Callback], resumed: bool
    ) -> None:
        """Finish an epoch: add its metrics to the history, call the callbacks, and save
        its parameters with `keep_epochs`.
        """
        history = self.history
        params = self.state.params
        epoch = len(history.rows) + 1
        step = int(self.state.step)
        if self.config.stop_on_nan:
            finite = all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
            shown = f"not finite after epoch {epoch}"
            require(finite, "parameters", shown, _TOO_FAST)
        self.state = self.state._replace(
            totals=self._copied(jax.tree.map(np.zeros_like, self.state.totals)),
            carry=sharding.put(self.carry, self.shardings.carry),
        )
        if self.monitor and self._is_better(row):
            history.best_value = row[self.monitor]
            history.best_epoch = epoch
            self.best_params = self._params()
        history.rows.append(row)
        history.seconds = time.perf_counter() - self.began
        if self.config.keep_epochs:
            self._save("epochs", step, params)
        record = EpochRecord(
            epoch,
            step,
            row,
            tuple(history.rows),
            processes.gathered(params) if callbacks else params,
            self.config.seed,
            resumed,
            history.best_epoch,
            self.ended,
        )
        for callback in callbacks:
            callback(record)

    def _is_better(self, row: Metrics) -> bool:
        name = self.monitor
        require(name in row, "monitor", name, f"the metrics are {', '.join(row)}")
        value, best = row[name], self.history.best_value
        remedy = "monitor a metric that is a number"
        check_class(f"metric {name}", value, int | float, remedy)
        if best is None or math.isnan(best):
            return best is None or not math.isnan(value)
        return value > best if self.mode == "max" else value < best


def _chunks(start: int, groups: Iterable[Group], every: int):
    """Divide the steps of groups, from step `start` on, into chunks that take about
    `CHUNK_SECONDS` each.
    """
    size = 8
    timed = False
    for last, *given in groups:
        while start < last:
            stop = min(start + size, last)
            if every:
                stop = min(stop, (start // every + 1) * every)
            began = time.perf_counter()
            yield start, stop, *given
            if timed:  # the first chunk is not timed, since it includes compilation
                seconds = max(time.perf_counter() - began, 1e-6)
                wanted = round((stop - start) * CHUNK_SECONDS / seconds)
                (size,) = processes.largest(max(1, wanted))
            start = stop
            timed = True
