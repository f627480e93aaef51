"""Training examples and objectives of a text that is read in windows or as streams.

Windows are compared with those of `data.windows`; losses, states and gradients with
direct computations.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from lstm_jax.base.errors import InputError
from lstm_jax.lab.generation import data
from lstm_jax.lab.generation.config import GenerationModelConfig
from lstm_jax.lab.generation.model import CharGenerator
from lstm_jax.lab.generation.task import (
    stream_examples,
    stream_objective,
    window_examples,
    window_objective,
)
from lstm_jax.training.parts import functional

V = 7


def made_ids(n):
    return np.random.default_rng(n).integers(0, V, n).astype(np.uint8)


def made_model(**config):
    """Return random parameters, the model with these parameters, and the function
    `rebuild`, which makes a model from parameters.

    The parameters are so large that each character affects the loss.
    """
    params, rebuild = functional(
        CharGenerator(
            GenerationModelConfig(units=6, **config), V, rngs=nnx.Rngs(params=1)
        )
    )
    rng = np.random.default_rng(1)
    params = {
        name: jnp.asarray(rng.standard_normal(array.shape), jnp.float32)
        for name, array in sorted(params.items())
    }
    return params, rebuild(params), rebuild


@pytest.mark.parametrize(
    ("n", "length", "step"),
    [(60, 8, 4), (62, 8, 5), (9, 8, 3), (50, 3, 11), (30, 1, 1)],
)
def test_windows_are_those_of_the_data(n, length, step):
    text = made_ids(n)
    examples = window_examples(text, length, step)
    ids = examples.gather(jnp.asarray(text), jnp.arange(examples.count))
    np.testing.assert_array_equal(
        ids, np.column_stack(data.windows(text, length, step))
    )
    assert ids.dtype == jnp.int32


@pytest.mark.slow
@given(st.integers(0, 300), st.sampled_from([1, 2, 5, 9]), st.integers(1, 6))
def test_streams_go_on_where_they_ended(n, length, batch):
    text = made_ids(n)
    steps = (n - length) // (batch * length)  # as many as fit after the largest shift
    if steps < 1:
        with pytest.raises(InputError, match=f"^text: {n} characters"):
            stream_examples(text, length, batch)
        return
    examples = stream_examples(text, length, batch)
    assert examples.count == steps * batch
    for seed in range(3):
        order = examples.plan(jax.random.key(seed), examples.count, batch)(0, steps)
        assert order.rows.shape == (steps, batch)
        shift = int(order.rows[0, 0])
        assert 0 <= shift < length
        assert int(order.rows.max()) + length < n  # where the last target is
        ids = np.asarray(
            examples.gather(jnp.asarray(text), order.rows.ravel())
        ).reshape(steps, batch, length + 1)
        read = steps * length
        for row in range(batch):  # the streams lie end to end, so do the chunks of each
            begin = shift + row * read
            assert (
                np.concatenate(ids[:, row, :-1]).tolist()
                == text[begin : begin + read].tolist()
            )
            assert (
                np.concatenate(ids[:, row, 1:]).tolist()
                == text[begin + 1 : begin + read + 1].tolist()
            )
        np.testing.assert_array_equal(
            order.weight, np.full((steps, batch), 1 / batch, np.float32)
        )
        assert order.examples.tolist() == [batch] * steps


def test_epochs_begin_at_any_character_below_the_length():
    examples = stream_examples(made_ids(100), 5, 3)
    shifts = [
        int(
            examples.plan(
                jax.random.fold_in(jax.random.key(0), epoch), examples.count, 3
            )(0, 1).rows[0, 0]
        )
        for epoch in range(30)
    ]
    assert set(shifts) == set(range(5))


def by_hand(logits, targets):
    """Return the cross-entropy in nats, and whether the prediction is correct, for each
    target; computed in float64.
    """
    z, targets = np.asarray(logits, np.float64), np.asarray(targets)
    return np.log(np.exp(z).sum(-1)) - np.take_along_axis(z, targets[..., None], -1)[
        ..., 0
    ], z.argmax(-1) == targets


MODELS = pytest.mark.parametrize(
    "config", [{}, {"embed": 6, "tied": True, "layers": 2, "dropout": 0.5}]
)
WEIGHT, KEY = jnp.array([0.5, 0.25, 0.25, 0]), jax.random.key(1)


def assert_metrics(loss, metrics, logits, targets):
    """Check the loss and the metrics of a batch. If there are several targets in a row,
    the loss of the row is their mean.
    """
    nats, hits = (
        values.reshape(4, -1).mean(1) @ np.asarray(WEIGHT)
        for values in by_hand(logits, targets)
    )
    assert (
        float(loss),
        float(metrics["loss"]),
        float(metrics["accuracy"]),
    ) == pytest.approx((nats, nats, hits), rel=1e-6)


@MODELS
def test_the_loss_of_windows(config):
    params, model, rebuild = made_model(**config)
    ids = jax.random.randint(jax.random.key(2), (4, 9), 0, V)
    loss, metrics = jax.jit(window_objective(rebuild))(params, ids, WEIGHT, KEY)
    assert_metrics(
        loss,
        metrics,
        model(ids[:, :8], deterministic=False, rngs=KEY)[0][:, -1],
        ids[:, 8],
    )


@MODELS
def test_the_loss_of_a_chunk_and_the_state_that_it_hands_on(config):
    params, model, rebuild = made_model(**config)
    ids = jax.random.randint(jax.random.key(2), (4, 9), 0, V)
    state = jax.tree.map(lambda zeros: zeros + 0.3, model.initial_state(4))
    loss, (metrics, after) = jax.jit(stream_objective(rebuild))(
        params, ids, WEIGHT, KEY, state
    )
    logits, states = model(ids[:, :-1], state=state, deterministic=False, rngs=KEY)
    assert_metrics(loss, metrics, logits, ids[:, 1:])
    jax.tree.map(
        lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6),
        after,
        states,
    )


def test_streams_are_reset_where_articles_begin():
    """The resets of a batch mark the beginnings of articles. After a reset the model
    starts from a zero state, whatever its state was.
    """
    text, starts = made_ids(60), np.array([0, 7, 21, 22, 48])
    examples = stream_examples(text, 5, 4, starts)
    arrays = jax.tree.map(jnp.asarray, examples.arrays)
    order = examples.plan(jax.random.key(3), examples.count, 4)(0, examples.count // 4)
    for rows in order.rows:
        ids, resets = examples.gather(arrays, rows)
        np.testing.assert_array_equal(
            ids, stream_examples(text, 5, 4).gather(arrays[0], rows)
        )
        for b, at in enumerate(np.asarray(rows)):
            assert np.flatnonzero(resets[b]).tolist() == [
                s - at for s in starts if at <= s < at + 5
            ]
    params, model, rebuild = made_model()
    ids = jax.random.randint(jax.random.key(2), (4, 6), 0, V)
    everywhere = jnp.ones((4, 5), bool)
    state = jax.tree.map(lambda part: part + 0.5, model.initial_state(4))
    loss, (metrics, _) = stream_objective(rebuild)(
        params, (ids, everywhere), WEIGHT, KEY, state
    )
    single = jnp.stack([model(ids[:, t : t + 1], last=True)[0] for t in range(5)], 1)
    assert_metrics(loss, metrics, single, ids[:, 1:])


def test_texts_that_are_too_short_or_too_long():
    assert stream_examples(made_ids(30), 5, 5).count == 5
    whole = np.broadcast_to(np.uint8(0), 2**31)
    for subject, read in (
        (
            "text: 29 characters; 5 streams of 5 characters need 30",
            lambda: stream_examples(made_ids(29), 5, 5),
        ),
        ("text: 2147483648 characters", lambda: window_examples(whole, 40, 3)),
        ("text: 2147483648 characters", lambda: stream_examples(whole, 40, 4)),
    ):
        with pytest.raises(InputError, match=f"^{subject}"):
            read()
