"""Reviews that are packed in rows: each gets the logit and the gradients that it gets
alone, and a run is trained on packed reviews.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tables import assert_close

from lstm_jax.base.errors import InputError
from lstm_jax.base.sharding import make_mesh
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sentiment.config import SentimentModelConfig
from lstm_jax.lab.sentiment.model import SentimentClassifier
from lstm_jax.lab.sentiment.rows import NONE, pack_reviews
from lstm_jax.lab.sweep import override
from lstm_jax.recurrence.packing import PackedPlaces
from lstm_jax.training.examples import epoch_order
from lstm_jax.training.parts import functional


@pytest.fixture(scope="module")
def config(small):
    return override(small, {"data.packed": 60, "data.maxlen": 7})


@pytest.fixture(scope="module")
def reviews(config):
    return sentiment.encoded_reviews(config)


def made_model(reviews, **options):
    return functional(
        SentimentClassifier(
            SentimentModelConfig(units=5, embed=4, **options),
            reviews.vocabulary.size,
            rngs=nnx.Rngs(0),
        )
    )


@pytest.mark.parametrize("truncating", ["pre", "post"])
def test_every_review_is_in_its_place(reviews, truncating):
    split = reviews.train
    length = int(np.median(split.lengths))
    rows = pack_reviews(split, length, truncating)
    assert rows.count == len(split)
    assert rows.targets.tolist() == split.labels.tolist()
    for n, (row, at) in enumerate(rows.numbers):
        first, last = rows.places.first[row, at], rows.places.last[row, at]
        own = split.row(n)
        assert (
            rows.ids[row, first : last + 1].tolist()
            == (own[-length:] if truncating == "pre" else own[:length]).tolist()
        )
        assert set(rows.places.segment_ids[row, first : last + 1]) == {at + 1}
    assert (rows.labels != NONE).sum() == rows.count
    assert rows.padding == pytest.approx(
        1 - np.minimum(split.lengths, length).sum() / rows.ids.size
    )
    assert pack_reviews(split, 3 * int(split.lengths.max())).padding < 0.05


OPTIONS = [
    {},
    {"bidirectional": True, "layers": 2},
    {"cell": "gru", "layers": 2},
    {"pooling": "mean"},
    {"pooling": "mean+max", "bidirectional": True, "merge": "sum"},
    {"pooling": "max", "cell": "gru"},
]


@pytest.mark.slow(keep=["{'bidirectional': True, 'layers': 2}", "mean+max"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_logits_and_gradients_are_those_of_each_review_alone(reviews, options):
    """A model has the same logits and gradients for packed reviews as for the same
    reviews in padded rows.

    The test repeats this with word vectors of zeros, for which max pooling has many
    equal maxima and divides the gradient among them.
    """
    rows = pack_reviews(reviews.test, 60)
    options = options | {"dropout": 0.0, "recurrent_dropout": 0.0}
    (params, rebuild), (_, alone) = (
        made_model(reviews, mask_zero=mask, **options) for mask in (False, True)
    )
    ids, places = jnp.asarray(rows.ids), jax.tree.map(jnp.asarray, rows.places)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=rows.count), jnp.float32)

    def packed(params):
        logits = rebuild(params)(ids, packed=places, deterministic=True)[
            rows.numbers[:, 0], rows.numbers[:, 1]
        ]
        return (logits * weights).sum(), logits

    def padded(params):
        logits = alone(params)(
            jnp.asarray(reviews.test.padded(60, "post")), deterministic=True
        )
        return (logits * weights).sum(), logits

    for start in (
        params,
        params | {"embedding/embedding": jnp.zeros_like(params["embedding/embedding"])},
    ):
        found, wanted = (
            jax.jit(jax.value_and_grad(read, has_aux=True))(start)
            for read in (packed, padded)
        )
        assert_close(found[0][1], wanted[0][1], 1e-5)
        for name, gradient in found[1].items():
            assert_close(gradient, wanted[1][name], 1e-5)


def test_the_loss_is_the_mean_over_reviews(reviews):
    rows = pack_reviews(reviews.train, 60)
    made = made_model(reviews, dropout=0.0, recurrent_dropout=0.0)
    batch = jax.tree.map(lambda array: jnp.asarray(array[:3]), rows.examples().arrays)
    inside = rows.numbers[:, 0] < 2
    # the third row only fills up the batch
    weight = jnp.asarray([1, 1, 0]) / inside.sum()
    loss, metrics = sentiment.objective(made.rebuild)(
        made.params, batch, weight, jax.random.key(0)
    )
    logits = sentiment.logits_of(made.rebuild, make_mesh(1))(made.params, rows)[
        inside
    ].astype(np.float64)
    labels = rows.targets[inside]
    assert float(loss) == pytest.approx(
        np.mean(np.log1p(np.exp(-np.where(labels == 1, logits, -logits)))), rel=1e-5
    )
    assert float(metrics["accuracy"]) == pytest.approx(
        np.mean((logits > 0) == (labels == 1)), rel=1e-6
    )


def test_an_epoch_counts_reviews(reviews):
    rows = pack_reviews(reviews.train, 60)
    examples = rows.examples()
    order = examples.plan(jax.random.key(0), examples.count, 4)(
        0, -(-examples.count // 4)
    )
    held = (rows.labels != NONE).sum(1)
    counted = [
        held[batch[: examples.count - 4 * n]].sum()
        for n, batch in enumerate(np.asarray(order.rows))
    ]
    assert order.examples.tolist() == counted
    assert sum(counted) == rows.count
    np.testing.assert_allclose(
        order.weight,
        (np.arange(order.rows.size) < examples.count).reshape(-1, 4)
        / np.asarray(counted)[:, None],
    )
    assert (
        np.asarray(order.rows).tolist()
        == np.asarray(epoch_order(jax.random.key(0), examples.count, 4).rows).tolist()
    )


@pytest.mark.slow
def test_a_run_trains_on_packed_reviews(config, tmp_path):
    config = override(
        config, {"train.epochs": 5, "train.batch_size": 4, "train.microbatches": 2}
    )
    result = sentiment.train(config, tmp_path / "run", figures=False)
    trained = sentiment.load(tmp_path / "run")
    assert (
        sentiment.evaluate(trained).accuracy == result.rows[-1]["test_accuracy"] > 0.6
    )
    texts = ["the film was good", "the film was dull and bad", ""]
    together = trained.probabilities(texts)
    alone = [trained.probabilities([text])[0] for text in texts]
    assert together == pytest.approx(alone, abs=1e-6)
    assert together[0] > together[1]


def test_packed_texts_are_merged_by_concat():
    """A model with the pooling "last" and two directions refuses packed texts unless
    `merge` is "concat".

    The last outputs of the two directions are at different steps of a row, and a sum of
    the directions cannot be taken apart again.
    """
    config = SentimentModelConfig(
        units=4, embed=3, recurrent_dropout=0.0, bidirectional=True, merge="sum"
    )
    model = SentimentClassifier(config, 9, rngs=nnx.Rngs(0))
    places = PackedPlaces(
        jnp.array([[1, 1, 2, 2, 2]]), jnp.array([[0, 2]]), jnp.array([[1, 4]])
    )
    with pytest.raises(
        InputError,
        match=r"^merge: sum; packed texts with the pooling last need concat$",
    ):
        model(jnp.array([[1, 2, 3, 4, 5]]), packed=places, deterministic=True)
