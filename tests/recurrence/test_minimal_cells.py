"""Tests of minLSTM and minGRU with gates near 0 and 1, where differences of close
numbers lose digits, and of linear cells of users.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    Case,
    compare_with_reference,
    differentiate,
    make_arrays,
    run_case,
    weigh,
)
from compiled_cases import built
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tables import BACKENDS, Shape, assert_close, precision

from lstm_jax import unroll
from lstm_jax.cells import CELLS, HiddenState, MinParams


@built
@pytest.mark.parametrize("cell", ["min_lstm", "min_gru"])
def test_gates_near_0_and_1(cell: str) -> None:
    """The loss and its gradients of `compiled` in float32 equal those of `reference` in
    float64, for inputs x from -200 to 200.
    """
    x = np.random.default_rng(0).uniform(-1, 1, (5, 6, 4)) * [
        [[200.0]],
        [[90.0]],
        [[30.0]],
        [[3.0]],
        [[0.0]],
    ]
    params = jax.tree.map(np.asarray, CELLS[cell].init(jax.random.key(1), 4, 7))

    def results(backend: str, dtype: str):
        with precision(dtype):
            given = jax.tree.map(lambda array: jnp.asarray(array, dtype), (params, x))
            return differentiate(
                lambda params, x: unroll(CELLS[cell], params, x, backend=backend)[0],
                *given,
            )

    assert_close(results("compiled", "float32"), results("reference", "float64"), 3e-5)


@pytest.mark.parametrize(
    ("backend", "batch"),
    [
        *(
            (name, 2)
            for name in BACKENDS
            if name in ("compiled", "reference", "associative")
        ),
        (None, 1),
    ],
)
@pytest.mark.parametrize(
    "z",
    [
        (-15.0, 15.0),
        (15.0, -15.0),
        (-20.0, 20.0),
        (1.0, -2.0),
        (-25.0, 0.0),
        (0.0, -18.0),
    ],
    ids=str,
)
def test_a_share_near_0_has_all_its_digits(
    z: tuple[float, float], backend: str | None, batch: int
) -> None:
    """Gradients of minLSTM in float32 have relative errors of at most 2e-6, also if f /
    (f + i) is near 0 or 1.

    The gates are i = sigmoid(z_i) and f = sigmoid(z_f). With h = 1 before the step and
    z_g = 0.3, the output is a + 0.3 (1 - a), where a = f / (f + i). The expected
    gradients with respect to z_i, z_f and z_g follow from da / dz_i = -a (1 - a) (1 -
    i) and da / dz_f = a (1 - a) (1 - f).
    """
    row, x, state = (
        CELLS["min_lstm"],
        jnp.zeros((batch, 1, 1)),
        HiddenState(jnp.ones((batch, 1))),
    )
    kernel = jnp.zeros((1, 3))

    def loss(bias: jax.Array) -> jax.Array:
        return unroll(row, MinParams(kernel, bias), x, state, backend=backend)[0].sum()

    i, f, rest_i, rest_f = (
        1 / (1 + np.exp(-np.float64(value))) for value in (*z, -z[0], -z[1])
    )
    a, rest = f / (f + i), i / (f + i)
    wanted = batch * np.asarray(
        [-0.7 * a * rest * rest_i, 0.7 * a * rest * rest_f, rest]
    )
    np.testing.assert_allclose(
        jax.grad(loss)(jnp.asarray([*z, 0.3])), wanted, rtol=2e-6
    )


@built
@pytest.mark.slow(keep=3)
@pytest.mark.parametrize(
    "shape",
    [Shape(1, 1, 1, 1), Shape(5, 6, 2, 7), Shape(3, 40, 2, 700), Shape(70, 3, 2, 131)],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sizes_of_a_linear_cell_of_a_user(
    shape: Shape, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results and gradients equal those of `reference`, also for two threads and for
    several blocks of units per thread.
    """
    monkeypatch.setitem(CELLS, "own", replace(CELLS["min_gru"], name="own"))
    for resets in (False, True):
        compare_with_reference("compiled", Case(shape, resets=resets), dtype, "own")


@built
@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("name", ["min_lstm", "min_gru"])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_linear_cell_of_a_user(
    name: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients and their tangents on `compiled`, under `vmap` over parameters and with
    a sharded batch, equal those of `reference`.
    """
    monkeypatch.setitem(CELLS, "own", replace(CELLS[name], name="own"))
    case = Case(
        Shape(batch, 5, 3, 6), mask="gaps", dropout="input, per gate", resets=True
    )
    arrays = make_arrays(case, cell=name)
    many = jax.tree.map(
        lambda array: jnp.stack([array, 2 * array, -array]), arrays.params
    )
    mesh = Mesh(
        np.asarray(jax.devices()[: min(batch, 2, jax.device_count())]), ("rows",)
    )
    split = jax.device_put(arrays.x, NamedSharding(mesh, PartitionSpec("rows")))

    def results(cell: str, backend: str, x: jax.Array):
        def loss(params, x, state):
            return weigh(
                run_case(
                    case,
                    arrays._replace(params=params, x=x, state=state),
                    backend,
                    cell,
                )
            )

        gradients = jax.grad(loss, (0, 1, 2))
        args = (arrays.params, x, arrays.state)
        both = jax.jit(
            lambda many, *args: (
                jax.jvp(gradients, args, args),
                jax.vmap(gradients, (0, None, None))(many, *args[1:]),
            )
        )
        return both(many, *args)

    assert_close(
        results("own", "compiled", split), results(name, "reference", arrays.x), 2e-5
    )
