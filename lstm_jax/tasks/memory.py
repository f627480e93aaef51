"""Lower bound on the memory that a training run needs, computed from array shapes before any array is allocated."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from lstm_jax.config import RunConfig
from lstm_jax.errors import require
from lstm_jax.models import functional
from lstm_jax.runtime import machine, processes, sharding
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
    """Check that a training run fits into the free memory.

    The check counts the initial parameters, the trained parameters, the gradient, the moments of the optimiser, the residuals of a
    microbatch, and the training data. Residuals are the arrays that the forward pass keeps for the backward pass.

    CPU devices share the memory of the machine. Therefore the residuals of all CPU devices of this process are added up, and the parameters
    are counted once. The training data are counted once for the machine and, if there is a single process, once more for each CPU device.

    For GPUs, the check counts what a single GPU holds: its columns of each embedding table, all other parameters, and the residuals of its
    rows of the microbatch. The training data are counted once if there is a single process. With several processes, a device holds only a
    few batches at a time, and these are not counted.

    Args:
        config: config of the run.
        make: function that returns the model. It is only traced by JAX, so that no weights are allocated.
        objective: function objective(rebuild) that returns the training objective, where `rebuild` is a function from parameters to the
            model.
        batch: shapes and dtypes of one batch, as a pytree of `jax.ShapeDtypeStruct` with shapes (B, ...), where B is the batch size.
        mesh: devices that a batch is sharded over.
        flags: dict from three kinds of arrays ("parameters", "residuals" and "data") to the command-line flags that change their sizes, as
            in `Task.flags`. If the run does not fit, the error message names the flags of the kind that needs the most memory.
        data_bytes: size of the training data in bytes.
        carry: function from the model to the initial carry. The carry consists of the arrays that each step hands to the next step. If
            there are no such arrays, the function returns ().

    Raises:
        InputError: if the run does not fit, if no backend can run it, or if a batch cannot be divided among the devices.
    """
    check_request(config, mesh)
    optimizer = make_optimizer(replace(config.train, schedule="constant", final_learning_rate=0.0, warmup_steps=0), 1)
    size = jax.tree.leaves(batch)[0].shape[0] // config.train.microbatches
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
    gradients = 1 if config.train.microbatches == 1 else 2  # the sum, and that of a microbatch
    copies = (2 + gradients) * params  # and the initial and the trained parameters
    placed = 0 if processes.several() else mesh.size if cpu else 1  # copies on devices: several processes place a few batches at a time
    data = data_bytes * (placed + cpu)  # CPU devices lie in the memory of the host, which has a copy
    by_flags = {"parameters": copies + moments, "residuals": residuals, "data": data}
    least = flags[max(by_flags, key=lambda name: by_flags[name])]
    needed = {"parameters": copies, "moments of the optimiser": moments, "residuals of a batch": residuals, "training data": data}
    parts = ", ".join(f"{name} {_shown(count)}" for name, count in needed.items())
    require_free(sum(needed.values()), mesh, f"{parts}: lower {least}")


def require_free(needed: int, mesh: Mesh, remedy: str) -> None:
    """Check that at least `needed` bytes of memory are free. If the free memory is unknown, do nothing.

    If the devices are CPUs, they share the memory of the machine, and this memory is checked. Otherwise only the memory of the first device
    of this process is checked.

    Args:
        needed: number of bytes that must be free on the machine or, if the devices are not CPUs, on the first device of this process.
        mesh: devices of the run.
        remedy: advice for the user, with which the error message ends.

    Raises:
        InputError: if fewer than `needed` bytes are free.
    """
    free = _free(mesh)
    require(free is None or needed <= free, "memory", f"{_shown(needed)} needed, {_shown(free or 0)} free", remedy)


def _is_cpu(mesh: Mesh) -> bool:
    return mesh.local_devices[0].platform == "cpu"


def _bytes(tree: Any, devices: int = 1) -> int:
    """Return the number of bytes that the arrays of a pytree take on one of `devices` devices.

    Arrays that `sharding.param_spec` shards, such as embedding tables, are divided among the devices by columns. Each device has a copy of
    every other array.
    """

    def size(path: tuple, leaf: Any) -> int:
        divided = sharding.param_spec(devices, path, leaf) != PartitionSpec()
        return int(np.prod(leaf.shape, dtype=object)) * leaf.dtype.itemsize // (devices if divided else 1)

    return sum(size(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))


def _shown(count: int) -> str:
    size, unit = next(((size, unit) for size, unit in SIZES if count >= size), (1, "B"))
    return f"{count / size:,.0f} {unit}" if count >= 100 * size else f"{count / size:.3g} {unit}"


def _free(mesh: Mesh) -> int | None:
    """Return the number of free bytes of memory, or None if it is unknown.

    If the devices are CPUs, this is the free memory of the machine. Otherwise it is the free memory of the first device of this process.
    """
    if _is_cpu(mesh):
        return machine.free_memory()
    stats = mesh.local_devices[0].memory_stats() or {}
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else None
