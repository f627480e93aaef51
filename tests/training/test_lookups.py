"""Tests of `find_lookups`, which searches the parameters of a loss function for an
embedding table.

The tests check which uses of a parameter are lookups. They also compare gradients of
looked-up rows with the gradient of the whole table.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lstm_jax import Embedding
from lstm_jax.training.lookups import FoundLookups, find_lookups
from lstm_jax.training.parts import functional

ROWS, COLUMNS = 300, 64
IDS = np.array([[3, 5, 3], [299, 0, 5]])


def _params(**more: jax.Array) -> dict[str, jax.Array]:
    table = jnp.asarray(
        np.random.default_rng(0).standard_normal((ROWS, COLUMNS)), jnp.float32
    )
    return {"table": table, "w": jnp.linspace(-1, 1, COLUMNS), **more}


LAYER = functional(Embedding(ROWS, COLUMNS, rngs=nnx.Rngs(0)))
LOOKS: dict[str, Callable] = {
    "take": lambda p, ids: jnp.take(p["table"], ids, axis=0),
    "take, clipped": lambda p, ids: jnp.take(p["table"], ids, axis=0, mode="clip"),
    "take, filled": lambda p, ids: jnp.nan_to_num(
        jnp.take(p["table"], ids, axis=0, mode="fill")
    ),
    "square brackets": lambda p, ids: p["table"][ids],
    "at get": lambda p, ids: p["table"].at[ids].get(mode="promise_in_bounds"),
    "one id": lambda p, ids: p["table"][ids[0, 0]],
    "in jit": lambda p, ids: jax.jit(
        lambda table, ids: jnp.take(table, ids + 0, axis=0)
    )(p["table"], ids),
    "twice": lambda p, ids: (
        p["table"][ids] + 2 * jnp.take(p["table"], ids.T.reshape(2, 3), axis=0)
    ),
    "vmap": lambda p, ids: jax.vmap(lambda row: jnp.take(p["table"], row, axis=0))(ids),
    "our layer": lambda p, ids: LAYER.rebuild({"embedding": p["table"]})(ids),
    "vmap twice, as Equinox": lambda p, ids: jax.vmap(
        jax.vmap(lambda one: p["table"][one])
    )(ids),
}
"""Functions that use the table only to look up rows."""
OTHERS: dict[str, Callable] = {
    "a penalty": lambda p, ids: p["table"][ids] + (p["table"] ** 2).sum(),
    "a product with the table": lambda p, ids: p["table"][ids] @ p["table"].T,
    "one-hot": lambda p, ids: jax.nn.one_hot(ids, ROWS) @ p["table"],
    "columns": lambda p, ids: p["table"][:, ids % COLUMNS],
    "parts of rows": lambda p, ids: jax.lax.dynamic_slice(
        p["table"], (ids[0, 0], 0), (1, 3)
    ),
    "parts of rows, vmap": lambda p, ids: jax.vmap(
        lambda i: jax.lax.dynamic_slice(p["table"], (i, 0), (1, 3))
    )(ids[0]),
    "two rows each": lambda p, ids: jax.lax.dynamic_slice(
        p["table"], (ids[0, 0], 0), (2, COLUMNS)
    ),
    "indices from parameters": lambda p, ids: p["table"][(p["w"] > 0).sum() + ids],
    "no use": lambda p, ids: p["w"][ids % COLUMNS],
    "in a scan": lambda p, ids: jax.lax.scan(
        lambda c, row: (c + p["table"][row].sum(), None), 0.0, ids
    )[0],
    "filled with zeros": lambda p, ids: (
        p["table"].at[ids].get(mode="fill", fill_value=0)
    ),
    "in another dtype": lambda p, ids: (
        p["table"].astype(jnp.bfloat16)[ids].astype(jnp.float32)
    ),
}
"""Functions in which `find_lookups` finds no table.

Some need the gradient of the whole table. For the others, avoiding this gradient is not
worth the effort.
"""


def _loss(look: Callable, p: dict[str, jax.Array], ids: jax.Array):
    found = look(p, ids)
    return jnp.sin(found).sum() * p["w"].sum() + (found * 0.1).sum(), {
        "mean": found.mean()
    }


def lookups_of(look: Callable, p: dict[str, jax.Array], ids: Any) -> FoundLookups:
    found = find_lookups(lambda p, ids: _loss(look, p, ids), p, ids)
    assert found is not None
    return found


def _by_rows(look: Callable, p: dict[str, jax.Array], ids: jax.Array):
    """Return the results of `jax.value_and_grad` for the loss and its auxiliary
    results, computed from looked-up rows of the table.

    The gradient of the table begins as an array of zeros, to which the gradients of the
    looked-up rows are added.
    """
    found = lookups_of(look, p, ids)
    assert found.table == "table"
    indices = found.indices(p, ids)
    others = {name: param for name, param in p.items() if name != "table"}

    def loss(others, vectors):
        return found.loss_of(others | {"table": p["table"]}, vectors, ids)

    result, (gradient, rows) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        others, found.vectors(p["table"], indices)
    )
    table = jnp.zeros_like(p["table"])
    for ids, row in zip(indices, rows, strict=True):
        table = table.at[ids].add(row, mode="drop")
    return result, gradient | {"table": table}


@pytest.mark.slow(keep=["inside-", "negative-take]", "negative-our layer"])
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("ids", ["inside", "negative", "outside"])
def test_gradients_by_rows(look, ids, peer_rules):
    """Gradients computed from looked-up rows equal those of `jax.value_and_grad`, up to
    rounding, for each way to look up rows.

    The indices are inside the table, negative, or outside the table.
    """
    given = {
        "inside": IDS,
        "negative": IDS - ROWS,
        "outside": np.where(IDS == 5, ROWS + 7, IDS),
    }[ids]
    if look == "at get" and ids == "negative":
        pytest.skip("undefined by contract")
    if look in ("take", "twice", "in jit", "vmap", "our layer") and ids == "outside":
        pytest.skip("rows of NaN")  # test_rows_of_nan
    p, given = _params(), jnp.asarray(given, jnp.int32)
    with peer_rules():
        want = jax.value_and_grad(lambda p: _loss(LOOKS[look], p, given), has_aux=True)(
            p
        )
        got = jax.jit(lambda p: _by_rows(LOOKS[look], p, given))(p)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), got, want
    )
    assert np.abs(want[1]["table"]).sum() > 0


@pytest.mark.parametrize(
    ("rows", "dtype"),
    [(256, "uint8"), (300, "uint8"), (300, "int8"), (40_000, "int16"), (300, "uint32")],
)
def test_indices_of_small_types(rows, dtype):
    """Indices are read correctly, even if the number of rows of the table is outside
    the range of their integer type.
    """
    p = {
        "table": jnp.arange(rows * 64, dtype=jnp.float32).reshape(rows, 64),
        "w": jnp.ones(64),
    }
    ids = jnp.asarray([[3, 100, 0]]).astype(dtype)
    assert lookups_of(LOOKS["take"], p, ids).indices(p, ids)[0].tolist() == [
        [3, 100, 0]
    ]


@pytest.mark.parametrize(("mode", "want"), [("clip", ROWS - 1), ("fill", ROWS)])
@pytest.mark.parametrize(
    ("large", "dtype"),
    [
        (2**32 - 1, "int64"),
        (2**32 + 5, "int64"),
        (2**32 - 1, "uint32"),
        (2**32 + 5, "uint64"),
    ],
)
def test_indices_beyond_int32(large, dtype, mode, want, x64):
    """An index beyond the range of int32 is treated as outside the table, and does not
    wrap around to another row.
    """
    p, ids = (
        _params(w=jnp.ones(COLUMNS, jnp.float32)),
        jnp.asarray(np.array([[large, 1]], dtype)),
    )
    found = lookups_of(
        lambda p, ids: jnp.take(p["table"], ids, axis=0, mode=mode), p, ids
    )
    assert found.indices(p, ids)[0].tolist() == [[want, 1]]


def test_rows_of_nan():
    """As in JAX, an index outside the table gives a row of NaN.

    Such an index is replaced by the number of rows of the table, so that no row gets
    its gradient.
    """
    p, ids = _params(), jnp.asarray([[1, ROWS + 1]], jnp.int32)
    found = lookups_of(LOOKS["take"], p, ids)
    indices = found.indices(p, ids)
    assert indices[0].tolist() == [[1, ROWS]]
    value, _ = found.loss_of(p, found.vectors(p["table"], indices), ids)
    assert np.isnan(value)
    ids = jnp.asarray([[1, -ROWS - 1]], jnp.int32)
    assert found.indices(p, ids)[0].tolist() == [[1, ROWS]]  # -1 would be the last row


@pytest.mark.parametrize("use", OTHERS)
def test_other_uses(use, peer_rules):
    with peer_rules():
        assert (
            find_lookups(
                lambda p, ids: _loss(OTHERS[use], p, ids),
                _params(),
                jnp.asarray(IDS, jnp.int32),
            )
            is None
        )


def test_the_largest_table_counts():
    p = _params(
        larger=jnp.ones((ROWS + 1, COLUMNS)),
        tied=jnp.ones((ROWS + 2, COLUMNS)),
        small=jnp.ones((10, 10)),
    )

    def loss(p, ids):
        tied = p["tied"][ids] @ p["tied"].T
        return (
            (p["table"][ids] * p["larger"][ids]).sum()
            + p["small"][ids % 10].sum()
            + tied.sum()
        )

    ids = jnp.asarray(IDS, jnp.int32)
    # a named table may be small
    found = [find_lookups(loss, p, ids, table=name) for name in ("", "table", "small")]
    assert [one and one.table for one in found] == ["larger", "table", "small"]
    assert find_lookups(loss, p, ids, table="tied") is None


def test_a_loss_with_effects():
    """`find_lookups` returns None for a loss with side effects, such as a print,
    because they would happen twice.
    """

    def loss(p, ids):
        jax.debug.print("read")
        return p["table"][ids].sum()

    assert find_lookups(loss, _params(), jnp.asarray(IDS, jnp.int32)) is None
