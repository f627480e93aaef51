"""Tests of the public training step on users' own models, against Flax' own loop and
against dense updates, on one and two devices.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tables import BACKENDS

import lstm_jax
from lstm_jax import LSTM, Embedding
from lstm_jax.base import sharding
from lstm_jax.base.errors import InputError
from lstm_jax.training.optimizers import clipped

WORDS, FEATURES, UNITS, LENGTH, BATCH = 600, 32, 8, 6, 4
rng = np.random.default_rng(0)
IDS = rng.integers(0, WORDS, (40, BATCH, LENGTH)).astype(np.int32)
LABELS = rng.integers(0, 2, (40, BATCH)).astype(np.float32)
OPTIMIZERS = {
    "adam": lstm_jax.adam(1e-2),
    "keras_adam": lstm_jax.keras_adam(1e-2),
    "clipped": clipped(lstm_jax.adam(1e-2), 0.05),
    "sgd": optax.sgd(0.1),
}


class Classifier(nnx.Module):
    """A user's own model, with Flax' embedding and dropout."""

    def __init__(self, rate: float = 0.0, embed=nnx.Embed, param_dtype=jnp.float32):
        rngs = nnx.Rngs(0)
        self.embed = embed(WORDS, FEATURES, param_dtype=param_dtype, rngs=rngs)
        self.recurrent = LSTM(
            FEATURES,
            UNITS,
            dropout=rate,
            recurrent_dropout=rate,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.head = nnx.Linear(UNITS, 1, param_dtype=param_dtype, rngs=rngs)

    def __call__(self, ids):
        return self.head(self.drop(self.recurrent(self.embed(ids))))[:, 0]


def losses(model, ids, labels):
    return optax.sigmoid_binary_cross_entropy(model(ids), labels)


def mean(model, ids, labels):
    return losses(model, ids, labels).mean()


def make_step(model: Any = None, loss=mean, optimizer: Any = None, **options):
    return lstm_jax.make_train_step(
        model or Classifier(), loss, optimizer or lstm_jax.adam(1e-2), **options
    )


def take(step, state, *numbers: int):
    """Return the state after steps with the batches of the given numbers."""
    for n in numbers:
        state, _ = step(state, IDS[n], LABELS[n])
    return state


def _params(model: nnx.Module) -> dict:
    return dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))


def assert_near(got: nnx.Module, want: nnx.Module, far: float):
    want = _params(want)
    for path, value in _params(got).items():
        np.testing.assert_allclose(
            value[...], want[path][...], rtol=0, atol=far, err_msg=str(path)
        )


def _own_loop(model: nnx.Module, transformation, steps: int) -> nnx.Module:
    """Train a model with the loop that Flax' documentation shows, and return the model."""
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, ids, labels):
        loss, gradients = nnx.value_and_grad(mean)(model, ids, labels)
        optimizer.update(model, gradients)
        return loss

    for n in range(steps):
        step(model, optimizer, IDS[n], LABELS[n])
    return model


@pytest.mark.slow(keep=["[0.3]"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_step_is_that_of_a_loop_of_ones_own(rate, x64, peer_rules):
    """35 steps of our row-sparse Adam, with a catch-up of all rows among them, give the
    same parameters as optax' Adam in Flax' loop.

    Both draw the same dropout masks from the model's random streams. The test runs in
    float64, because in float32 Adam enlarges the rounding errors of gradients that are
    as small as its epsilon.
    """
    model = Classifier(rate, param_dtype=jnp.float64)
    step, before = make_step(model), _params(Classifier(rate, param_dtype=jnp.float64))
    state = take(step, step.init(), *range(35))
    with peer_rules():
        wanted = _own_loop(
            Classifier(rate, param_dtype=jnp.float64), optax.adam(1e-2), 35
        )
    assert step.table == ("embed/embedding" if "compiled" in BACKENDS else "")
    assert_near(step.model(state), wanted, 1e-10)
    # the given model is not changed
    assert all(
        (value[...] == before[path][...]).all()
        for path, value in _params(model).items()
    )
    counts = [
        value[...]
        for path, value in nnx.to_flat_state(nnx.state(step.model(state), nnx.RngCount))
    ]
    assert counts == [
        value[...] for path, value in nnx.to_flat_state(nnx.state(wanted, nnx.RngCount))
    ]


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("embed", [nnx.Embed, Embedding])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_many_steps_a_call(embed, name, x64):
    """The method `many`, which takes several steps in one call, gives the losses and
    parameters of single steps, up to rounding.

    It also does so on two devices, and continues a state that a single step has made.
    """
    models = [Classifier(0.2, embed, param_dtype=jnp.float64) for _ in range(2)]
    one, many = (
        make_step(model, optimizer=OPTIMIZERS[name], mesh=sharding.make_mesh(n))
        for n, model in enumerate(models, 1)
    )
    first, second, single = one.init(), many.init(), []
    for n in range(36):
        first, loss = one(first, IDS[n], LABELS[n])
        single.append(float(loss))
    second, losses = many.many(second, IDS[:0], LABELS[:0])
    assert losses.shape == (0,)
    second, loss = many(second, IDS[0], LABELS[0])
    second, rest = many.many(second, IDS[1:36], LABELS[1:36])
    np.testing.assert_allclose([float(loss), *rest], single, rtol=1e-10)
    assert int(second.step) == 36
    assert_near(many.model(second), one.model(first), 1e-10)


def test_a_batch_that_does_not_divide():
    step = make_step(mesh=sharding.make_mesh(2))
    with pytest.raises(
        InputError,
        match=r"^batch: \(3, 6\); give a batch size that is a multiple of the "
        r"mesh's 2 devices",
    ):
        step(step.init(), IDS[0][:3], LABELS[0][:3])


def test_further_results_and_variables():
    """A step returns the auxiliary results of the loss function (`has_aux=True`), and
    updates the running mean of batch normalisation.

    The state does not include variables that a call creates, such as
    `nnx.Intermediate`.
    """

    class Normed(nnx.Module):
        def __init__(self):
            self.norm, self.head = (
                nnx.BatchNorm(3, rngs=nnx.Rngs(0)),
                nnx.Linear(3, 1, rngs=nnx.Rngs(1)),
            )

        def __call__(self, x):
            self.seen = nnx.Intermediate(x)
            return self.head(self.norm(x))[:, 0]

    def loss(model, x):
        out = model(x)
        return (out**2).mean(), {"largest": out.max()}

    x = jnp.asarray(rng.standard_normal((5, 3)) + 2, jnp.float32)
    step = make_step(Normed(), loss, lstm_jax.adam(0.0), has_aux=True)
    state = step.init()
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        state, _ = step.many(step(state, x)[0], x[None])
        state, (value, more) = step(state, x)
        model = step.model(state)
        assert float(more["largest"]) == pytest.approx(float(model(x).max()), rel=1e-4)
    np.testing.assert_allclose(
        step.model(state).norm.mean[...], x.mean(0) * (1 - 0.99**3), rtol=1e-5
    )
    assert value > 0
    assert step.table == ""
    assert set(state.params) == {"norm/scale", "norm/bias", "head/kernel", "head/bias"}


class Pair(NamedTuple):
    """Pytree whose fields are not in the alphabetical order of their names."""

    second: jax.Array
    first: jax.Array


def test_a_pytree_of_parameters(peer_rules):
    """Steps on a pytree of parameters give the results of a plain loop with
    `optax.adam`, up to rounding.

    Leaves of equal shape keep their places in the pytree, although JAX sorts their
    names, for example "10" before "2".
    """
    params: Any = {
        "a": {"b": jnp.ones((2, 2))},
        "a-b": jnp.zeros((2, 2)),
        "c": Pair(jnp.full((2, 2), 2.0), jnp.full((2, 2), 3.0)),
        "d": [jnp.full((2, 2), float(n)) for n in range(12)],
        "e": {
            "table": jnp.asarray(rng.standard_normal((WORDS, FEATURES)), jnp.float32)
        },
    }

    def loss(params, ids, labels):
        scale = sum(
            1e-3 * n * leaf.sum() for n, leaf in enumerate(jax.tree.leaves(params)[:-1])
        )
        logits = jnp.take(params["e"]["table"], ids, axis=0).mean((1, 2)) * scale
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

    step = make_step(params, loss)
    state, optimizer = step.init(), optax.adam(1e-2)
    with peer_rules():
        moments = optimizer.init(params)
        for n in range(4):
            state, value = step(state, IDS[n], LABELS[n])
            want, gradient = jax.value_and_grad(loss)(params, IDS[n], LABELS[n])
            updates, moments = optimizer.update(gradient, moments)
            params = optax.apply_updates(params, updates)
            assert float(value) == pytest.approx(float(want), rel=1e-5)
    assert step.table == ("e/table" if "compiled" in BACKENDS else "")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
        step.model(state),
        params,
    )


@pytest.mark.slow
@pytest.mark.skipif(
    "compiled" not in BACKENDS,
    reason="no C++ compiler to build the row-sparse update with",
)
def test_a_state_goes_on_in_another_step():
    """The state that one step function made can be read and continued by other step
    functions.

    A function that has not seen a batch yet can read the state, and a function with
    dense updates can continue it. If rows of the embedding table still miss steps, the
    state can be neither read nor continued without compiled code. A state that is made
    without compiled code can later be continued with it.
    """

    def penalised(model, ids, labels):
        return mean(model, ids, labels) + 0 * (model.embed.embedding[...] ** 2).sum()

    one, other, dense = (make_step(loss=loss) for loss in (mean, mean, penalised))
    state = take(one, one.init(), *range(5))
    kept = jax.tree.map(jnp.copy, state)
    assert_near(other.model(state), one.model(state), 0)
    state, kept = take(other, state, 5), take(dense, kept, 5)
    assert kept.behind == {}
    assert_near(dense.model(kept), other.model(state), 2e-6)
    kept = take(one, kept, 6)
    assert "embed/embedding" in kept.behind
    with lstm_jax.compiled_code(False):
        for call in (one.model, lambda kept: take(one, kept, 7)):
            with pytest.raises(
                InputError,
                match=r"^training state: rows of embed/embedding have missed steps; ",
            ):
                call(kept)
        late = make_step()
        whole = take(late, late.init(), 0)
    assert (whole.behind, late.table) == ({}, "")
    take(late, whole, 1)
    assert late.table == "embed/embedding"


@pytest.mark.parametrize("caught_up", [True, False])
def test_a_restarted_optimizer(caught_up, x64, peer_rules):
    """If all rows catch up and the state of the optimiser is then made anew, further
    steps give the same parameters as with optax.

    If rows still miss steps when the state is made anew, the parameters are at least
    finite.
    """
    trained = {}
    for name, optimizer in (("ours", lstm_jax.adam(1e-2)), ("optax", optax.adam(1e-2))):
        with peer_rules():
            step = make_step(Classifier(param_dtype=jnp.float64), optimizer=optimizer)
            state = take(step, step.init(), *range(10))
            state = step.caught_up(state) if caught_up else state
            state = take(
                step,
                state._replace(opt_state=optimizer.init(state.params)),
                *range(10, 20),
            )
            trained[name] = step.model(state)
            step.model(step.caught_up(state))  # leaves the state valid
            take(step, step.caught_up(state), 0)
            assert_near(step.model(state), trained[name], 0)
    assert all(
        np.isfinite(value[...]).all() for value in _params(trained["ours"]).values()
    )
    if caught_up:
        assert_near(trained["ours"], trained["optax"], 1e-10)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": nnx.Dropout(0.5)}, "model: Dropout; it has no parameters"),
        (
            {"model": {"count": 3}},
            "parameter count: int; give a pytree of arrays of floats",
        ),
        ({"model": {"ids": jnp.arange(3)}}, r"parameter ids: int32\[3\]"),
        (
            {"model": {"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}},
            "model: dict; two parameters have the same path",
        ),
        ({"mesh": jax.make_mesh((2,), ("rows",))}, r"mesh: Mesh\("),
        ({"loss": "mse"}, "loss_fn: 'mse'"),
        ({"loss": lambda *given: (mean(*given), {})}, "loss: a pair"),
        ({"has_aux": True}, "loss: no pair"),
        ({"loss": lambda *given: 1.0}, "loss: float"),
        ({"loss": lambda model, ids, labels: ids.sum()}, r"loss: int32\[\]"),
        ({"loss": losses}, r"loss: float32\[4\]"),
    ],
)
def test_bad_input(options, message):
    def first_step():
        step = make_step(**options)
        take(step, step.init(), 0)

    with pytest.raises(InputError, match=f"^{message}"):
        first_step()


def test_a_state_is_used_once():
    step = make_step()
    take(step, state := step.init(), 0)
    with pytest.raises(InputError, match=r"^training state: used again"):
        take(step, state, 0)
