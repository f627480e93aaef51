"""What the tasks' runs have in common: entering the folder, showing the model, reading the parameters back."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

from lstm_jax import sharding
from lstm_jax.cells import CELLS
from lstm_jax.config import RecurrentConfig, RunConfig, to_json
from lstm_jax.dropout import draw_masks
from lstm_jax.files import write_atomically
from lstm_jax.models import layer_rows
from lstm_jax.recurrence import ZONEOUT, dropout_kinds, resolve_backend
from lstm_jax.training import checkpoint
from lstm_jax.training.callbacks import Callback, metrics_file, print_row, tensorboard
from lstm_jax.training.loop import FitResult, check_batch_size
from lstm_jax.training.optimizers import make_optimizer
from lstm_jax.training.run_folder import RunFolder
from lstm_jax.training.step import steps_per_epoch


@dataclass(frozen=True)
class Run:
    """A run that has begun: its folder holds config, environment and the data's fingerprint."""

    folder: RunFolder
    mesh: jax.sharding.Mesh
    backend: str
    optimizer: optax.GradientTransformation

    def callbacks(self, console: Console, own: Sequence[Callback] = ()) -> tuple[Callback, ...]:
        """The built-in ones (metrics.jsonl, TensorBoard, a line an epoch), then `own`."""
        return (metrics_file(self.folder.metrics), tensorboard(self.folder.events), print_row(console), *own)


def begin(config: RunConfig, folder: Path, mesh: jax.sharding.Mesh, examples: int, fingerprint: str, resume: bool) -> Run:
    """Make the run's folder, or enter that of an interrupted run.

    Args:
        examples: in an epoch.
        fingerprint: of the data; a resumed run must have the same.

    Raises:
        InputError: for a config that does not fit, before the folder is made; for a folder that cannot be taken.
    """
    backend = check_request(config, mesh)
    optimizer = make_optimizer(config.train, config.train.epochs * steps_per_epoch(examples, config.train.batch_size))
    run = RunFolder(folder)
    run.start(to_json(config), resume)
    run.write_environment(mesh, backend)
    run.fix_data(fingerprint)
    return Run(run, mesh, backend, optimizer)


def check_request(config: RunConfig, mesh: jax.sharding.Mesh) -> str:
    """Return the name of the backend that serves the config; `InputError` if none does, or a batch does not divide over the mesh."""
    asked = None if config.model.backend == "auto" else config.model.backend
    backend = resolve_backend(asked, config.model.cell, compute_dtype=config.model.dtype, **_asked(config.model)).name
    check_batch_size(config.train.batch_size, mesh)
    return backend


def _asked(model: RecurrentConfig) -> dict[str, Any]:
    """What training asks of a backend, as `recurrence.Request` has it."""
    rates = (model.dropout, model.recurrent_dropout, model.dropout_masks)
    masks = jax.eval_shape(lambda: draw_masks(jax.random.key(0), 1, 1, 1, *rates, gates=CELLS[model.cell].gates))
    kinds = dropout_kinds(masks) + (ZONEOUT,) * bool(model.zoneout or model.zoneout_cell)
    return {"dropout": kinds, "mask": "mask" if getattr(model, "mask_zero", False) else "", "units": model.units}


def initial_rngs(seed: int) -> nnx.Rngs:
    """From which the initial weights of a run are drawn."""
    return nnx.Rngs(params=jax.random.fold_in(jax.random.key(seed), 1))


def summary(model: nnx.Module, title: str) -> Table:
    """A table of the model's layers, shapes and parameter counts."""
    rows = layer_rows(model)
    total = sum(int(row["count"].replace(",", "")) for row in rows)
    table = Table(title=title, caption=f"{total:,} parameters ({total * 4 / 2**20:.1f} MiB)")
    for name in ("layer", "type", "parameters", "count"):
        table.add_column(name, justify="right" if name == "count" else "left")
    for row in rows:
        table.add_row(*row.values())
    return table


def write_result(run: RunFolder, result: FitResult, figures: dict[str, Any]) -> None:
    """result.json: how the run ended, and the final figures of the chosen parameters."""
    row = {"best_epoch": result.best_epoch, "stopped_early": result.stopped_early, "seconds": result.seconds}
    write_atomically(run.result, json.dumps(row | figures, indent=2) + "\n")


def mesh_of(config: RunConfig) -> jax.sharding.Mesh:
    """The config's mesh; all devices if this machine has fewer."""
    return sharding.make_mesh(config.train.devices if config.train.devices <= jax.device_count() else 0)


def load_params(run: RunFolder, like: dict[str, jax.Array]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The best epoch's parameters where a validation part chose it, else the newest; and what is to be said of damaged checkpoints.

    Raises:
        InputError: if no good checkpoint is left.
    """
    found = checkpoint.restore(run.checkpoints / "best", like)
    notes = tuple(f"checkpoint of step {step} is damaged ({reason}); an older one is used" for step, reason in found.rejected)
    return {name: np.asarray(array) for name, array in found.state.items()}, notes
