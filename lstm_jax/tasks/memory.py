"""Lower bound on the memory that a run needs, computed from shapes before anything is allocated."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from lstm_jax.config import RunConfig
from lstm_jax.errors import require
from lstm_jax.models import functional
from lstm_jax.runtime import machine, sharding
from lstm_jax.tasks.running import check_request
from lstm_jax.training.optimizers import make_optimizer

SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def require_memory(
    config: RunConfig,
    make: Callable[[], nnx.Module],
    objective: Callable[[Callable], Callable],
    batch: Any,
    mesh: Mesh,
    flags: dict[str, str],
    *,
    data_bytes: int = 0,
    carry: Callable[[Any], Any] = lambda model: (),
) -> None:
    """Check that a run fits into memory.

    The check counts the parameters and their gradient, the moments of the optimiser, the residuals of a batch, and the training data. The
    residuals are the arrays that the forward pass of the selected backend hands to the backward pass.

    Args:
        config: config of the run.
        make: function that returns the model; it is only traced.
        objective: function from `Functional.rebuild` to a `training.step.Objective`.
        batch: shapes and dtypes of one batch, a pytree of (B, ...) `jax.ShapeDtypeStruct`.
        mesh: devices that a batch is sharded over.
        flags: see `Task.flags`.
        data_bytes: size of the training data in bytes.
        carry: function from the model to the initial carry of a step.

    Raises:
        InputError: if the run does not fit, if no backend can run it, or if the batch size is not a multiple of the number of devices.
    """
    check_request(config, mesh)
    optimizer = make_optimizer(replace(config.train, schedule="constant", warmup_steps=0), 1)
    size = jax.tree.leaves(batch)[0].shape[0]

    def trace(batch, key):
        model = make()
        params, rebuild = functional(model)
        carried = carry(model)
        loss = objective(rebuild)
        rest = (carried,) if jax.tree.leaves(carried) else ()
        _, residuals, _ = jax.vjp(lambda params: loss(params, batch, jnp.full(size, 1 / size), key, *rest), params, has_aux=True)
        return params, optimizer.init(params), residuals

    with sharding.on(mesh):
        params, moments, residuals = (_bytes(part) for part in jax.eval_shape(trace, batch, jax.eval_shape(lambda: jax.random.key(0))))
    copies = 3 * params  # initial and trained parameters, and their gradient
    data = data_bytes * (1 + mesh.size)
    by_flags = {"parameters": copies + moments, "residuals": residuals, "data": data}
    least = flags[max(by_flags, key=lambda name: by_flags[name])]
    needed = {"parameters": copies, "moments of the optimiser": moments, "residuals of a batch": residuals, "training data": data}
    parts = ", ".join(f"{name} {_shown(count)}" for name, count in needed.items())
    require_free(sum(needed.values()), mesh, f"{parts}: lower {least}")


def require_free(needed: int, mesh: Mesh, remedy: str) -> None:
    """Raise `InputError` with `remedy` if fewer than `needed` bytes are free; if the free memory is unknown, do nothing."""
    free = _free(mesh)
    require(free is None or needed <= free, "memory", f"{_shown(needed)} needed, {_shown(free or 0)} free", remedy)


def _bytes(tree: Any) -> int:
    return sum(int(np.prod(leaf.shape, dtype=object)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _shown(count: int) -> str:
    size, unit = next(((size, unit) for size, unit in SIZES if count >= size), (1, "B"))
    return f"{count / size:,.0f} {unit}" if count >= 100 * size else f"{count / size:.3g} {unit}"


def _free(mesh: Mesh) -> int | None:
    """Return the free bytes of this machine if the devices are CPUs, else those of the first device; None if they are unknown."""
    device = mesh.devices.flat[0]
    if device.platform == "cpu":
        return machine.free_memory()
    stats = device.memory_stats() or {}
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else None
