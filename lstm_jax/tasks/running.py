"""Functions that begin a run in its folder, write its result, and load its parameters."""

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
"""Content of a file: text, bytes, or a function that writes to the open binary file; see `write_atomically`."""


@dataclass(frozen=True)
class Permissions:
    """Permissions to use a folder that already holds a run.

    `resume` allows an interrupted run of the same config to be continued. `other_machine` allows this also on another machine than before.
    """

    resume: bool = False
    other_machine: bool = False


@dataclass(frozen=True)
class Run:
    """A run that has begun: its folder holds the config, the environment and the fingerprint of the data."""

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
    """Begin or resume a run in its folder, and lock other processes out of the folder until the context ends.

    Args:
        config: config of the run.
        folder: folder of the run; it is made if absent.
        mesh: devices that a batch is sharded over.
        examples: number of examples in an epoch.
        fingerprint: fingerprint of the data; a resumed run must have the same one.
        files: contents of the task's own files, by file name (see `manifest.FILES`). Those that a resumed run already has are kept.
        permissions: whether the folder may hold an interrupted run.
        console: console that shows a note if the environment has changed.

    Raises:
        InputError: if no backend can run the config or the batch size is not a multiple of the number of devices, both before the folder is
            made; if the folder cannot be used; if a file in it has changed; if the environment has changed without permission.
    """
    backend = check_request(config, mesh)
    optimizer = make_optimizer(config.train, config.train.epochs * steps_per_epoch(examples, config.train.batch_size))
    run = RunFolder(folder)
    if jax.process_index():  # of the processes that share a folder, only the first one writes to it
        yield Run(run, mesh, backend, optimizer)
        return
    with run.locked():
        run.start(to_json(config), permissions.resume)
        here = environment(mesh) | {"backend": backend, **_compiled_code()}
        environments = _environments(run, here, permissions.other_machine, console)
        run.fix_data(fingerprint)
        for name, content in files.items():
            if not (run.manifest.exists() and (run.path / name).exists()):  # without a manifest an existing file cannot be verified
                write_atomically(run.path / name, content)
        run.seal(environments)
        yield Run(run, mesh, backend, optimizer)


def _compiled_code() -> dict[str, str]:
    """Return the entries of the environment about compiled code: the file name of the library in use, or the reason why there is none."""
    path = native.loaded_library()
    return {"compiled": path.name} if path else {"compiled": "", "not_compiled": native.why_not()}


def _environments(run: RunFolder, here: dict[str, Any], allow: bool, console: Console) -> tuple[dict[str, Any], ...]:
    """Return the environments that a run was trained in, including the present one (`here`).

    Raises:
        InputError: if the present environment could change numbers and `allow` is false.
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
    """Verify the folder of an existing run, and return it with warnings about it.

    Raises:
        InputError: if a file that predictions depend on has changed since the run wrote it.
    """
    run = RunFolder(folder)
    return run, run.verify()


def check_request(config: RunConfig, mesh: jax.sharding.Mesh) -> str:
    """Return the name of the backend that runs the config.

    Raises:
        InputError: if no backend can run the config, or if the batch size is not a multiple of the number of devices.
    """
    named = None if config.model.backend == "auto" else config.model.backend
    backend = resolve_backend(named, config.model.cell, compute_dtype=config.model.dtype, **_requirements(config.model)).name
    check_batch_size(config.train.batch_size, mesh)
    return backend


def _requirements(model: RecurrentConfig) -> dict[str, Any]:
    """Return the features that training requires of a backend, as keyword arguments of `resolve_backend`."""
    rates = (model.dropout, model.recurrent_dropout, model.dropout_masks)
    masks = jax.eval_shape(lambda: draw_masks(jax.random.key(0), 1, 1, 1, *rates, gates=CELLS[model.cell].gates))
    kinds = dropout_kinds(masks) + (ZONEOUT,) * bool(model.zoneout or model.zoneout_cell)
    return {"dropout": kinds, "mask": "mask" if getattr(model, "mask_zero", False) else "", "units": model.units}


def initial_rngs(seed: int) -> nnx.Rngs:
    """Return the random streams from which the initial weights of a run are drawn."""
    return nnx.Rngs(params=jax.random.fold_in(jax.random.key(seed), 1))


def summary(model: nnx.Module, title: str) -> Table:
    """Return a table of the layers of a model, with their types, parameters and parameter counts."""
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
    """Return whether the run was trained on the data with this fingerprint.

    Raises:
        InputError: if the file that holds the fingerprint of the run's data cannot be read.
    """
    return read_input(run.data, remedy="name the folder of a finished or interrupted run").strip() == fingerprint.encode()


def check_own_data(run: RunFolder, fingerprint: str) -> None:
    """Check that the run was trained on the data with this fingerprint, since other data would have other ids and splits.

    Raises:
        InputError: if the run was trained on other data.
    """
    same = is_own_data(run, fingerprint)
    require(same, f"data of run {run.path}", "changed since the run began", "give back the data that its config.json names")


def mesh_of(config: RunConfig) -> jax.sharding.Mesh:
    """Return the mesh of a config, or a mesh of all devices if this machine has fewer than the config names."""
    return sharding.make_mesh(config.train.devices if config.train.devices <= jax.device_count() else 0)


def load_params(run: RunFolder, like: dict[str, jax.Array]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the parameters of the best epoch (of the newest one if no validation split selected it), and notes on damaged checkpoints.

    Args:
        run: folder of the run.
        like: parameters with the names, shapes and dtypes to load.

    Raises:
        InputError: if no intact checkpoint is left, or if it does not match `like`.
    """
    found = checkpoint.restore(run.checkpoints / "best", like)
    notes = tuple(f"checkpoint of step {step} is damaged ({reason}); an older one is used" for step, reason in found.rejected)
    return {name: np.asarray(array) for name, array in found.state.items()}, notes
