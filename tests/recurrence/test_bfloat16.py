"""Products in bfloat16 by the compiled code: exact where nothing is rounded, and as close to float64 as JAX's own products elsewhere."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import differentiate
from tables import assert_close, precision

from lstm_jax import CELLS, DropoutMasks, native, unroll
from lstm_jax.recurrence.compiled_cells import COMPILED_CELLS

pytestmark = [
    pytest.mark.usefixtures("quick_compiles"),
    pytest.mark.skipif(bool(native.why_not_bfloat16()), reason=f"no products in bfloat16: {native.why_not_bfloat16()}"),
]
NAMES = [cell.name for cell in COMPILED_CELLS]
# batch, steps, units, features: odd and even depths, a part of a vector, several panels, blocks and tiles, chunks of an odd number of rows
SIZES = [(1, 1, 1, 1), (2, 5, 3, 17), (5, 7, 16, 2), (7, 9, 33, 40), (33, 5, 17, 70), (4, 3, 130, 5), (35, 11, 48, 131)]


def _rounded(array) -> np.ndarray:
    return np.asarray(jnp.asarray(array, jnp.bfloat16).astype(jnp.float32))


def _operands(cell: str, size: tuple[int, int, int, int], draw=lambda array: array.astype(np.float32)) -> tuple[Any, Any, Any]:
    """Return (params, x, state) of a cell, whose numbers `draw` rounds."""
    batch, steps, units, features = size
    rng, row = np.random.default_rng(sum(size)), CELLS[cell]

    def normal(like) -> np.ndarray:
        return draw(rng.standard_normal(like.shape) * (0.5 if len(like.shape) == 1 else min(0.7, 1.5 / np.sqrt(like.shape[0]))))

    params = jax.tree.map(normal, jax.eval_shape(lambda key: row.init(key, features, units), jax.random.key(0)))
    state = jax.tree.map(normal, jax.eval_shape(lambda: row.initial_state(batch, units)))
    return params, draw(rng.standard_normal((batch, steps, features))), state


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("cell", [name for name in NAMES if name != "gru_reset_before"])  # it rounds r * h
def test_a_step_of_exact_numbers(cell: str, size: tuple[int, int, int, int]) -> None:
    """Where x, h and the kernels have no more digits than bfloat16, a step is that of float32: sums and states keep all their digits."""
    batch, _, units, features = size
    params, x, state = _operands(cell, (batch, 1, units, features), _rounded)
    run = jax.jit(lambda dtype: unroll(CELLS[cell], params, x, state, backend="compiled", compute_dtype=dtype), static_argnums=0)
    got, want = run("bfloat16"), run("float32")
    assert_close(got, want, 3e-6)


KINDS = {
    "plain": {},
    "masks of both": {"input": 1, "recurrent": 1},
    "masks of each gate": {"input": "each", "recurrent": "each", "padding": True},
    "resets and padding": {"resets": True, "padding": True},
    "backwards, tokens": {"tokens": True, "backwards": True, "recurrent": 1},
    "ids": {"ids": True, "recurrent": "each", "resets": True},
}


def _distance(got: Any, want: Any) -> list[float]:
    """Return the distance of each array from the exact one, of the norm of the exact one."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return [float(np.linalg.norm(np.asarray(a, np.float64) - b) / (np.linalg.norm(b) + 1e-30)) for a, b in pairs]


def _run(cell: str, operands: tuple, options: dict[str, Any], backend: str, dtype: str | None, compute_dtype: str | None) -> Any:
    """Return outputs, state, and the gradients by parameters, x (with tokens: by a table of which x are rows) and initial state."""
    with precision(dtype or "float32"):
        params, x, state = jax.tree.map(lambda leaf: leaf if leaf.dtype == np.int32 else np.asarray(leaf, dtype), operands)
        masks = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), options["dropout"])
        more = {name: value for name, value in options.items() if name != "dropout"}

        def function(params, x, state):
            x = x[options["tokens"]] if "tokens" in options else x  # steps of a row with equal tokens read equal inputs
            return unroll(CELLS[cell], params, x, state, dropout=masks, backend=backend, compute_dtype=compute_dtype, **more)

        if x.dtype == np.int32:
            return jax.tree.map(np.asarray, differentiate(lambda params, state: function(params, x, state), params, state))
        return jax.tree.map(np.asarray, differentiate(function, params, x, state))


def _options(cell: str, size: tuple[int, int, int, int], kind: str) -> tuple[dict[str, Any], np.ndarray]:
    """Return the options of a kind, and ids (B, T)."""
    batch, steps, units, features = size
    rng, asked = np.random.default_rng(7), KINDS[kind]
    ids = rng.integers(0, features, (batch, steps)).astype(np.int32)

    def factors(which: str, width: int) -> np.ndarray | None:
        lead = (CELLS[cell].gates,) if asked.get(which) == "each" else ()
        return (rng.random((*lead, batch, width)) < 0.7) / 0.7 if asked.get(which) else None

    options: dict[str, Any] = {"dropout": DropoutMasks(factors("input", features), factors("recurrent", units))}
    options |= {"backwards": True} if asked.get("backwards") else {}
    options |= {"mask": rng.random((batch, steps)) < 0.7} if asked.get("padding") else {}
    options |= {"resets": rng.random((batch, steps)) < 0.3} if asked.get("resets") else {}
    options |= {"tokens": ids} if asked.get("tokens") else {}
    return options, ids


@pytest.mark.parametrize("cell", NAMES)
def test_as_exact_as_products_of_jax(cell: str) -> None:
    """Outputs, states and gradients are as far from float64 as those of the reference, whose products XLA computes in bfloat16."""
    number = NAMES.index(cell)
    for turn, kind in enumerate(KINDS):
        size = SIZES[1:][(number + turn) % (len(SIZES) - 1)]
        params, x, state = _operands(cell, size)
        options, ids = _options(cell, size, kind)
        if "tokens" in options:
            x = np.random.default_rng(3).standard_normal((size[3], size[3])).astype(np.float32)
        operands = (params, ids if KINDS[kind].get("ids") else x, state)
        exact = _run(cell, operands, options, "reference", "float64", None)
        got = _run(cell, operands, options, "compiled", None, "bfloat16")
        assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype(np.float32)}
        distances, of_jax = _distance(got, exact), _distance(_run(cell, operands, options, "reference", None, "bfloat16"), exact)
        for ours, theirs, path in zip(distances, of_jax, jax.tree.leaves_with_path(got), strict=True):
            assert ours <= 2 * theirs + 5e-3, (kind, size, jax.tree_util.keystr(path[0]), ours, theirs)
        assert max(distances) > 1e-5, "nothing was rounded"


@pytest.mark.parametrize("cell", ["lstm", "gru", "lstm_layernorm"])
def test_second_derivatives_and_tangents(cell: str) -> None:
    """The twin in JAX, which computes what the C++ does not, has products in bfloat16 too."""
    params, x, state = _operands(cell, (3, 4, 8, 5))

    def loss(params, backend, dtype):
        outputs, _ = unroll(CELLS[cell], params, x, state, backend=backend, compute_dtype=dtype)
        return (outputs**2).sum()

    def second(backend, dtype):
        return jax.jit(jax.jacfwd(lambda bias: jax.grad(loss)(params._replace(bias=bias), backend, dtype).bias))(params.bias)

    exact, got = second("reference", None), second("compiled", "bfloat16")
    distance = np.linalg.norm(got - exact) / np.linalg.norm(exact)
    assert 1e-5 < distance < 0.1


def test_threads_change_nothing_forward() -> None:
    """Rows are independent: the outputs of a row do not depend on the rows beside it."""
    params, x, state = _operands("lstm", (40, 6, 20, 12))
    run = jax.jit(lambda x, state: unroll(CELLS["lstm"], params, x, state, backend="compiled", compute_dtype="bfloat16")[0])
    whole = run(x, state)
    part = run(x[:7], jax.tree.map(lambda leaf: leaf[:7], state))
    np.testing.assert_array_equal(whole[:7], part)
