"""Training loop with progress bar, evaluation, early stopping, checkpoints and handling
of interrupts.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import Progress

from lstm_jax import native
from lstm_jax.base import processes, sharding
from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import InputError, Interrupted, check_class, parsing, require
from lstm_jax.base.types import Texts
from lstm_jax.base.types import Values as Metrics
from lstm_jax.lab.files.json_text import plain
from lstm_jax.lab.machine.console import say
from lstm_jax.lab.machine.interrupts import Asked, noted_signals
from lstm_jax.training import checkpoint
from lstm_jax.training.callbacks import Callback, EpochRecord, progress_bar
from lstm_jax.training.config import TrainConfig
from lstm_jax.training.examples import Examples, steps_per_epoch
from lstm_jax.training.feeding import Group, make_source
from lstm_jax.training.row_sparse import Optimizer
from lstm_jax.training.state import EXAMPLES, FINITE, TrainState, create_state
from lstm_jax.training.step import Objective, largest_table, make_run_steps

TOO_FAST = "give a lower learning_rate or a clip_norm; stop_on_nan=False goes on"
CHUNK_SECONDS = 0.5
"""Target duration, in seconds, of the chunk of training steps that one compiled call
takes. After each chunk, the loop checks for signals and updates the progress bar."""
SAVE_SECONDS = 3.0
"""Number of seconds after a checkpoint within which the end of an epoch saves no other
one, since an epoch of a small model takes less time than a checkpoint. The first and
the last epoch save one in any case, and so do all with `checkpoint_steps` and each
after an interrupt."""
KEEP = {"latest": 3, "best": 2, "epochs": 0}
"""Dict from the folders in the folder `checkpoints` of `run_epochs` to the number of
newest checkpoints that are kept, or 0 for all."""


@frozen
class FitResult:
    """Result of `run_epochs` and of `lstm_jax.fit`: the trained parameters and the
    metrics of all epochs.

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


def check_batch_size(config: TrainConfig, mesh: Mesh) -> None:
    """Check that a batch can be divided into microbatches, and each microbatch among
    the devices in the mesh.
    """
    remedy = f"give a multiple of the mesh's {mesh.size} devices, or set --devices 1"
    require(config.batch_size % mesh.size == 0, "batch_size", config.batch_size, remedy)
    each, remedy = (
        f"{config.batch_size} rows on {mesh.size} devices in "
        f"{config.microbatches} parts",
        "give a number that divides them",
    )
    require(
        config.batch_size % (mesh.size * config.microbatches) == 0,
        "microbatches",
        each,
        remedy,
    )


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
    console: Console | None = None,
    last: bool = True,
) -> FitResult:
    """Train a model for the number of epochs in the config, or until early stopping
    ends the training.

    `lstm_jax.fit` trains a module with this function, and describes the arguments that
    are not described here. `params` is not changed, `objective` returns the loss and
    the metrics `metrics` of a batch (see `step.Objective`), and `carry` are arrays (B,
    ...), for the batch size B, that each step hands to the next, from the same ones in
    each epoch. `table` names a parameter that the objective uses only to look up rows
    (see `state.create_state`); if it is None, the largest one is searched for.
    `evaluate` computes further metrics of an epoch, from the parameters at its end and
    from its training metrics.

    The subfolder `latest/` of `checkpoints` holds the whole training state, from which
    a run is resumed, `best/` the parameters of the best epoch, or of the newest if no
    metric is monitored, and `epochs/`, with `keep_epochs`, those of each epoch. If
    `latest/` is empty, `resume` continues from `best/` with a new state of the
    optimiser, unless it is of the first epoch. If `last` is true, a SIGINT or SIGTERM
    during or after the last step raises no error, because the training is complete.

    Raises:
        InputError: if the batch size does not fit `mesh` and the microbatches, if the
            loss is not finite and `stop_on_nan` is true, if `monitor` is not the name
            of a number, if `evaluate` returns no dict of new metrics, if another
            training uses the folder `checkpoints`, if it holds checkpoints and `resume`
            is false, or if those in `latest/` are damaged or of another training.
        Interrupted: if SIGINT or SIGTERM arrives; see also `last`. If `checkpoints` is
            given, the state has been saved before.
    """
    require(
        examples.count >= 1, "training examples", examples.count, "give at least one"
    )
    check_batch_size(config, mesh)
    require(mode in ("min", "max"), "mode", mode, "give min or max")
    console = console or Console(quiet=True)
    with (
        contextlib.nullcontext()
        if checkpoints is None
        else checkpoint.claimed(checkpoints, KEEP, resume)
    ):
        run = _Fit(
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
        )
        if resume and checkpoints:
            run.resume(checkpoints / "latest", checkpoints / "best", console)
        with noted_signals() as asked, progress_bar(console) as progress:
            while not run.ended:
                row = run.train_epoch(asked, progress)
                more = (
                    _plain_metrics(evaluate(run.state.params, row)) if evaluate else {}
                )
                for name in row.keys() & more.keys():
                    raise InputError(
                        "metric", name, "the training itself has it: give another name"
                    )
                run.end_epoch(row | more, callbacks, resume)
                due = (
                    run.ended
                    or config.checkpoint_steps > 0
                    or time.perf_counter() > run.saved_at + SAVE_SECONDS
                )
                number, due = processes.largest(asked.number, due)
                if number or due:
                    run.save()
                if number and not (run.ended and last):
                    raise Interrupted(int(run.state.step), number)
        history, count = run.history, len(run.history.rows)
        best, early = history.best_epoch or count, count < config.epochs
        return FitResult(
            processes.gathered(run.best),
            tuple(history.rows),
            best,
            early,
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
    def read(extra) -> "History":
        """Return the history that a checkpoint stores."""
        rows, epoch, value, seconds = (
            extra.get(name) for name in ("rows", "best_epoch", "best_value", "seconds")
        )
        whole = isinstance(rows, list) and all(
            isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows
        )
        whole = (
            whole
            and isinstance(epoch, int)
            and 0 <= epoch <= len(rows)
            and isinstance(seconds, int | float)
        )
        require(
            whole and isinstance(value, int | float | None),
            "history in a checkpoint",
            "damaged",
            "name another run",
        )
        return History(rows, epoch, value, seconds)


def _plain_metrics(found) -> Metrics:
    remedy = "return a dict from names to numbers"
    check_class("metrics", found, Mapping, remedy)
    metrics = {}
    for name, value in found.items():
        require(isinstance(name, str), "name of a metric", repr(name), remedy)
        with parsing(
            f"metric {name}", "return numbers, texts, or lists and dicts of them"
        ):
            metrics[name] = plain(value)
    return metrics


class _Fit:
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
    ):
        self.config, self.mesh, self.metrics, self.checkpoints = (
            config,
            mesh,
            metrics,
            checkpoints,
        )
        self.monitor, self.largest = monitor, mode == "max"
        # with other values, the steps of a resumed epoch would be other steps than
        # those before the interruption, or its best epoch would be chosen by comparing
        # two metrics
        self.identity = {
            "examples": examples.count,
            "batch_size": config.batch_size,
            "seed": config.seed,
        }
        self.identity |= {"monitor": monitor, "mode": mode if monitor else "min"}
        self.per_epoch = steps_per_epoch(examples.count, config.batch_size)
        self.source = make_source(examples, mesh, config.batch_size)
        # in host memory, since a step reuses the memory of device arrays in its state
        self.carry = jax.tree.map(np.asarray, carry)
        self.order_key, step_key = jax.random.split(jax.random.key(config.seed))
        self.step_key = self._copied(step_key)
        if table is None:
            size = (config.batch_size // config.microbatches,)
            numbers, weight = (
                jax.ShapeDtypeStruct(size, np.int32),
                jax.ShapeDtypeStruct(size, np.float32),
            )
            with sharding.on(mesh):
                batch = jax.eval_shape(examples.gather, examples.arrays, numbers)
                table = largest_table(
                    objective, optimizer, params, batch, weight, step_key
                )
        self.state, self.shardings = create_state(
            params, optimizer, (*metrics, EXAMPLES, FINITE), mesh, self.carry, table
        )
        self.run_steps = make_run_steps(
            objective,
            optimizer,
            self.shardings,
            self.source.gather,
            self.per_epoch,
            config.microbatches,
        )
        self.history, self.began = History(), time.perf_counter()
        self.saved_at, self.saved_best = -math.inf, 0
        self.best_params = self._params() if monitor else None
        if checkpoints is not None:
            # now, and not after an epoch whose state could not be saved
            checkpoint.check_state(self._saved())

    def _copied(self, tree):
        return sharding.put(tree, sharding.replicated(self.mesh))

    def _params(self):
        return jax.tree.map(jnp.copy, self.state.params)

    def _saved(self) -> dict[str, Any]:
        """Return what a checkpoint stores. The number of examples is a float32, as in
        older versions, and `rounded` is its error.
        """
        state, count = self.state, int(self.state.totals[EXAMPLES])
        shown, rounded = self._copied(
            (np.float32(count), np.float32(count - int(np.float32(count))))
        )
        totals = {
            name: total for name, total in state.totals.items() if name != FINITE
        } | {EXAMPLES: shown}
        state = state._replace(
            totals=totals, behind=next(iter(state.behind.values()), ()), rounded=rounded
        )
        return (
            {"state": state}
            if self.best_params is None
            else {"state": state, "best": self.best_params}
        )

    def _restore(self, saved: TrainState):
        count = np.int32(int(saved.totals[EXAMPLES]) + int(saved.rounded))
        totals = saved.totals | self._copied({EXAMPLES: count, FINITE: np.int32(0)})
        self.state = saved._replace(
            totals=totals,
            behind=dict.fromkeys(self.state.behind, saved.behind),
            rounded=(),
        )

    @property
    def best(self) -> Any:
        return self.state.params if self.best_params is None else self.best_params

    @property
    def best_step(self) -> int:
        """Step at the end of the best epoch, or 0 if the parameters at that step are no
        longer there.
        """
        history = self.history
        step = (
            history.rows[(history.best_epoch or len(history.rows)) - 1]["step"]
            if history.rows
            else 0
        )
        return step if self.monitor or step == int(self.state.step) else 0

    @property
    def ended(self) -> bool:
        epochs, patience = (
            len(self.history.rows),
            self.config.patience if self.monitor else 0,
        )
        return epochs >= self.config.epochs or (
            patience > 0 and epochs - self.history.best_epoch >= patience
        )

    def resume(self, latest: Path, best: Path, console: Console) -> None:
        """Load the state from the newest intact checkpoint. If there is no checkpoint,
        do nothing.
        """
        saved, newest_best = (
            checkpoint.steps(latest),
            max(checkpoint.steps(best), default=0),
        )
        processes.require_equal(
            {
                f"checkpoints in {folder}": str(checkpoint.steps(folder))
                for folder in (latest, best)
            }
        )

        def check_identity(extra):
            # an older version may have saved the checkpoint
            saved_run = extra["run"] if isinstance(extra.get("run"), dict) else {}
            for name, value in self.identity.items():
                was = saved_run.get(name, value)
                remedy = (
                    f"the checkpoints in {latest} are of a training with "
                    f"{was or repr(was)}: give that, or another folder"
                )
                require(was == value, name, value or repr(value), remedy)

        note = ""
        if saved:
            compiled = (
                "rows of a table wait for steps of the compiled code: resume the "
                f"run where it is available ({native.why_not()})"
            )
            optional = {"state.behind": compiled, "state.rounded": ""}
            found = checkpoint.restore(
                latest, self._saved(), optional=optional, check=check_identity
            )
            self._restore(found.state["state"])
            self.best_params = found.state.get("best")
        elif newest_best > self.per_epoch:
            constant = (
                self.config.schedule == "constant" and not self.config.warmup_steps
            )
            remedy = (
                "its schedule cannot continue from the best epoch alone: train anew"
            )
            require(constant, f"checkpoints in {latest}", "none", remedy)
            found = checkpoint.restore(best, self.state.params, check=check_identity)
            self.state = self.state._replace(
                step=self._copied(np.int32(found.step)), params=found.state
            )
            self.best_params = self._params() if self.monitor else None
            note = (
                f" from {best}, with a new state of the optimiser, because "
                f"{latest} has no checkpoint"
            )
        # a process that ended before it saved its first state may have left the best
        # checkpoint of the first epoch
        else:
            return
        for step, reason in found.rejected:
            say(
                console,
                f"checkpoint of step {step} is damaged ({reason}); an older "
                "one is used",
            )
        # the parameters of an earlier step are no longer there
        most = self.config.epochs * self.per_epoch
        remedy = (
            f"the newest checkpoint in {latest} is of step {found.step}, and "
            f"these epochs have {most} steps: give more epochs"
        )
        require(found.step <= most, "epochs", self.config.epochs, remedy)
        self.history = History.read(found.extra)
        # also removes leftovers of a killed process
        checkpoint.prune(latest, KEEP["latest"])
        # a process may have ended after it saved the best, but not its state
        checkpoint.prune(best, KEEP["best"], found.step)
        if self.best_step and (damage := checkpoint.damage(best, self.best_step)):
            say(
                console,
                f"best checkpoint of step {self.best_step} is damaged "
                f"({damage}); saved again",
            )
            self._save("best", self.best_step, self.best)
        say(console, f"resumed after step {found.step} of {most}{note}")
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
        if self.checkpoints is not None:
            rows = [row for row in self.history.rows if row["step"] <= step]
            extra = asdict(self.history) | {"rows": rows, "run": self.identity}
            checkpoint.save(self.checkpoints / part, step, state, extra)
            if KEEP[part]:
                checkpoint.prune(self.checkpoints / part, KEEP[part])

    def train_epoch(self, asked: Asked, progress: Progress) -> Metrics:
        """Take the remaining steps of the current epoch, and return its training
        metrics.
        """
        epoch, every = len(self.history.rows), self.config.checkpoint_steps
        # read before the run was resumed within the epoch
        began, earlier = time.perf_counter(), float(self.state.totals[EXAMPLES])
        first = int(self.state.step) - epoch * self.per_epoch
        bar = progress.add_task(
            f"epoch {epoch + 1}/{self.config.epochs}",
            total=self.per_epoch,
            completed=first,
        )
        groups = self.source.groups(jax.random.fold_in(self.order_key, epoch), first)
        for start, stop, *given in _chunks(first, groups, every):
            with sharding.on(self.mesh):
                self.state = jax.block_until_ready(
                    self.run_steps(self.state, *given, start, stop, self.step_key)
                )
            progress.update(bar, completed=stop)
            if self.config.stop_on_nan:
                # a sum over the examples of the epoch so far
                loss = float(self.state.totals.get("loss", 0))
                step = 1 + max(
                    epoch * self.per_epoch + first, int(self.state.totals[FINITE])
                )
                shown = f"{loss} in epoch {epoch + 1}, from step {step} on"
                require(math.isfinite(loss), "training loss", shown, TOO_FAST)
            (number,) = processes.largest(asked.number)
            if stop < self.per_epoch and (number or (every and stop % every == 0)):
                self.history.seconds = time.perf_counter() - self.began
                self.save()
                if number:
                    raise Interrupted(int(self.state.step), number)
        progress.remove_task(bar)
        seconds, sums = (
            time.perf_counter() - began,
            jax.tree.map(float, self.state.totals),
        )
        row = {"epoch": epoch + 1, "step": int(self.state.step)} | {
            f"train_{name}": sums[name] / sums[EXAMPLES] for name in self.metrics
        }
        row |= {
            "seconds": seconds,
            "examples_per_second": (sums[EXAMPLES] - earlier) / seconds,
        }
        return (
            row
            if self.source.waited is None
            else row | {"input_seconds": self.source.waited}
        )

    def end_epoch(
        self, row: Metrics, callbacks: Sequence[Callback], resumed: bool
    ) -> None:
        """Finish an epoch: add its metrics to the history, call the callbacks, and save
        a checkpoint if any are saved.
        """
        history, params = self.history, self.state.params
        epoch, step = len(history.rows) + 1, int(self.state.step)
        if self.config.stop_on_nan:
            finite = all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
            require(finite, "parameters", f"not finite after epoch {epoch}", TOO_FAST)
        zeros = self._copied(jax.tree.map(np.zeros_like, self.state.totals))
        self.state = self.state._replace(
            totals=zeros, carry=sharding.put(self.carry, self.shardings.carry)
        )
        if self.monitor:
            require(
                self.monitor in row,
                "monitor",
                self.monitor,
                f"the metrics are {', '.join(row)}",
            )
            value, best = row[self.monitor], history.best_value
            check_class(
                f"metric {self.monitor}",
                value,
                int | float,
                "monitor a metric that is a number",
            )
            better = (
                best is None
                or (math.isnan(best) and not math.isnan(value))
                or (value > best if self.largest else value < best)
            )
            if better:
                history.best_value, history.best_epoch, self.best_params = (
                    value,
                    epoch,
                    self._params(),
                )
        history.rows.append(row)
        history.seconds = time.perf_counter() - self.began
        if self.config.keep_epochs:
            self._save("epochs", step, params)
        gathered = processes.gathered(params) if callbacks else params
        record = EpochRecord(
            epoch,
            step,
            row,
            tuple(history.rows),
            gathered,
            self.config.seed,
            resumed,
            history.best_epoch,
            self.ended,
        )
        for callback in callbacks:
            callback(record)


def _chunks(start: int, groups: Iterable[Group], every: int):
    """Divide the steps of groups, from step `start` on, into chunks that take about
    `CHUNK_SECONDS` each.
    """
    size, timed = 8, False
    for last, *given in groups:
        while start < last:
            stop = min(
                start + size, last, (start // every + 1) * every if every else last
            )
            began = time.perf_counter()
            yield start, stop, *given
            if timed:  # the first chunk is not timed, since it includes compilation
                (size,) = processes.largest(
                    max(
                        1,
                        round(
                            (stop - start)
                            * CHUNK_SECONDS
                            / max(time.perf_counter() - began, 1e-6)
                        ),
                    )
                )
            start, timed = stop, True
