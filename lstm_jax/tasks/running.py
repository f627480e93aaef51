"""Folder of a run while it is trained and when it is read: begin, table of layers, result, parameters."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from lstm_jax import native
from lstm_jax.cells import CELLS
from lstm_jax.config import RecurrentConfig, RunConfig, to_json
from lstm_jax.dropout import draw_masks
from lstm_jax.errors import require
from lstm_jax.files.reading import read_input
from lstm_jax.files.writing import write_atomically
from lstm_jax.models import layer_rows
from lstm_jax.recurrence import ZONEOUT, dropout_kinds, resolve_backend
from lstm_jax.runtime import sharding
from lstm_jax.training import checkpoint
from lstm_jax.training.callbacks import Callback, metrics_file, print_row, tensorboard
from lstm_jax.training.examples import steps_per_epoch
from lstm_jax.training.loop import FitResult, check_batch_size
from lstm_jax.training.optimizers import make_optimizer
from lstm_jax.training.row_sparse import Optimizer
from lstm_jax.training.run_folder import RunFolder, differences, environment

Content = str | bytes | Callable[[IO[bytes]], object]
"""Content of a file, as `write_atomically` takes it."""


@dataclass(frozen=True)
class Permissions:
    """Permissions to begin in a folder with files: `resume` the same run, interrupted; on an `other_machine` than it began on."""

    resume: bool = False
    other_machine: bool = False


@dataclass(frozen=True)
class Run:
    """A run that has begun: its folder holds config, environment and the fingerprint of the data."""

    folder: RunFolder
    mesh: jax.sharding.Mesh
    backend: str
    optimizer: Optimizer

    def callbacks(self, console: Console, own: Sequence[Callback] = ()) -> tuple[Callback, ...]:
        """Return the built-in callbacks (metrics.jsonl, TensorBoard, one line per epoch), then `own`."""
        return (metrics_file(self.folder.metrics), tensorboard(self.folder.events), print_row(console), *own)


@contextlib.contextmanager
def begin(
    config: RunConfig,
    folder: Path,
    mesh: jax.sharding.Mesh,
    examples: int,
    fingerprint: str,
    files: Mapping[str, Content],
    permissions: Permissions,
    console: Console,
) -> Iterator[Run]:
    """Make the folder of a run, or enter that of an interrupted run, and lock out other processes.

    Args:
        config: config of the run.
        folder: its folder.
        mesh: devices.
        examples: examples in an epoch.
        fingerprint: fingerprint of the data; a resumed run must have the same.
        files: further files that answers depend on, written if absent; see `manifest.FILES`.
        permissions: what the folder may hold already.
        console: shows a note if the environment has changed.

    Raises:
        InputError: for a config that does not fit, before the folder is made; for a folder that cannot be taken, a file in it that has
            changed, or another environment.
    """
    backend = check_request(config, mesh)
    optimizer = make_optimizer(config.train, config.train.epochs * steps_per_epoch(examples, config.train.batch_size))
    run = RunFolder(folder)
    if jax.process_index():  # the first process alone writes to a folder that several share
        yield Run(run, mesh, backend, optimizer)
        return
    with run.locked():
        run.start(to_json(config), permissions.resume)
        here = environment(mesh) | {"backend": backend, "compiled": "" if native.why_not() else native.library_path().name}
        environments = _environments(run, here, permissions.other_machine, console)
        run.fix_data(fingerprint)
        for name, content in files.items():
            if not (run.manifest.exists() and (run.path / name).exists()):  # without a manifest an existing file cannot be verified
                write_atomically(run.path / name, content)
        run.seal(environments)
        yield Run(run, mesh, backend, optimizer)


def _environments(run: RunFolder, here: dict[str, Any], allow: bool, console: Console) -> tuple[dict[str, Any], ...]:
    """Return the environments of a run, including this one.

    Raises:
        InputError: if numbers could differ from those of the previous environment, and that is not allowed.
    """
    before = run.environments()
    if not before:
        return (here,)
    found = "; ".join(differences(before[-1], here))
    remedy = f"{found}: the last bits of what follows would differ; go back to it, or resume with --allow-other-machine"
    require(allow or not found, f"machine of run {run.path}", "not the one it was trained on", remedy)
    if found:
        console.print(f"resumed on another machine, so that the last bits differ: {found}", highlight=False, markup=False)
    return (*before, here) if found else before


def open_run(folder: Path) -> tuple[RunFolder, tuple[str, ...]]:
    """Return the folder of a run to be read, and warnings about it.

    Raises:
        InputError: if a file that its answers depend on has changed since the run wrote it.
    """
    run = RunFolder(folder)
    return run, run.verify()


def check_request(config: RunConfig, mesh: jax.sharding.Mesh) -> str:
    """Return the name of the backend that serves the config; `InputError` if none does, or a batch does not divide over the mesh."""
    named = None if config.model.backend == "auto" else config.model.backend
    backend = resolve_backend(named, config.model.cell, compute_dtype=config.model.dtype, **_requirements(config.model)).name
    check_batch_size(config.train.batch_size, mesh)
    return backend


def _requirements(model: RecurrentConfig) -> dict[str, Any]:
    """Return what training requires of a backend, as arguments of `resolve_backend`."""
    rates = (model.dropout, model.recurrent_dropout, model.dropout_masks)
    masks = jax.eval_shape(lambda: draw_masks(jax.random.key(0), 1, 1, 1, *rates, gates=CELLS[model.cell].gates))
    kinds = dropout_kinds(masks) + (ZONEOUT,) * bool(model.zoneout or model.zoneout_cell)
    return {"dropout": kinds, "mask": "mask" if getattr(model, "mask_zero", False) else "", "units": model.units}


def initial_rngs(seed: int) -> nnx.Rngs:
    """Return the random streams of the initial weights of a run."""
    return nnx.Rngs(params=jax.random.fold_in(jax.random.key(seed), 1))


def summary(model: nnx.Module, title: str) -> Table:
    """Return a table of layers, shapes and parameter counts."""
    rows = layer_rows(model)
    total = sum(int(row["count"].replace(",", "")) for row in rows)
    table = Table(title=title, caption=f"{total:,} parameters ({total * 4 / 2**20:.1f} MiB)")
    for name in ("layer", "type", "parameters", "count"):
        table.add_column(name, justify="right" if name == "count" else "left")
    for row in rows:
        table.add_row(*row.values())
    return table


def write_result(run: RunFolder, result: FitResult, metrics: dict[str, Any]) -> None:
    """Write result.json: how the run ended, and the final metrics of the selected parameters."""
    row = {"best_epoch": result.best_epoch, "stopped_early": result.stopped_early, "seconds": result.seconds}
    write_atomically(run.result, json.dumps(row | metrics, indent=2) + "\n")


def is_own_data(run: RunFolder, fingerprint: str) -> bool:
    """Return whether the run was trained on the data of that fingerprint.

    Raises:
        InputError: if the run's record of its data cannot be read.
    """
    return read_input(run.data, remedy="name the folder of a finished or interrupted run").strip() == fingerprint.encode()


def check_own_data(run: RunFolder, fingerprint: str) -> None:
    """Check that the run was trained on the data of that fingerprint; with others, ids and parts would mean something else.

    Raises:
        InputError: if it was not.
    """
    same = is_own_data(run, fingerprint)
    require(same, f"data of run {run.path}", "changed since the run began", "give back the data that its config.json names")


def mesh_of(config: RunConfig) -> jax.sharding.Mesh:
    """Return the mesh of a config, with all devices if this machine has fewer."""
    return sharding.make_mesh(config.train.devices if config.train.devices <= jax.device_count() else 0)


def load_params(run: RunFolder, like: dict[str, jax.Array]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the parameters of the best epoch, or of the newest where no validation part selected one, and notes on damaged checkpoints.

    Raises:
        InputError: if no good checkpoint is left.
    """
    found = checkpoint.restore(run.checkpoints / "best", like)
    notes = tuple(f"checkpoint of step {step} is damaged ({reason}); an older one is used" for step, reason in found.rejected)
    return {name: np.asarray(array) for name, array in found.state.items()}, notes
