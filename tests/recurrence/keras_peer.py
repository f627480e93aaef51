"""Functions that run Keras' LSTM on a `Case`, with our dropout masks in place of those that Keras would draw."""

import jax
import jax.numpy as jnp
from cases import Arrays, Case, differentiate
from tables import DROPOUTS


def inject(cell, dropout) -> None:
    """Make a Keras cell use the masks in `dropout`: one for all gates in implementation 2, a list of four in implementation 1."""
    gates_share = cell.implementation == 2

    def form(mask):
        return mask if mask is None or gates_share else list(mask) if mask.ndim == 3 else [mask] * 4

    cell.get_dropout_mask = lambda step_input: form(dropout.input)
    cell.get_recurrent_dropout_mask = lambda step_input: form(dropout.recurrent)
    cell.activation = jnp.tanh  # Keras' own tanh on JAX rounds float64 to float32


def make_layer(keras, case: Case, dtype: str, **options):
    dropped = DROPOUTS[case.dropout]
    return keras.layers.LSTM(
        case.shape.units,
        return_sequences=case.return_sequences,
        return_state=True,
        go_backwards=case.backwards,
        zero_output_for_mask=case.zero_output,
        dropout=0.4 if dropped.input else 0.0,
        recurrent_dropout=0.4 if dropped.recurrent else 0.0,
        implementation=1 if dropped.per_gate else 2,
        use_cudnn=False,
        kernel_initializer="zeros",  # all weights are handed in
        recurrent_initializer="zeros",
        dtype=dtype,
        **options,
    )


def run_keras(keras, case: Case, arrays: Arrays, dtype: str, unroll: bool = False):
    """Return ((outputs, (h, c)), gradients with respect to params, x and initial state) of Keras' LSTM.

    Call this function in a context that the fixture `peer_rules` makes, since Keras' code needs JAX's standard promotion of dtypes.
    """
    layer = make_layer(keras, case, dtype, unroll=unroll)
    layer.build(arrays.x.shape)
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def function(params, x, state):
        inject(layer.cell, arrays.dropout)
        start = None if state is None else list(state)
        (outputs, h, c), _ = layer.stateless_call(list(params), fixed, x, initial_state=start, mask=arrays.mask, training=True)
        return outputs, (h, c)

    return differentiate(function, arrays.params, arrays.x, arrays.state)


def run_keras_bidirectional(keras, case: Case, pair: tuple[Arrays, Arrays], merge_mode: str | None, dtype: str):
    """Return ((outputs, states), gradients with respect to both params, x and both initial states) of Keras' `Bidirectional`.

    `pair` contains the arrays of the forward and of the backward layer. Both layers read the x and the mask of the forward layer.
    """
    ahead, back = pair
    layer = keras.layers.Bidirectional(make_layer(keras, case, dtype), merge_mode=merge_mode, dtype=dtype)
    layer.build(ahead.x.shape)
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def function(params, x, states):
        for one, arrays in ((layer.forward_layer, ahead), (layer.backward_layer, back)):
            inject(one.cell, arrays.dropout)
        start = None if states[0] is None else jax.tree.leaves(states)
        found, _ = layer.stateless_call(jax.tree.leaves(params), fixed, x, initial_state=start, mask=ahead.mask, training=True)
        outputs = tuple(found[:-4]) if merge_mode is None else found[0]
        return outputs, tuple(found[-4:])

    return differentiate(function, (ahead.params, back.params), ahead.x, (ahead.state, back.state))
