"""Training examples and objectives of a text that is read in windows or as streams.

Windows are compared with those of `data.windows`; losses, states and gradients with direct computations.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from lstm_jax import data
from lstm_jax.config import GenerationModelConfig
from lstm_jax.errors import InputError
from lstm_jax.models import CharGenerator, functional
from lstm_jax.runtime import sharding
from lstm_jax.tasks.text_examples import stream_examples, stream_objective, window_examples, window_objective
from lstm_jax.training.state import create_state
from lstm_jax.training.step import make_run_steps

pytestmark = pytest.mark.usefixtures("quick_compiles")

V = 7


def made_ids(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, V, n).astype(np.uint8)


def made_model(**config) -> tuple[dict, CharGenerator, object]:
    """Return random parameters, the model with these parameters, and the function `rebuild`, which makes a model from parameters.

    The parameters are so large that each character affects the loss.
    """
    params, rebuild = functional(CharGenerator(GenerationModelConfig(units=6, **config), V, rngs=nnx.Rngs(params=1)))
    rng = np.random.default_rng(1)
    params = {name: jnp.asarray(rng.standard_normal(array.shape), jnp.float32) for name, array in sorted(params.items())}
    return params, rebuild(params), rebuild


@pytest.mark.parametrize(("n", "length", "step"), [(60, 8, 4), (62, 8, 5), (9, 8, 3), (50, 3, 11), (30, 1, 1)])
def test_windows_are_those_of_the_data(n, length, step):
    text = made_ids(n)
    X, Y = data.windows(text, length, step)
    examples = window_examples(text, length, step)
    assert examples.count == len(X)
    assert examples.arrays is text
    ids = examples.gather(jnp.asarray(text), jnp.arange(examples.count))
    assert ids.dtype == jnp.int32
    np.testing.assert_array_equal(ids, np.column_stack([X, Y]))
    some = jnp.array([examples.count - 1, 0, examples.count // 2])
    np.testing.assert_array_equal(examples.gather(jnp.asarray(text), some), np.column_stack([X, Y])[some])


def test_an_epoch_of_windows_reads_each_once():
    examples = window_examples(made_ids(60), 8, 5)
    orders = [examples.order(jax.random.key(epoch), examples.count, 4) for epoch in range(2)]
    for order in orders:
        numbers = np.asarray(order.rows).ravel()
        assert sorted(numbers[:11].tolist()) == list(range(11))
        assert numbers[:11].tolist() != list(range(11))
        np.testing.assert_array_equal(order.weight, np.array([[1 / 4] * 4, [1 / 4] * 4, [1 / 3] * 3 + [0]], np.float32))
        assert order.examples.tolist() == [4, 4, 3]
    assert (orders[0].rows != orders[1].rows).any()


@pytest.mark.slow
@given(st.integers(0, 300), st.sampled_from([1, 2, 5, 9]), st.integers(1, 6))
def test_streams_go_on_where_they_ended(n, length, batch):
    text = made_ids(n)
    steps = (n - length) // (batch * length)  # as many as fit after the largest shift
    if steps < 1:
        needs = f"text: {n} characters; {batch} streams of {length} characters need {(batch + 1) * length}: give more text, a smaller"
        with pytest.raises(InputError, match=needs):
            stream_examples(text, length, batch)
        return
    examples = stream_examples(text, length, batch)
    assert examples.count == steps * batch
    for seed in range(3):
        order = examples.order(jax.random.key(seed), examples.count, batch)
        assert (order.rows.shape, order.rows.dtype) == ((steps, batch), jnp.int32)
        shift = int(order.rows[0, 0])
        assert 0 <= shift < length
        assert int(order.rows.max()) + length < n  # where the last target is
        ids = np.asarray(examples.gather(jnp.asarray(text), order.rows.ravel())).reshape(steps, batch, length + 1)
        read = steps * length
        for row in range(batch):  # the streams lie end to end, so do the chunks of each
            begin = shift + row * read
            assert np.concatenate(ids[:, row, :-1]).tolist() == text[begin : begin + read].tolist()
            assert np.concatenate(ids[:, row, 1:]).tolist() == text[begin + 1 : begin + read + 1].tolist()
        np.testing.assert_array_equal(order.weight, np.full((steps, batch), 1 / batch, np.float32))
        assert order.examples.tolist() == [batch] * steps


def test_epochs_begin_at_any_character_below_the_length():
    examples = stream_examples(made_ids(100), 5, 3)
    shifts = [int(examples.order(jax.random.fold_in(jax.random.key(0), epoch), examples.count, 3).rows[0, 0]) for epoch in range(30)]
    assert set(shifts) == set(range(5))


def test_the_shortest_stream():
    text = made_ids(30)
    assert stream_examples(text, 5, 5).count == 5
    with pytest.raises(InputError, match="text: 29 characters; 5 streams of 5 characters need 30: give more text"):
        stream_examples(text[:29], 5, 5)


def by_hand(logits, targets) -> tuple[np.ndarray, np.ndarray]:
    """Return the cross-entropy in nats, and whether the prediction is correct, for each target; computed in float64."""
    z, targets = np.asarray(logits, np.float64), np.asarray(targets)
    return np.log(np.exp(z).sum(-1)) - np.take_along_axis(z, targets[..., None], -1)[..., 0], z.argmax(-1) == targets


MODELS = [{}, {"embed": 6, "tied": True, "layers": 2}]
WEIGHT = np.array([0.5, 0.25, 0.25, 0], np.float32)


@pytest.mark.parametrize("config", MODELS)
def test_the_loss_of_windows(config):
    params, model, rebuild = made_model(**config)
    ids = jax.random.randint(jax.random.key(2), (4, 9), 0, V)
    loss, metrics = jax.jit(window_objective(rebuild))(params, ids, jnp.asarray(WEIGHT), jax.random.key(0))
    nats, hits = by_hand(model(ids[:, :8], deterministic=True)[0][:, -1], ids[:, 8])
    assert nats.std() > 0.1
    assert float(loss) == pytest.approx(nats @ WEIGHT, rel=1e-6)
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {"loss": nats @ WEIGHT, "accuracy": hits @ WEIGHT}, rel=1e-6
    )


@pytest.mark.parametrize("config", MODELS)
def test_the_loss_of_a_chunk_and_the_state_that_it_hands_on(config):
    params, model, rebuild = made_model(**config)
    ids = jax.random.randint(jax.random.key(2), (4, 9), 0, V)
    state = jax.tree.map(lambda zeros: zeros + 0.3, model.initial_state(4))
    loss, (metrics, after) = jax.jit(stream_objective(rebuild))(params, ids, jnp.asarray(WEIGHT), jax.random.key(0), state)
    logits, states = model(ids[:, :-1], state=state, deterministic=True)
    nats, hits = (figure.mean(1) for figure in by_hand(logits, ids[:, 1:]))
    assert nats.std() > 0.1
    assert float(loss) == pytest.approx(nats @ WEIGHT, rel=1e-6)
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {"loss": nats @ WEIGHT, "accuracy": hits @ WEIGHT}, rel=1e-6
    )
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for got, wanted in zip(jax.tree.leaves(after), jax.tree.leaves(states), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


def test_dropout_is_drawn_from_the_key():
    params, model, rebuild = made_model(dropout=0.5)
    ids, weight, key = jax.random.randint(jax.random.key(2), (4, 9), 0, V), jnp.full(4, 0.25), jax.random.key(1)
    dropped, whole = model(ids[:, :-1], deterministic=False, rngs=key)[0], model(ids[:, :-1], deterministic=True)[0]
    last, _ = jax.jit(window_objective(rebuild))(params, ids, weight, key)
    every, _ = jax.jit(stream_objective(rebuild))(params, ids, weight, key, model.initial_state(4))
    for loss, part in ((last, np.s_[:, -1]), (every, np.s_[:])):
        nats, undropped = (by_hand(logits[part], ids[:, 1:][part])[0].mean() for logits in (dropped, whole))
        assert float(loss) == pytest.approx(nats, rel=1e-6)
        assert abs(nats - undropped) > 1e-3


def test_the_gradient_ends_where_a_chunk_begins():
    params, model, rebuild = made_model()
    examples = stream_examples(made_ids(60), 5, 4)
    order = examples.order(jax.random.key(1), examples.count, 4)
    chunks = [examples.gather(jnp.asarray(examples.arrays), rows) for rows in order.rows]

    def step(params, ids, state):
        """Return the mean cross-entropy of a chunk in nats, and the state after the chunk."""
        logits, after = rebuild(params)(ids[:, :-1], state=state, deterministic=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean(), after

    zeros = model.initial_state(4)
    differentiate = jax.jit(jax.grad(step, has_aux=True))
    gradient, between = differentiate(params, chunks[0], zeros)
    moved = {name: array - gradient[name] for name, array in params.items()}
    cut, _ = differentiate(moved, chunks[1], between)
    across = jax.jit(jax.grad(lambda p: step(moved, chunks[1], step(p, chunks[0], zeros)[1])[0]))(params)
    wanted = {name: array - cut[name] for name, array in moved.items()}

    mesh = sharding.make_mesh(2)
    state, places = create_state(params, optax.sgd(1.0), ("loss", "accuracy", "examples"), mesh, zeros)
    run_steps = make_run_steps(stream_objective(rebuild), optax.sgd(1.0), places, mesh, examples.gather)
    text, order, key = jax.device_put((examples.arrays, order, jax.random.key(0)), sharding.replicated(mesh))
    state = run_steps(state, text, order, 0, 2, key)
    for name, array in wanted.items():
        np.testing.assert_allclose(state.params[name], array, rtol=0, atol=1e-6)
    assert max(float(jnp.abs(part).max()) for part in across.values()) > 1e-3  # the cut gradient is large enough to be noticed


def test_streams_are_reset_where_articles_begin():
    """The resets of a batch mark the beginnings of articles. After a reset the model starts from a zero state, whatever its state was."""
    text, starts = made_ids(60), np.array([0, 7, 21, 22, 48])
    examples = stream_examples(text, 5, 4, starts)
    arrays = jax.tree.map(jnp.asarray, examples.arrays)
    order = examples.order(jax.random.key(3), examples.count, 4)
    for rows in order.rows:
        ids, resets = examples.gather(arrays, rows)
        assert ids.shape == (4, 6)
        assert resets.dtype == bool
        for b, at in enumerate(np.asarray(rows)):
            assert np.flatnonzero(resets[b]).tolist() == [s - at for s in starts if at <= s < at + 5]
    params, model, rebuild = made_model()
    objective, weight, key = stream_objective(rebuild), jnp.full(4, 0.25), jax.random.key(0)
    ids, resets = examples.gather(arrays, order.rows[0])
    everywhere = jnp.ones_like(resets)
    state = jax.tree.map(lambda part: part + 0.5, model.initial_state(4))
    alone, _ = objective(params, (ids, everywhere), weight, key, state)
    single = [model(ids[b : b + 1, t : t + 1], last=True)[0][0] for b in range(4) for t in range(5)]
    wanted = optax.softmax_cross_entropy_with_integer_labels(jnp.stack(single), ids[:, 1:].reshape(-1)).mean()
    assert float(alone) == pytest.approx(float(wanted), rel=1e-5)
    plain, _ = objective(params, (ids, jnp.zeros_like(resets)), weight, key, state)
    assert float(plain) == float(objective(params, ids, weight, key, state)[0])


def test_a_text_whose_positions_int32_does_not_hold() -> None:
    text = np.broadcast_to(np.uint8(0), 2**31)
    for read in (lambda: window_examples(text, 40, 3), lambda: stream_examples(text, 40, 4)):
        with pytest.raises(InputError, match=r"^text: 2147483648 characters; at most 2147483647 fit in memory: write shards with"):
            read()
