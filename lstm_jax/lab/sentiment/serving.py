"""Fast predictions of a trained sentiment model for a few reviews at a time, as a
server needs them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy import ndarray

from lstm_jax.base.errors import check_class
from lstm_jax.lab.sentiment.model import SentimentClassifier
from lstm_jax.lab.sentiment.rows import padded_ids
from lstm_jax.layers.products import set_products
from lstm_jax.training.parts import functional


def make_server(
    model: SentimentClassifier, dtype: str | None = None
) -> Callable[[ndarray], ndarray]:
    """Return a function logits(ids) that computes the logits (B,) of the word ids (B,
    T) of B reviews in one compiled call.

        trained = sentiment.load("runs/sentiment")
        logits = make_server(trained.rebuild(trained.params))

    The vectors of all words are multiplied by the kernel of the first recurrent layer
    once, in advance (see `SentimentClassifier.fold`). Instead of multiplying by this
    kernel, each call then looks up rows in the table of the products. For V words, H
    units and a cell with G gates, the table has V * G * H numbers per direction. JAX
    compiles the function when it is first called with a new shape of `ids`. To classify
    many reviews in batches, use `Trained.logits` instead.

    The argument `dtype` is the dtype in which the recurrent layers multiply matrices:
    "float32", "bfloat16" or "int8"; see `models.set_products`. If None, the layers keep
    the dtype that they have in `model`, which is not changed.

    Raises:
        InputError: if `model` is no `SentimentClassifier`, or if it is already folded.
            The returned function raises it unless `ids` are integers (B, T) from 0 to V
            - 1, where T is at least 1.
    """
    remedy = "give a SentimentClassifier, such as trained.rebuild(trained.params)"
    check_class("model", model, SentimentClassifier, remedy)
    vocabulary, folded = model.embedding.embedding.shape[0], nnx.clone(model)
    folded.eval()
    if dtype is not None:
        set_products(folded, dtype)
    # no longer read, so it need not stay in memory
    folded.fold().embedding.embedding = nnx.Param(jnp.zeros((0, 0)))
    params, rebuild = functional(folded)
    given = list(params.values())

    # each argument of a compiled call takes some tenths of a microsecond, and a dict
    # takes longer than a flat list
    @jax.jit
    def compiled(ids, *given):
        return rebuild(dict(zip(params, given, strict=True)))(ids, deterministic=True)

    def logits(ids):
        return np.asarray(compiled(padded_ids(ids, vocabulary), *given))

    return logits
