"""Device mesh, sharding of parameters, and results with a sharded embedding table
against those of a single device.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from tables import assert_close

from lstm_jax import Embedding, InputError
from lstm_jax.base.sharding import (
    DATA,
    constrain,
    gather_columns,
    make_mesh,
    on,
    own_rows,
    param_spec,
    replicated,
    rows,
    use_cpu_cores,
)
from lstm_jax.training.parts import functional

two_devices = pytest.mark.skipif("jax.device_count() < 2", reason="needs two devices")


def spec(*axes) -> PartitionSpec:
    return PartitionSpec(*axes)


def split(array: jax.Array) -> list[tuple[int, ...]]:
    return [shard.data.shape for shard in array.addressable_shards]


@two_devices
def test_make_mesh():
    assert make_mesh().size == jax.device_count()
    assert make_mesh(1).size == 1
    assert list(make_mesh(2).devices) == jax.devices()[:2]
    assert make_mesh(2).axis_names == (DATA,)


@pytest.mark.parametrize("devices", [-1, 10_000])
def test_make_mesh_errors(devices):
    with pytest.raises(InputError, match=f"^devices: {devices}; "):
        make_mesh(devices)


def run_program(program: str) -> str:
    """Run a Python program in a new process, and return its standard output without
    surrounding whitespace.
    """
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_use_cpu_cores():
    """`use_cpu_cores` sets the number of CPU devices before JAX is used, and refuses a
    different number afterwards.
    """
    assert (
        run_program(
            "from lstm_jax import use_cpu_cores; use_cpu_cores(3); import "
            "jax; print(jax.device_count('cpu'))"
        )
        == "3"
    )
    here = jax.local_device_count("cpu")
    use_cpu_cores(here)
    with pytest.raises(
        InputError,
        match=f"^devices: {here + 1}; call use_cpu_cores before JAX is first used$",
    ):
        use_cpu_cores(here + 1)
    with pytest.raises(InputError, match=r"^devices: -1; give 0 \(all\) or more$"):
        use_cpu_cores(-1)


def test_runs_of_two_cells_in_a_process():
    """`use_cpu_cores(0)` makes one device per core. Later trainings keep these devices.

    In a new process, the trainings would choose the number of devices by their cell.
    """
    program = """
import os
import jax
from lstm_jax import use_cpu_cores
use_cpu_cores(0)
counts = [jax.device_count("cpu") - len(os.sched_getaffinity(0))]
from lstm_jax.lab.commands.common import start_training
from lstm_jax.lab.sentiment.config import SentimentModelConfig
for cell in ("lstm", "gru", "lstm"):
    start_training(0, SentimentModelConfig(cell=cell))
    counts.append(jax.device_count("cpu") - len(os.sched_getaffinity(0)))
print(*counts)
"""
    assert run_program(program) == "0 0 0 0"


@two_devices
def test_rows_and_copies():
    mesh = make_mesh(2)
    x = jnp.arange(24.0).reshape(4, 6)
    assert split(jax.device_put(x, rows(mesh))) == [(2, 6)] * 2
    assert split(jax.device_put(x, rows(mesh, 1))) == [(4, 3)] * 2
    assert split(jax.device_put(x, replicated(mesh))) == [(4, 6)] * 2
    assert own_rows(mesh, 64) == slice(0, 64)
    for count in (1, 65, -2):
        with pytest.raises(
            InputError,
            match=rf"^rows: {count}; give a multiple of the mesh's 2 devices",
        ):
            own_rows(mesh, count)


def test_where_parameters_live():
    """`param_spec` shards an embedding table by columns. It replicates a table whose
    columns do not divide evenly, and other arrays.
    """

    def specs(tree):
        found = jax.tree_util.tree_map_with_path(
            lambda path, leaf: param_spec(2, path, leaf), tree
        )
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): spec
            for path, spec in jax.tree.leaves_with_path(found)
        }

    square, columns = jnp.zeros((4, 4)), spec(None, DATA)
    assert specs({"embedding": {"embedding": square}, "head": square}) == {
        "embedding/embedding": columns,
        "head": spec(),
    }
    assert specs({"embedding/embedding": square, "head/kernel": square}) == {
        "embedding/embedding": columns,
        "head/kernel": spec(),
    }
    odd = {
        "embedding/embedding": jnp.zeros((4, 3)),
        "embedding": jnp.zeros(4),
        "my_embedding": square,
    }
    assert set(specs(odd).values()) == {spec()}
    assert param_spec(2, (), square) == spec()


def test_constrain_outside_a_mesh():
    x = jnp.ones((4, 6))
    assert constrain(x, 0) is x
    assert "sharding_constraint" not in str(
        jax.make_jaxpr(lambda x: constrain(x, 0))(x)
    )
    with on(make_mesh(1)):
        assert constrain(x, 0) is x


@two_devices
def test_constrain_on_a_mesh():
    x = jnp.arange(24.0).reshape(4, 6)
    mesh = make_mesh(2)
    with on(mesh):
        by_rows, by_columns = (
            jax.jit(lambda x, axis=axis: constrain(2 * x, axis))(x) for axis in (0, 1)
        )
        # 3 rows cannot be divided among 2 devices, and are not sharded
        assert constrain(jnp.ones((3, 2)), 0).shape == (3, 2)
    assert split(by_rows) == [(2, 6)] * 2
    assert split(by_columns) == [(4, 3)] * 2
    np.testing.assert_array_equal(by_rows, 2 * x)
    np.testing.assert_array_equal(by_columns, 2 * x)
    other = jax.sharding.Mesh(
        np.asarray(jax.devices()[:2]),
        ("model",),
        axis_types=(jax.sharding.AxisType.Auto,),
    )
    with jax.set_mesh(other):
        assert constrain(x, 0) is x


@two_devices
@pytest.mark.parametrize(
    ("shape", "axis"), [((4, 6), 0), ((4, 6), 1), ((7, 4), 1), ((8,), 0)], ids=str
)
def test_embedding_by_columns(shape, axis):
    """A table that is sharded by columns gives the same vectors as an unsharded one,
    and the same gradient up to rounding.

    The gradient is sharded like the table, and the vectors are sharded along the axis
    `axis`.
    """
    mesh = make_mesh(2)
    layer = functional(Embedding(11, 6, rngs=nnx.Rngs(0)))
    table = layer.params["embedding"]
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(0, 11, shape))
    weight = jnp.asarray(rng.normal(size=(*shape, 6)), jnp.float32)

    def function(table, ids):
        def loss(table):
            vectors = layer.rebuild({"embedding": table})(ids, axis)
            return (vectors * vectors * weight).sum(), vectors

        return jax.value_and_grad(loss, has_aux=True)(table)

    (_, want), want_gradient = jax.jit(function)(table, ids)
    with on(mesh):
        by_columns, by_rows = rows(mesh, 1), rows(mesh, axis)
        (_, vectors), gradient = jax.jit(function)(
            jax.device_put(table, by_columns), jax.device_put(ids, by_rows)
        )
    np.testing.assert_array_equal(vectors, want)
    assert_close(gradient, want_gradient, "float32")
    assert gradient.sharding.is_equivalent_to(rows(mesh, 1), 2), gradient.sharding
    assert vectors.sharding.is_equivalent_to(rows(mesh, axis), vectors.ndim), (
        vectors.sharding
    )


@two_devices
@pytest.mark.parametrize(
    ("table", "ids"), [((11, 5), (4, 6)), ((11, 6), (4, 5)), ((11, 6), ())], ids=str
)
def test_gather_that_does_not_divide(table, ids):
    rng = np.random.default_rng(0)
    values, wanted = (
        jnp.asarray(rng.normal(size=table), jnp.float32),
        jnp.asarray(rng.integers(0, 11, ids)),
    )
    with on(make_mesh(2)):
        np.testing.assert_array_equal(
            jax.jit(gather_columns)(values, wanted), values[wanted]
        )


def test_an_id_outside_is_not_a_number_on_a_mesh():
    with on(make_mesh()):
        vectors = jax.jit(gather_columns)(
            jnp.ones((3, 4)), jnp.asarray([[0, 3], [2, 1]])
        )
    np.testing.assert_array_equal(
        np.isnan(vectors).all(-1), [[False, True], [False, False]]
    )


def test_the_nearest_row_with_explicit_sharding():
    """With the mode "clip", an id outside the table gives the nearest row, whether the
    sharding of the ids is explicit or not.
    """

    def nearest(ids: jax.Array, size: int = 5) -> list[float]:
        return gather_columns(jnp.arange(float(size))[:, None], ids, mode="clip")[
            :, 0
        ].tolist()

    ids = np.array([-9, -1, 4, 7], np.int32)
    assert nearest(jnp.asarray(ids)) == [0, 0, 4, 4]
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        sharding = jax.NamedSharding(mesh, jax.P("data"))
        assert nearest(jax.device_put(ids, sharding)) == [0, 0, 4, 4]
        assert nearest(jax.device_put(ids.astype(np.int8), sharding), 300) == [
            0,
            0,
            4,
            7,
        ]
