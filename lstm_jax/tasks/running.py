"""Functions that prepare the folder of a run, write the result of the run, and load its parameters."""

import contextlib
import json
import os
import tempfile
import time
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
from lstm_jax.config import RunConfig, to_json
from lstm_jax.config.shared import config_values
from lstm_jax.dropout import draw_masks
from lstm_jax.errors import require
from lstm_jax.files.json_text import json_text
from lstm_jax.files.reading import read_input
from lstm_jax.files.writing import write_atomically
from lstm_jax.models import layer_rows
from lstm_jax.recurrence import ZONEOUT, dropout_kinds, resolve_backend
from lstm_jax.runtime import processes, sharding
from lstm_jax.training import checkpoint
from lstm_jax.training.callbacks import Callback, metrics_file, print_row, tensorboard
from lstm_jax.training.examples import steps_per_epoch
from lstm_jax.training.loop import FitResult, check_batch_size
from lstm_jax.training.optimizers import make_optimizer
from lstm_jax.training.row_sparse import Optimizer
from lstm_jax.training.run_folder import RunFolder, differences, environment, same_data, versions

Content = str | bytes | Callable[[IO[bytes]], object]
"""Content of a file: a string, bytes, or a function that writes the content to an open binary file (see `write_atomically`)."""


SHARED_SECONDS = 10.0
"""Number of seconds until each process must see a file that process 0 has written. A network file system can delay it."""


@dataclass(frozen=True)
class Permissions:
    """Permissions to continue a run.

    If `resume` is true, a run in the folder may be continued with the same config or with more epochs; see `RunFolder.start`. If
    `other_machine` is also true, the run may be continued even if devices, package versions or compiled code have changed.
    """

    resume: bool = False
    other_machine: bool = False


@dataclass(frozen=True)
class Run:
    """A training run whose folder holds the config, the environment and the fingerprint (a checksum) of the data.

    `backend` is the name of the backend that computes the recurrent layers.
    """

    folder: RunFolder
    mesh: jax.sharding.Mesh
    backend: str
    optimizer: Optimizer

    def callbacks(self, console: Console, own: Sequence[Callback] = ()) -> tuple[Callback, ...]:
        """Return the callbacks that are called after each epoch: the built-in callbacks, followed by `own`."""
        return (self.folder.check_exists, metrics_file(self.folder.metrics), tensorboard(self.folder.events), print_row(console), *own)


@contextlib.contextmanager
def begin(
    config: RunConfig,
    folder: str | os.PathLike[str],
    mesh: jax.sharding.Mesh,
    examples: int,
    fingerprint: str,
    files: Mapping[str, Content],
    permissions: Permissions,
    console: Console,
) -> Iterator[Run]:
    """Prepare the folder of a new or resumed run, and lock the folder against other processes until the context ends."""
    unnamed = sorted(set(files) ^ set(config.files))
    require(not unnamed, f"files of {config.task}", unnamed, "name each file that the task writes in the `files` of its config")
    backend = check_request(config, mesh)
    optimizer = make_optimizer(config.train, config.train.epochs * steps_per_epoch(examples, config.train.batch_size))
    here = environment(mesh) | {"backend": backend, **_compiled_code()}
    processes.require_equal({"backend": backend, "data": fingerprint})
    with contextlib.ExitStack() as stack:
        run = RunFolder(Path(folder))
        with processes.together():
            if not processes.first():
                run = RunFolder(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lstm_jax_"))), checkpoints=run.checkpoints)
            stack.enter_context(run.locked())
        _require_shared(Path(folder))
        with processes.together():
            longer = run.start(to_json(config), permissions.resume)
            environments = run.environments() or (here,)
            if found := "; ".join(differences(environments[-1], here)):
                remedy = f"{found}: the last bits of what follows would differ; go back to it, or resume with --allow-other-machine"
                require(permissions.other_machine, f"machine of run {run.path}", "not the one it was trained on", remedy)
                console.print(f"resumed on another machine, so that the last bits differ: {found}", highlight=False, markup=False)
                environments = (*environments, here)
            run.fix_data(fingerprint)
            for name, content in files.items():
                if not (run.manifest.exists() and (run.path / name).exists()):  # without a manifest an existing file cannot be verified
                    write_atomically(run.path / name, content)
            if longer:
                run.lengthen(to_json(config))
            run.seal(environments)
        yield Run(run, mesh, backend, optimizer)
        run.check_exists()
        with processes.together():  # none ends while another one still needs it
            pass


def check_processes(config: RunConfig, resume: bool) -> None:
    """Check that all processes have the same config, `resume`, versions and code and, once JAX has made its devices, as many devices."""
    if not processes.several():
        return
    values = {"processes": str(processes.count()), "platforms": os.environ.get("JAX_PLATFORMS", "any"), "resume": str(resume)}
    for section, part in config_values(config).items():
        values |= {f"{section}.{name}": json.dumps(value) for name, value in part.items()}
    values |= {"compiled code": _compiled_code()["compiled"] or "none"} | versions() | {"code": processes.code_digest()}
    processes.require_equal(values, processes.CONNECT_SECONDS)
    processes.require_equal({"devices": str(jax.local_device_count())}, processes.CONNECT_SECONDS)


def _require_shared(folder: Path) -> None:
    """Check that all processes see the folder that process 0 has locked, by the content of its lock."""
    if not processes.several():
        return

    def owner() -> str:
        with contextlib.suppress(OSError):
            return RunFolder(folder).lock.read_text()
        return ""

    locked_by, until = next(processes.exchange(owner())), time.monotonic() + SHARED_SECONDS
    while not (same := owner() == locked_by) and time.monotonic() < until:
        time.sleep(0.1)
    processes.require_equal({"run folder, which all processes must share": "found" if same else "missing"})


def _compiled_code() -> dict[str, str]:
    path = native.loaded_library()
    return {"compiled": path.name} if path else {"compiled": "", "not_compiled": native.why_not()}


def open_run(folder: str | os.PathLike[str]) -> tuple[RunFolder, tuple[str, ...]]:
    """Open the folder of an existing run, and check that its files have not changed."""
    run = RunFolder(Path(folder))
    return run, run.verify()


def check_request(config: RunConfig, mesh: jax.sharding.Mesh) -> str:
    """Choose the backend that computes the recurrent layers of a config, and return its name."""
    model = config.model
    rates = (model.dropout, model.recurrent_dropout, model.dropout_masks)
    masks = jax.eval_shape(lambda: draw_masks(jax.random.key(0), 1, 1, 1, *rates, gates=CELLS[model.cell].gates))
    kinds = dropout_kinds(masks) + (ZONEOUT,) * bool(model.zoneout or model.zoneout_cell)
    mask = "mask" if getattr(model, "mask_zero", False) else ""
    named = None if model.backend == "auto" else model.backend
    backend = resolve_backend(named, model.cell, compute_dtype=model.dtype, dropout=kinds, mask=mask, units=model.units).name
    check_batch_size(config.train, mesh)
    return backend


def initial_rngs(seed: int) -> nnx.Rngs:
    """Return the random-number streams from which the initial weights of a run are drawn."""
    return nnx.Rngs(params=jax.random.fold_in(jax.random.key(seed), 1))


def summary(model: nnx.Module, title: str) -> Table:
    """Return a table with one row for each layer that has parameters."""
    rows = layer_rows(model)
    total = sum(int(row["count"].replace(",", "")) for row in rows)
    table = Table(title=title, caption=f"{total:,} parameters ({total * 4 / 2**20:.1f} MiB)")
    for name in ("layer", "type", "parameters", "count"):
        table.add_column(name, justify="right" if name == "count" else "left")
    for row in rows:
        table.add_row(*row.values())
    return table


def write_result(run: RunFolder, result: FitResult, metrics: dict[str, Any]) -> None:
    """Write the result of a run to result.json, as a JSON object."""
    row = {"best_epoch": result.best_epoch, "stopped_early": result.stopped_early, "seconds": result.seconds}
    write_atomically(run.result, json_text(row | metrics, indent=2) + "\n")


def is_own_data(run: RunFolder, fingerprint: str) -> bool:
    """Return whether `fingerprint` (a checksum of data) is the fingerprint of the data that the run's model was trained on."""
    return same_data(read_input(run.data, remedy="name the folder of a finished or interrupted run"), fingerprint)


def check_own_data(run: RunFolder, fingerprint: str) -> None:
    """Check that `fingerprint` (a checksum of data) is the fingerprint of the data that the run was trained on."""
    same = is_own_data(run, fingerprint)
    require(same, f"data of run {run.path}", "changed since the run began", "give back the data that its config.json names")


def mesh_of(config: RunConfig) -> jax.sharding.Mesh:
    """Return a mesh with as many devices as the config asks for."""
    return sharding.make_mesh(config.train.devices if config.train.devices <= jax.device_count() else 0)


def load_params(run: RunFolder, like: dict[str, jax.Array]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Load the parameters of the best epoch of a run."""
    found = checkpoint.restore(run.checkpoints / "best", like)
    notes = tuple(f"checkpoint of step {step} is damaged ({reason}); an older one is used" for step, reason in found.rejected)
    notes += tuple(f"checkpoint of step {step} is unfinished (it has no manifest); an older one is used" for step in found.unfinished)
    params = {name: np.asarray(array) for name, array in found.state.items()}
    for name, array in params.items():
        require(
            bool(np.isfinite(array).all()),
            f"run {run.path}",
            f"{name} is not finite",
            "the training has diverged: train anew with a lower learning rate",
        )
    return params, notes
