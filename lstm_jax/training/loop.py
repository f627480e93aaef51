"""Epochs over device-resident rows: progress, evaluation, early stopping, checkpoints, interrupts."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from lstm_jax.config import TrainConfig
from lstm_jax.errors import Interrupted, require
from lstm_jax.runtime import sharding
from lstm_jax.runtime.interrupts import interrupted
from lstm_jax.training import checkpoint
from lstm_jax.training.callbacks import Callback, EpochRecord
from lstm_jax.training.state import TrainState, create_state
from lstm_jax.training.step import EXAMPLES, Examples, Objective, make_run_steps, no_rows_behind, steps_per_epoch

STRETCH_SECONDS = 0.5
KEEP = 3
"""Checkpoints kept of the newest; if the last is damaged, an older one serves."""
KEEP_BEST = 2
"""The number kept of the best epochs."""


@dataclass(frozen=True)
class FitResult:
    """params: of the best epoch if one was monitored, else the last; rows: one an epoch; best_epoch: from 1."""

    params: Any
    rows: tuple[dict[str, Any], ...]
    best_epoch: int
    stopped_early: bool
    seconds: float


@dataclass(frozen=True)
class Progressed:
    """Where a run stands between steps; the JSON part of a checkpoint."""

    rows: tuple[dict[str, Any], ...] = ()
    best_epoch: int = 0
    best_value: float = float("inf")
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """JSON has no infinity: no best value is null."""
        best = self.best_value if self.best_epoch else None
        return {"rows": list(self.rows), "best_epoch": self.best_epoch, "best_value": best, "seconds": self.seconds}

    @staticmethod
    def from_json(raw: dict[str, Any]) -> "Progressed":
        best = float("inf") if raw["best_value"] is None else raw["best_value"]
        return Progressed(tuple(raw["rows"]), raw["best_epoch"], best, raw["seconds"])


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Note SIGINT and SIGTERM instead of dying of them; a second SIGINT interrupts at once, and so does one that came before."""
    if interrupted():
        raise KeyboardInterrupt
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number, frame):
        del frame
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raise `InputError` unless a batch divides over the mesh."""
    remedy = f"give a multiple of the mesh's {mesh.size} devices, or set --devices 1"
    require(batch_size % mesh.size == 0, "batch_size", batch_size, remedy)


def fit(
    params: Any,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    examples: Examples,
    config: TrainConfig,
    mesh: Mesh,
    *,
    carry: Any = (),
    figures: tuple[str, ...] = ("loss", "accuracy"),
    derive: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    evaluate: Callable[[Any], dict[str, Any]] | None = None,
    monitor: str = "",
    checkpoints: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
) -> FitResult:
    """Train.

    Args:
        params: initial parameters; left as they are.
        objective: see `step.Objective`.
        examples: what an epoch reads.
        config: epochs, batch size, seed, patience.
        mesh: devices.
        carry: what the first step of each epoch is handed, pytree of (B, ...) arrays; () if steps hand nothing on.
        figures: names of what the objective gives beside the loss.
        derive: further figures of an epoch, computed from its row's training figures.
        evaluate: called with the parameters after each epoch; its figures join the epoch's row.
        monitor: name of a figure whose smallest value marks the best epoch, kept apart and used for early stopping; empty for none.
        checkpoints: folder of `latest/` (the whole state, to resume from) and `best/` (parameters of the best epoch, of the newest one
            if nothing is monitored).
        resume: go on from the newest good checkpoint there, if there is one.
        callbacks: called after each epoch.
        console: shows progress if it is a terminal.

    Returns:
        FitResult.

    Raises:
        InputError: if sizes do not fit, or checkpoints are damaged beyond use.
        Interrupted: after SIGINT or SIGTERM, when the state has been saved.
    """
    count = examples.count
    require(count >= 1, "training examples", count, "give at least one")
    check_batch_size(config.batch_size, mesh)
    console = console or Console(quiet=True)
    per_epoch = steps_per_epoch(count, config.batch_size)
    arrays = jax.device_put(examples.arrays, sharding.replicated(mesh))
    carry = jax.tree.map(np.asarray, carry)  # not a device's own memory, which the first step would take
    key = jax.random.key(config.seed)
    order_key, step_key = jax.random.split(jax.device_put(key, sharding.replicated(mesh)))
    behind = no_rows_behind(objective, optimizer, params)
    state, places = create_state(params, optimizer, (*figures, EXAMPLES), mesh, carry, behind)
    run_steps = make_run_steps(objective, optimizer, places, mesh, examples.gather)

    def tree(state: TrainState, best: Any) -> dict[str, Any]:
        return {"state": state} if best is None else {"state": state, "best": best}

    progressed = Progressed()
    latest = None if checkpoints is None else checkpoints / "latest"
    best = None if checkpoints is None else checkpoints / "best"
    best_params = jax.tree.map(lambda a: a.copy(), state.params) if monitor else None
    if resume and latest is not None and checkpoint.steps(latest):
        found = checkpoint.restore(latest, tree(state, best_params), added=("state.behind",))
        for step, reason in found.rejected:
            console.print(f"checkpoint of step {step} is damaged ({reason}); an older one is used", highlight=False)
        state, best_params = found.state["state"], found.state.get("best")
        progressed = Progressed.from_json(found.extra)
        console.print(f"resumed after step {found.step} of {config.epochs * per_epoch}", highlight=False)
        for folder, keep in ((latest, KEEP), (best, KEEP_BEST)):
            if folder is not None and folder.is_dir():
                checkpoint.prune(folder, keep)  # with what a killed process left there

    def save(seconds: float) -> None:
        if latest is not None:
            kept = replace(progressed, seconds=seconds)
            checkpoint.save(latest, int(state.step), tree(state, best_params), kept.to_json())
            checkpoint.prune(latest, KEEP)

    def given_up() -> bool:
        return bool(monitor and config.patience and len(progressed.rows) - progressed.best_epoch >= config.patience)

    began = time.perf_counter() - progressed.seconds
    stopped = given_up()  # a run that had stopped early is not taken further by resuming it
    with _signals() as asked, _progress(console) as progress:
        while len(progressed.rows) < config.epochs and not stopped:
            epoch = len(progressed.rows)
            order = examples.order(jax.random.fold_in(order_key, epoch), count, config.batch_size)
            order = jax.device_put(order, sharding.replicated(mesh))
            epoch_began, earlier = time.perf_counter(), float(state.totals[EXAMPLES])
            task = progress.add_task(f"epoch {epoch + 1}/{config.epochs}", total=per_epoch, completed=int(state.step) - epoch * per_epoch)
            for start, stop in _stretches(int(state.step) - epoch * per_epoch, per_epoch, config.checkpoint_steps):
                state = run_steps(state, arrays, order, start, stop, step_key)
                jax.block_until_ready(state)
                progress.update(task, completed=stop)
                due = config.checkpoint_steps and stop % config.checkpoint_steps == 0 and stop < per_epoch
                if due or (asked.is_set() and stop < per_epoch):
                    save(time.perf_counter() - began)
                if asked.is_set() and stop < per_epoch:
                    raise Interrupted(int(state.step))
            progress.remove_task(task)
            trained = time.perf_counter() - epoch_began
            sums = {name: float(total) for name, total in state.totals.items()}
            row = {"epoch": epoch + 1, "step": int(state.step)}
            row |= {f"train_{name}": sums[name] / sums[EXAMPLES] for name in figures}
            row |= {"seconds": trained, "examples_per_second": (sums[EXAMPLES] - earlier) / trained}
            row |= derive(row) if derive else {}
            row |= evaluate(state.params) if evaluate else {}
            require(not monitor or monitor in row, "monitor", monitor, f"the figures are {', '.join(row)}")
            zeros = jax.tree.map(lambda a: jax.device_put(np.zeros_like(a), a.sharding), state.totals)
            state = state._replace(totals=zeros, carry=jax.tree.map(jax.device_put, carry, places.carry))
            progressed = replace(progressed, rows=(*progressed.rows, row), seconds=time.perf_counter() - began)
            # the first epoch is the best until a better one comes, even if its figure is nan
            unset = not progressed.best_epoch or np.isnan(progressed.best_value)
            better = not monitor or unset or row[monitor] < progressed.best_value
            if monitor and better:
                progressed = replace(progressed, best_value=row[monitor], best_epoch=epoch + 1)
                best_params = jax.tree.map(lambda a: a.copy(), state.params)
            if better and best is not None:
                checkpoint.save(best, int(state.step), state.params, progressed.to_json())
                checkpoint.prune(best, KEEP_BEST)
            record = EpochRecord(epoch + 1, int(state.step), row, progressed.rows, state.params, config.seed)
            for callback in callbacks:
                callback(record)
            save(progressed.seconds)
            stopped = given_up()
            if asked.is_set() and not stopped and epoch + 1 < config.epochs:
                raise Interrupted(int(state.step))
    best_epoch = progressed.best_epoch or len(progressed.rows)
    return FitResult(best_params if best_params is not None else state.params, progressed.rows, best_epoch, stopped, progressed.seconds)


def _stretches(start: int, stop: int, every: int) -> Iterator[tuple[int, int]]:
    """Cut start..stop into stretches of about `STRETCH_SECONDS`, none across a multiple of `every` (0: no such bounds)."""
    size, timed = 8, False
    while start < stop:
        end = min(start + size, stop, (start // every + 1) * every if every else stop)
        began = time.perf_counter()
        yield start, end
        if timed:  # the first one compiles
            size = max(1, round((end - start) * STRETCH_SECONDS / max(time.perf_counter() - began, 1e-6)))
        start, timed = end, True


class _Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} steps/s" if task.speed else "")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
