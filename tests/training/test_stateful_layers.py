"""Training of models with stateful layers."""

import jax
import numpy as np
import pytest
from flax import nnx

import lstm_jax
from lstm_jax.base.errors import InputError


def test_a_stateful_layer():
    """Training steps hand the state of a stateful layer to the next step, and give the
    losses of a plain loop with `nnx.Optimizer`.

    A stateful layer that has no state yet, because it has not been called on a batch,
    is refused.
    """

    class Stateful(nnx.Module):
        def __init__(self, learned=False):
            self.rnn = lstm_jax.LSTM(
                3, 4, stateful=True, learned_state=learned, rngs=nnx.Rngs(0)
            )

        def __call__(self, x):
            return self.rnn(x)

    def loss(model, x):
        return (model(x) ** 2).mean()

    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    for learned in (False, True):
        other = "" if learned else ", or reset_state"
        refused = (
            r"^stateful layer rnn: carries no state yet; call the model once on "
            rf"a batch{other}$"
        )
        model, adam = Stateful(learned), lstm_jax.adam(1e-2)
        for function, arrays in (
            (lstm_jax.make_train_step, ()),
            (lstm_jax.fit, ([x],)),
        ):
            with pytest.raises(InputError, match=refused):
                function(model, loss, adam, *arrays)
        model(x)
        optimizer, found, want = nnx.Optimizer(model, adam, wrt=nnx.Param), [], []
        step = lstm_jax.make_train_step(model, loss, adam)
        state = step.init()
        for batch in (x, 2 * x, x[::-1]):
            state, value = step(state, batch)
            found.append(value)
            value, gradients = nnx.value_and_grad(loss)(model, batch)
            optimizer.update(model, gradients)
            want.append(value)
        np.testing.assert_allclose(found, want, rtol=1e-5)


def test_outputs_are_not_the_carried_arrays():
    """A caller may donate the variables of a stateful layer after a call, and still
    read the outputs and the state of that call.
    """
    layer = lstm_jax.LSTM(3, 4, stateful=True, return_state=True, rngs=nnx.Rngs(0))
    outputs, state = layer(jax.random.normal(jax.random.key(0), (2, 5, 3)))
    for variable in layer.carried:
        variable[...].delete()
    assert np.isfinite(outputs).all()
    assert np.isfinite(state.c).all()
