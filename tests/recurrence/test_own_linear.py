"""Tests of a user's cell that is linear in its state, on the backend `compiled`: derivatives, `vmap` and two devices."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import weigh
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tables import BACKENDS, assert_close

from lstm_jax import CELLS, DropoutMasks, unroll

pytestmark = [
    pytest.mark.skipif("compiled" not in BACKENDS, reason="no C++ compiler to build the backend with"),
    pytest.mark.usefixtures("quick_compiles"),
]

OWN = {name: replace(CELLS[name], name=f"own_{name}") for name in ("min_lstm", "min_gru")}
STEPS, FEATURES, UNITS = 5, 3, 6


def operands(name: str, batch: int) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Return (params, x, state, options). The options are random padding, resets, a reset state and an input dropout mask per gate."""
    rng, row = np.random.default_rng(batch), CELLS[name]
    params, x = row.init(jax.random.key(0), FEATURES, UNITS), jnp.asarray(rng.standard_normal((batch, STEPS, FEATURES)), jnp.float32)
    state, other = (
        jax.tree.map(lambda part: jnp.asarray(rng.standard_normal(part.shape)), row.initial_state(batch, UNITS)) for _ in range(2)
    )
    kept = jnp.asarray(rng.integers(0, 2, (row.gates, batch, FEATURES)) * 2.0, jnp.float32)
    mask, resets = (jnp.asarray(rng.random((batch, STEPS)) < share) for share in (0.8, 0.3))
    return params, x, state, {"mask": mask, "resets": resets, "reset_state": other, "dropout": DropoutMasks(input=kept)}


def loss_of(name: str, backend: str, options: dict[str, Any]):
    cell = OWN[name] if backend == "compiled" else CELLS[name]
    return lambda params, x, state: weigh(unroll(cell, params, x, state, backend=backend, **options))


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("batch", [1, 4])
def test_derivatives(name: str, batch: int) -> None:
    """The loss, its gradients and their tangents for the user's cell on `compiled` equal those for the library's cell on `reference`."""
    params, x, state, options = operands(name, batch)

    def results(backend: str):
        gradients = jax.grad(loss_of(name, backend, options), (0, 1, 2))
        return jax.jit(lambda *args: (loss_of(name, backend, options)(*args), jax.jvp(gradients, args, args)))(params, x, state)

    assert_close(results("compiled"), results("reference"), 2e-5)


@pytest.mark.parametrize("name", OWN)
def test_vmap_and_two_devices(name: str) -> None:
    """Gradients under `vmap` over three parameter sets, with the batch split over two devices, equal those of `reference`."""
    params, x, state, options = operands(name, 4)
    many = jax.tree.map(lambda array: jnp.stack([array, 2 * array, -array]), params)

    def results(backend: str, x: jax.Array):
        gradients = jax.grad(loss_of(name, backend, options), (0, 1, 2))
        return jax.jit(jax.vmap(gradients, (0, None, None)))(many, x, state)

    mesh = Mesh(np.asarray(jax.devices()[: min(2, jax.device_count())]), ("rows",))
    assert_close(results("compiled", jax.device_put(x, NamedSharding(mesh, PartitionSpec("rows")))), results("reference", x), 2e-5)
