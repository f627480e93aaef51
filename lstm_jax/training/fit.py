"""Function `fit`, which trains a user's own Flax NNX module with the training loop of
this project's tasks (`loop.run_epochs`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import Mesh
from numpy import ndarray
from rich.console import Console

from lstm_jax.base import sharding
from lstm_jax.base.checks import as_tuple
from lstm_jax.base.errors import check_class, require
from lstm_jax.base.types import AnyPath, Values
from lstm_jax.lab.runs.trackers import About, Tracker, tracked
from lstm_jax.recurrence import check_32_bits, of_kinds
from lstm_jax.training import loop
from lstm_jax.training.callbacks import Callback
from lstm_jax.training.config import TrainConfig
from lstm_jax.training.examples import Examples, take_rows
from lstm_jax.training.make_train_step import (
    check_floats,
    check_functions,
    checked_mesh,
    split_model,
)
from lstm_jax.training.row_sparse import Optimizer


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
    patience: int = 0,
    stop_on_nan: bool = True,
    evaluate: Callable[[nnx.Module], Values] | None = None,
    monitor: str = "",
    mode: str = "min",
    mesh: Mesh | None = None,
    checkpoints: AnyPath | None = None,
    checkpoint_steps: int = 0,
    keep_epochs: bool = False,
    resume: bool = False,
    callbacks: Sequence[Callback | Tracker] = (),
    console: Console | None = None,
) -> loop.FitResult:
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
        patience: the training stops early once the monitored metric has not improved
            for this number of epochs. If 0, it does not stop early.
        stop_on_nan: whether to end the training with an error as soon as the training
            loss, or a parameter after an epoch, is not finite.
        evaluate: function from the module to a dict of further metrics of an epoch,
            such as those of a validation set. The module is in the same mode as
            `model`, usually the training mode. If the module has dropout, `evaluate`
            must therefore first call the module's method `eval()`.
        monitor: name of the metric by which the best epoch is chosen. If empty, no
            epoch is the best one, and the training does not stop early.
        mode: "min" if the metric should be small, as a loss, or "max" if it should be
            large, as an accuracy.
        mesh: devices that each batch is sharded over. If None, one device is used.
        checkpoints: folder of the checkpoints, or None to save none; see
            `loop.run_epochs`.
        checkpoint_steps: number of steps between checkpoints within an epoch. If 0, one
            is saved only at the end of an epoch (of short epochs about every 3 seconds)
            and after an interrupt.
        keep_epochs: whether to keep the parameters of each epoch in the subfolder
            `epochs/` of `checkpoints`.
        resume: whether to continue from the newest checkpoint in `checkpoints`, if
            there is one. If only that of the best epoch is left, the state of the
            optimiser is new, and a schedule of its learning rate begins again.
        callbacks: functions that are called with an `EpochRecord` after each epoch, and
            trackers (see `trackers.Tracker`).
        console: console that shows a progress bar if it is a terminal. If None, nothing
            is shown.

    Returns:
        The result of `loop.run_epochs`. Its field `rows` has one dict of metrics for
        each epoch.

    Raises:
        InputError: in one of these cases.

            - `model` is not a module, or has variables that are neither parameters nor
              random streams.
            - `evaluate` is not a function, a member of `callbacks` neither a function
              nor a tracker, or a tracker cannot begin.
            - `arrays` is no sequence of arrays of numbers with equally many rows, or
              one holds an int that does not fit in 32 bits.
            - The losses are not floats of the shape (B,).
            - `keep_epochs`, `resume` or `checkpoint_steps` is given without
              `checkpoints`.
            - A number, such as `epochs`, is outside its allowed range.
            - `make_train_step` or `loop.run_epochs` raises this error.

        Interrupted: if SIGINT or SIGTERM arrives. If `checkpoints` is given, the state
            has been saved before this error is raised.
    """
    check_functions(loss_fn, optimizer)
    require(
        evaluate is None or callable(evaluate),
        "evaluate",
        repr(evaluate),
        "give a function of the model, or None",
    )
    callbacks = as_tuple("callbacks", callbacks, "give a list of functions")
    for callback in callbacks:
        require(
            callable(callback) or isinstance(callback, Tracker),
            "callbacks",
            repr(callback),
            "give a list of functions",
        )
    check_class(
        "model",
        model,
        nnx.Module,
        "give an nnx.Module; make_train_step takes a pytree, too",
    )
    parts: Any = split_model(model)
    others = [
        var
        for _, var in nnx.to_flat_state(parts.variables)
        if not isinstance(var, nnx.RngState)
    ]
    remedy = (
        "fit trains parameters alone: use make_train_step, which carries all "
        "variables from step to step"
    )
    require(not others, "variables", type(others[0]).__name__ if others else "", remedy)
    remedy = "give a sequence of arrays, such as (x, y)"
    require(
        not isinstance(arrays, Array | ndarray | dict),
        "arrays",
        type(arrays).__name__,
        remedy,
    )
    kinds, each = (
        (jnp.number, jnp.bool_, jax.dtypes.extended),
        "give arrays of numbers, with one row per example",
    )
    given = [
        of_kinds("arrays", array, kinds, each)
        for array in as_tuple("arrays", arrays, remedy)
    ]
    for array in given:
        check_32_bits("arrays", array)
        require(array.ndim > 0, "arrays", "a scalar", each)
    counts = sorted({len(array) for array in given})
    require(
        len(counts) == 1,
        "arrays",
        f"{counts} rows",
        "give arrays with the same number of rows",
    )
    saving = {
        "keep_epochs": keep_epochs,
        "resume": resume,
        "checkpoint_steps": checkpoint_steps,
    }
    for name, value in saving.items():
        require(
            checkpoints is not None or not value,
            name,
            value,
            "give the folder of the checkpoints in checkpoints",
        )
    mesh = checked_mesh(mesh)

    def gather(arrays, numbers):
        return jax.tree.map(
            lambda rows: sharding.constrain(rows, 0), take_rows(arrays, numbers)
        )

    def objective(params, rows, weight, key):
        losses = loss_fn(parts.rebuild(params, _reseeded(parts.variables, key)), *rows)
        check_floats(
            "losses",
            losses,
            weight.shape,
            f"return floats, one loss per example, {weight.shape}",
        )
        mean = (losses * weight.astype(losses.dtype)).sum()
        return mean, {"loss": mean}

    options: Values = {
        "epochs": epochs,
        "batch_size": batch_size,
        "microbatches": microbatches,
        "seed": seed,
        "patience": patience,
        "stop_on_nan": stop_on_nan,
        "checkpoint_steps": checkpoint_steps,
        "keep_epochs": keep_epochs,
    }
    config, folder = (
        TrainConfig(**options),
        None if checkpoints is None else Path(checkpoints),
    )
    with tracked(callbacks, About({"train": options}, folder, resume)) as (
        calls,
        outcome,
    ):
        result = loop.run_epochs(
            parts.params,
            objective,
            optimizer,
            Examples(tuple(given), counts[0], gather),
            config,
            mesh,
            table=None,
            metrics=("loss",),
            # a copy, since the next step reuses the memory of the parameters
            evaluate=evaluate
            and (
                lambda params, _: evaluate(
                    parts.rebuild(jax.tree.map(jnp.copy, params), parts.variables)
                )
            ),
            monitor=monitor,
            mode=mode,
            checkpoints=folder,
            resume=resume,
            callbacks=calls,
            console=console,
        )
        outcome.update(
            metrics=result.rows[result.best_epoch - 1],
            best=(folder / "best",) if folder else (),
        )
    nnx.update(
        model, nnx.state(parts.rebuild(result.params, parts.variables), nnx.Param)
    )
    return result


def _reseeded(variables, key: Array):
    def fresh(number, var):
        if isinstance(var, nnx.RngKey):
            own, shape = jax.random.fold_in(key, number), var[...].shape
            return var.replace(jax.random.split(own, shape) if shape else own)
        return var.replace(jnp.zeros_like(var[...]))

    flat = nnx.to_flat_state(variables)
    return nnx.from_flat_state(
        [(path, fresh(number, var)) for number, (path, var) in enumerate(flat)]
    )
