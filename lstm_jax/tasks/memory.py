"""Lower bound on the memory that a training run needs, computed from array shapes before any array is allocated."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from lstm_jax.config import TrainConfig
from lstm_jax.errors import require
from lstm_jax.models import functional
from lstm_jax.runtime import machine, processes, sharding
from lstm_jax.training.optimizers import make_optimizer

SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def require_memory(
    train: TrainConfig,
    make: Callable[[], nnx.Module],
    objective: Callable[[Callable], Callable],
    batch: Any,
    mesh: Mesh,
    flags: dict[str, str],
    *,
    data_bytes: int = 0,
    carry: Callable[[Any], Any] = lambda model: (),
) -> None:
    """Check that a training run fits into the free memory."""
    optimizer = make_optimizer(replace(train, schedule="constant", final_learning_rate=0.0, warmup_steps=0), 1)
    size = jax.tree.leaves(batch)[0].shape[0] // train.microbatches
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), batch)

    def trace(batch, key):
        model = make()
        params, rebuild = functional(model)
        carried = jax.tree.map(lambda rows: rows[:size], carry(model))
        loss = objective(rebuild)
        rest = (carried,) if jax.tree.leaves(carried) else ()
        _, residuals, _ = jax.vjp(lambda params: loss(params, batch, jnp.full(size, 1 / size), key, *rest), params, has_aux=True)
        return params, optimizer.init(params), residuals

    with sharding.on(mesh):
        params, moments, residuals = jax.eval_shape(trace, batch, jax.eval_shape(lambda: jax.random.key(0)))
    cpu = _is_cpu(mesh)
    params, moments = (_bytes(tree, 1 if cpu else mesh.size) for tree in (params, moments))
    sharing = len(mesh.local_devices) if cpu else 1  # devices whose arrays lie in the memory that is checked
    residuals = _bytes(residuals) * sharing // mesh.size
    gradients = 1 if train.microbatches == 1 else 2  # the sum, and that of a microbatch
    copies = (2 + gradients) * params  # and the initial and the trained parameters
    placed = 0 if processes.several() else mesh.size if cpu else 1  # copies on devices: several processes place a few batches at a time
    data = data_bytes * (placed + cpu)  # CPU devices lie in the memory of the host, which has a copy
    by_flags = {"parameters": copies + moments, "residuals": residuals, "data": data}
    least = flags[max(by_flags, key=lambda name: by_flags[name])]
    needed = {"parameters": copies, "moments of the optimiser": moments, "residuals of a batch": residuals, "training data": data}
    parts = ", ".join(f"{name} {_shown(count)}" for name, count in needed.items())
    require_free(sum(needed.values()), mesh, f"{parts}: lower {least}")


def require_free(needed: int, mesh: Mesh, remedy: str) -> None:
    """Check that at least `needed` bytes of memory are free. If the free memory is unknown, do nothing."""
    free = _free(mesh)
    require(free is None or needed <= free, "memory", f"{_shown(needed)} needed, {_shown(free or 0)} free", remedy)


def _is_cpu(mesh: Mesh) -> bool:
    return mesh.local_devices[0].platform == "cpu"


def _bytes(tree: Any, devices: int = 1) -> int:
    """Return the number of bytes that the arrays of a pytree take on one of `devices` devices."""

    def size(path: tuple, leaf: Any) -> int:
        divided = sharding.param_spec(devices, path, leaf) != PartitionSpec()
        return int(np.prod(leaf.shape, dtype=object)) * leaf.dtype.itemsize // (devices if divided else 1)

    return sum(size(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))


def _shown(count: int) -> str:
    size, unit = next(((size, unit) for size, unit in SIZES if count >= size), (1, "B"))
    return f"{count / size:,.0f} {unit}" if count >= 100 * size else f"{count / size:.3g} {unit}"


def _free(mesh: Mesh) -> int | None:
    """Return the number of free bytes of memory, or None if it is unknown."""
    if _is_cpu(mesh):
        return machine.free_memory()
    stats = mesh.local_devices[0].memory_stats() or {}
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else None
