"""Adversarial perturbations of word vectors: their size and direction for padded and
packed reviews, and the training loss with them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tables import assert_close

from lstm_jax import SentimentClassifier
from lstm_jax.base import sharding
from lstm_jax.base.sharding import make_mesh
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sentiment.adversarial import perturbation
from lstm_jax.lab.sentiment.config import SentimentModelConfig
from lstm_jax.lab.sentiment.data import EncodedSplit
from lstm_jax.lab.sentiment.model import EMBEDDING
from lstm_jax.lab.sentiment.rows import pack_reviews
from lstm_jax.training.lookups import find_lookups
from lstm_jax.training.parts import functional

V, E, H = 20, 4, 3
RNG = np.random.default_rng(0)
LENGTHS = np.asarray([5, 3, 8, 1, 2, 4])
REVIEWS = [RNG.integers(1, V, length).astype(np.int32) for length in LENGTHS]
LABELS = np.asarray([0, 1, 1, 0, 1, 0], np.int32)
SPLIT = EncodedSplit(
    np.concatenate(REVIEWS),
    np.concatenate([[0], LENGTHS.cumsum()]),
    LABELS,
    np.zeros(len(LENGTHS), np.int32),
)
IDS, WEIGHT = SPLIT.padded(8, "post"), np.full(len(LABELS), 1 / len(LABELS), np.float32)


def test_perturbation_of_padded_reviews_by_hand():
    """The perturbation equals its formula, computed in NumPy. It is zero for padding
    and for a review whose gradient is zero.
    """
    vectors, gradient = (
        RNG.normal(size=(*IDS.T.shape, E)).astype(np.float32) for _ in range(2)
    )
    gradient[:, 3] = 0
    found = np.asarray(
        perturbation(
            jnp.asarray(vectors), jnp.asarray(gradient), jnp.asarray(IDS), None, 0.7
        )
    )
    for n, length in enumerate(LENGTHS):
        own = vectors[:length, n].astype(np.float64)
        towards = gradient[:length, n].astype(np.float64)
        want = (
            0.7
            * np.sqrt((own**2).mean())
            * towards
            / max(np.linalg.norm(towards), 1e-300)
        )
        assert_close(found[:length, n], want, "float32")
        assert not found[length:, n].any()


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("packed", [False, True])
def test_loss_and_its_gradient(packed):
    """The loss is that of the reviews plus that of the perturbed reviews; each
    perturbed review has a larger loss than the original review.

    No gradient flows through the perturbation. The expected values come from a loop
    that handles each review alone.
    """
    config = SentimentModelConfig(
        embed=E, units=H, pooling="mean+max", dropout=0.0, recurrent_dropout=0.0
    )
    made = functional(SentimentClassifier(config, V, rngs=nnx.Rngs(0)))
    size, key = 0.5, jax.random.key(0)
    batch = jax.tree.map(
        jnp.asarray,
        pack_reviews(SPLIT, 9).examples().arrays if packed else (IDS, LABELS),
    )
    weight = jnp.asarray(WEIGHT[: len(batch[0])])
    objective = sentiment.objective(made.rebuild, size)
    (loss, metrics), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(
        made.params, batch, weight, key
    )

    def of_vectors(params, ids, label, vectors):
        logit = made.rebuild(params)(ids[None], vectors=vectors, deterministic=True)[0]
        return jnp.logaddexp(0.0, -logit if label else logit)

    def want(params):
        losses = []
        for ids, label in zip(REVIEWS, LABELS, strict=True):
            vectors = params[EMBEDDING][ids][:, None]
            towards = jax.grad(of_vectors, 3)(params, jnp.asarray(ids), label, vectors)
            change = jax.lax.stop_gradient(
                size
                * jnp.sqrt((vectors**2).mean())
                * towards
                / jnp.linalg.norm(towards)
            )
            losses.append(
                jnp.stack(
                    [
                        of_vectors(params, jnp.asarray(ids), label, vectors + by)
                        for by in (0 * change, change)
                    ]
                )
            )
        return jnp.stack(losses).sum() / len(LABELS), jnp.stack(losses)

    (value, losses), expected = jax.jit(jax.value_and_grad(want, has_aux=True))(
        made.params
    )
    assert float(loss) == pytest.approx(float(value), rel=1e-6)
    assert float(metrics["loss"]) == pytest.approx(float(losses[:, 0].mean()), rel=1e-6)
    assert (losses[:, 1] > losses[:, 0]).all()
    for name, array in gradient.items():
        # terms of about 0.1 cancel, hence `atol`
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)
    plain = jax.jit(jax.grad(sentiment.objective(made.rebuild), has_aux=True))(
        made.params, batch, weight, key
    )[0]
    assert not np.allclose(plain["head/kernel"], gradient["head/kernel"], rtol=1e-3)


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("devices", [1, 2])
def test_dropout_rows_and_devices(devices):
    """Dropout has the same masks for the original and the perturbed reviews.

    The gradients with respect to the looked-up word vectors add up to the gradient with
    respect to the embedding.
    """
    rates = {
        "dropout": 0.3,
        "recurrent_dropout": 0.2,
        "head_dropout": 0.4,
        "word_dropout": 0.2,
    }
    made = functional(
        SentimentClassifier(
            SentimentModelConfig(embed=E, units=H, pooling="max", **rates),
            V,
            rngs=nnx.Rngs(0),
        )
    )
    ids = jnp.asarray(IDS)
    labels = jnp.asarray(LABELS)
    weight = jnp.asarray(WEIGHT)
    key = jax.random.key(5)
    batch = ids, labels
    objective = sentiment.objective(made.rebuild, 0.5)

    def whole(params):
        return objective(params, batch, weight, key)[0]

    with sharding.on(make_mesh(devices)):
        vectors = made.params[EMBEDDING][ids.T]
        loss, gradient = jax.jit(jax.value_and_grad(whole))(made.params)
        found: Any = find_lookups(
            objective, made.params, batch, weight, key, table=EMBEDDING
        )

        def by_rows(params, vectors):
            return found.loss_of(params, [vectors], batch, weight, key)[0]

        others, rows = jax.jit(jax.grad(by_rows, (0, 1)))(made.params, vectors)
    added = np.zeros((V, E))
    np.add.at(added, np.asarray(ids.T), np.asarray(rows, np.float64))
    for name, array in (others | {EMBEDDING: added}).items():
        np.testing.assert_allclose(
            array, gradient[name], rtol=1e-4, atol=1e-6, err_msg=name
        )

    def cross_entropy(vectors):
        logits = made.rebuild(made.params)(
            ids, vectors=vectors, rngs=key, deterministic=False
        )
        return jnp.logaddexp(0, jnp.where(labels == 1, -logits, logits)).mean()

    change = perturbation(vectors, jax.grad(cross_entropy)(vectors), ids, None, 0.5)
    assert float(loss) == pytest.approx(
        float(cross_entropy(vectors) + cross_entropy(vectors + change)), rel=1e-5
    )
