"""The function that `make_server` returns gives the logits of the model, for several
kinds of models and numbers of reviews.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lstm_jax import InputError, native
from lstm_jax.lab.sentiment.config import SentimentModelConfig
from lstm_jax.lab.sentiment.model import SentimentClassifier
from lstm_jax.lab.sentiment.task import make_server
from lstm_jax.layers.products import set_products
from lstm_jax.training.parts import functional


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize(
    "config",
    [
        SentimentModelConfig(embed=5, units=6, dropout=0.5, recurrent_dropout=0.5),
        SentimentModelConfig(
            embed=5, units=6, layers=2, bidirectional=True, pooling="mean+max"
        ),
        SentimentModelConfig(
            embed=5, units=6, cell="gru", mask_zero=True, word_dropout=0.5
        ),
    ],
)
def test_logits(config):
    model = SentimentClassifier(config, 30, rngs=nnx.Rngs(0))
    before = jax.tree.map(np.asarray, functional(model).params)
    serve = make_server(model)
    ids = np.random.default_rng(0).integers(0, 30, (3, 7))
    for rows in (ids, ids[:1, 3:]):
        np.testing.assert_allclose(
            serve(rows),
            model(jnp.asarray(rows, jnp.int32), deterministic=True),
            rtol=2e-5,
            atol=2e-6,
        )
    jax.tree.map(np.testing.assert_array_equal, functional(model).params, before)
    assert not model.folded
    for dtype, tolerance in (("float32", 2e-6), ("bfloat16", 0.02), ("int8", 0.05)):
        narrow = make_server(model, dtype)(ids)
        distance = np.abs(
            narrow - model(jnp.asarray(ids, jnp.int32), deterministic=True)
        ).max()
        assert distance <= tolerance * max(1, np.abs(narrow).max())
        assert dtype == "float32" or distance > 1e-6, "nothing was rounded"


@pytest.mark.usefixtures("unchecked")
def test_ids():
    """A served function accepts arrays and lists of integer ids (B, T). An id outside
    the vocabulary, another shape or dtype is refused.
    """
    serve = make_server(
        SentimentClassifier(
            SentimentModelConfig(embed=5, units=6), 30, rngs=nnx.Rngs(0)
        )
    )
    ids = np.array([[1, 5], [1, 29]], np.uint64)
    np.testing.assert_array_equal(serve(ids[:1].tolist()), serve(ids[:1]))
    for wrong in (
        ids + 1,
        ids + 2**32,
        -ids.astype(int),
        ids[0],
        ids[:, :0],
        ids.astype(float),
        [[1], [2, 3]],
        None,
    ):
        with pytest.raises(InputError, match=r"^ids: "):
            serve(wrong)


@pytest.mark.usefixtures("unchecked")
def test_errors():
    """A folded model can be neither served nor folded again, because it has no
    embedding table any more.
    """
    model = SentimentClassifier(
        SentimentModelConfig(embed=5, units=6), 30, rngs=nnx.Rngs(0)
    )
    params: Any = functional(model).params
    with pytest.raises(InputError, match=r"^dtype: float16"):
        make_server(model, "float16")
    folded = model.fold()
    for call in (lambda: make_server(folded), folded.fold, lambda: make_server(params)):
        with pytest.raises(InputError, match=r"^model: "):
            call()


def test_products_of_a_model_with_a_named_backend():
    """`set_products(model, dtype)` keeps the backend that a layer names if this backend
    can multiply matrices in `dtype`.

    Otherwise the name is removed, and the backend of the layer is chosen automatically.
    """
    compiled = None if native.why_not_products("int8") else "compiled"
    cases = [
        ("hoisted", "bfloat16", "hoisted"),
        ("hoisted", "int8", None),
        ("reference", "int8", "reference"),
        ("compiled", "int8", compiled),
    ]
    for backend, dtype, left in cases:
        model = SentimentClassifier(
            SentimentModelConfig(embed=5, units=6, backend=backend),
            30,
            rngs=nnx.Rngs(0),
        )
        layer = set_products(model, dtype).recurrent.layers[0]
        assert (layer.backend, layer.dtype) == (left, jnp.dtype(dtype))
        assert np.isfinite(make_server(model)(np.zeros((2, 3), int))).all()
        assert set_products(model, "float32").recurrent.layers[0].dtype is None
