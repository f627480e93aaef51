"""Tests that `LSTM`, on each backend, `GRU`, `SimpleRNN` and `Bidirectional` have the
results and gradients of Keras' layers.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Arrays, Case, cases, differentiate, make_arrays, request, run_case
from flax import nnx
from hypothesis import example, given, settings
from tables import DROPOUTS, SHAPES, Shape, assert_close, precision, serving

from lstm_jax import GRU, LSTM, Bidirectional, Recurrent, SimpleRNN
from lstm_jax.training.parts import functional

LAYERS: dict[str, tuple[type[Recurrent], dict[str, Any]]] = {
    "lstm": (LSTM, {}),
    "gru": (GRU, {}),
    "gru_reset_before": (GRU, {"reset_after": False}),
    "simple_rnn": (SimpleRNN, {}),
}


def inject(cell, dropout) -> None:
    """Make a Keras cell use the masks in `dropout`: one for all gates, or a list of one
    for each gate in implementation 1.
    """

    def form(mask):
        if mask is None or getattr(cell, "implementation", 2) == 2:
            return mask[0] if mask is not None and mask.ndim == 3 else mask
        return (
            list(mask)
            if mask.ndim == 3
            else [mask] * (4 if type(cell).__name__ == "LSTMCell" else 3)
        )

    cell.get_dropout_mask = lambda step_input: form(dropout.input)
    cell.get_recurrent_dropout_mask = lambda step_input: form(dropout.recurrent)
    cell.activation = jnp.tanh  # Keras' own tanh on JAX rounds float64 to float32


def make_keras(keras, case: Case, dtype: str, cell: str = "lstm", **options):
    dropped = DROPOUTS[case.dropout]
    kind = {"lstm": keras.layers.LSTM, "simple_rnn": keras.layers.SimpleRNN}.get(
        cell, keras.layers.GRU
    )
    if cell != "simple_rnn":
        options |= {
            "use_cudnn": False,
            "implementation": 1 if dropped.per_gate or cell != "lstm" else 2,
        }
    options |= {"reset_after": cell == "gru"} if kind is keras.layers.GRU else {}
    return kind(
        case.shape.units,
        return_sequences=case.return_sequences,
        return_state=True,
        go_backwards=case.backwards,
        zero_output_for_mask=case.zero_output,
        dropout=0.4 if dropped.input else 0.0,
        recurrent_dropout=0.4 if dropped.recurrent else 0.0,
        kernel_initializer="zeros",  # all weights are handed in
        recurrent_initializer="zeros",
        dtype=dtype,
        **options,
    )


def run_keras(
    keras,
    case: Case,
    arrays: Arrays,
    dtype: str,
    cell: str = "lstm",
    unroll: bool = False,
):
    """Return ((outputs, state), gradients with respect to params, x and initial state)
    of Keras' layer, with our dropout masks.

    Call this function in a context that the fixture `peer_rules` makes, since Keras'
    code needs JAX's standard promotion of dtypes.
    """
    layer = make_keras(keras, case, dtype, cell, unroll=unroll)
    layer.build(arrays.x.shape)
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def function(params, x, state):
        inject(layer.cell, arrays.dropout)
        weights = (
            [*params[:2], jnp.stack(params[2:])] if cell == "gru" else list(params)
        )
        start = None if state is None else list(state)
        (outputs, *final), _ = layer.stateless_call(
            weights, fixed, x, initial_state=start, mask=arrays.mask, training=True
        )
        return outputs, tuple(final)

    return differentiate(function, arrays.params, arrays.x, arrays.state)


def run_layer(
    case: Case,
    arrays: Arrays,
    dtype: str,
    cell: str = "lstm",
    backend: str | None = None,
):
    """Return what `run_keras` returns, but for our layer."""
    kind, options = LAYERS[cell]
    layer = kind(
        case.shape.features,
        case.shape.units,
        return_sequences=case.return_sequences,
        return_state=True,
        go_backwards=case.backwards,
        zero_output_for_mask=case.zero_output,
        param_dtype=jnp.dtype(dtype),
        backend=backend,
        rngs=nnx.Rngs(0),
        **options,
    )
    made = functional(layer)

    def function(params, x, state):
        mask = arrays.mask
        if case.time_major:
            x, mask = jnp.swapaxes(x, 0, 1), None if mask is None else mask.T
        options = {
            "initial_state": state,
            "dropout": arrays.dropout,
            "time_major": case.time_major,
        }
        outputs, final = made.rebuild(params._asdict())(x, mask=mask, **options)
        return jnp.swapaxes(
            outputs, 0, 1
        ) if case.time_major and case.return_sequences else outputs, tuple(final)

    return differentiate(function, arrays.params, arrays.x, arrays.state)


def compare(keras, peer_rules, case: Case, dtype: str, cell: str = "lstm") -> None:
    with precision(dtype):
        arrays = make_arrays(case, dtype, cell)
        # before the first valid step, Keras' scan outputs the initial h and its loop
        # zeros; see test_before_the_first_valid_step
        gaps = (
            case.mask not in ("none", "all valid")
            and case.initial_state
            and not case.zero_output
        )
        with peer_rules():
            want = run_keras(keras, case, arrays, dtype, cell, unroll=gaps)
        for backend in serving(dtype, **request(case)) if cell == "lstm" else (None,):
            assert_close(
                run_layer(case, arrays, dtype, cell, backend),
                want,
                dtype,
                f"{cell} {backend} {case} ",
            )


@pytest.mark.slow(keep=3)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", LAYERS)
def test_layers(keras, peer_rules, cell: str, dtype: str) -> None:
    @settings(max_examples=3)
    @given(cases)
    @example(Case(mask="gaps", dropout="both, per gate", backwards=True))
    @example(
        Case(
            mask="an empty row",
            dropout="recurrent, shared",
            return_sequences=False,
            initial_state=False,
        )
    )
    def check(case: Case) -> None:
        compare(keras, peer_rules, case, dtype, cell)

    check()


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize(
    "dropout", [name for name, row in DROPOUTS.items() if row.input or row.recurrent]
)
def test_each_kind_of_dropout(keras, peer_rules, dropout: str) -> None:
    compare(keras, peer_rules, Case(SHAPES[2], dropout=dropout), "float64")


def test_before_the_first_valid_step(keras, peer_rules) -> None:
    """Our outputs before the first valid step are zeros, as those of Keras with
    `unroll=True`.

    Keras with `unroll=False` outputs the initial h there. Our final states equal those
    of Keras in both cases.
    """
    case = Case(Shape(2, 3, 3, 2), mask="leading", seed=1)
    arrays = make_arrays(case)._replace(
        mask=jnp.asarray([[False, False, True], [False, False, False]])
    )
    with peer_rules():
        (scanned, scanned_state), _ = run_keras(keras, case, arrays, "float32")
        (looped, looped_state), _ = run_keras(
            keras, case, arrays, "float32", unroll=True
        )
    outputs, state = run_case(case, arrays, "hoisted")
    assert_close((outputs, tuple(state)), (looped, looped_state), "float32")
    assert_close(tuple(state), scanned_state, "float32")
    np.testing.assert_array_equal(outputs[:, :2], 0)
    np.testing.assert_array_equal(outputs[1], 0)
    h = jnp.broadcast_to(arrays.state.h[:, None], (2, 2, 2))
    assert_close(scanned[:, :2], h, "float32")


BOTH_WAYS = [
    ("concat", Case(mask="gaps", dropout="both, per gate", initial_state=False)),
    ("concat", Case(mask="leading", return_sequences=False, initial_state=False)),
    ("sum", Case(mask="trailing", dropout="input, shared")),
    ("sum", Case(return_sequences=False)),
    ("ave", Case(mask="an empty row")),
    ("ave", Case(dropout="recurrent, per gate", return_sequences=False)),
    ("mul", Case(SHAPES[1])),
    ("mul", Case(mask="nothing valid", initial_state=False, return_sequences=False)),
    (None, Case(mask="gaps", dropout="both, shared")),
    (None, Case(mask="trailing", return_sequences=False, initial_state=False)),
]


def run_keras_bidirectional(
    keras, case: Case, pair: tuple[Arrays, Arrays], merge_mode: str | None, dtype: str
):
    """Return ((outputs, states), gradients with respect to both params, x and both
    initial states) of Keras' `Bidirectional`.

    `pair` contains the arrays of the forward and of the backward layer. Both layers
    read the x and the mask of the forward layer.
    """
    ahead, back = pair
    layer = keras.layers.Bidirectional(
        make_keras(keras, case, dtype), merge_mode=merge_mode, dtype=dtype
    )
    layer.build(ahead.x.shape)
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def function(params, x, states):
        for one, arrays in ((layer.forward_layer, ahead), (layer.backward_layer, back)):
            inject(one.cell, arrays.dropout)
        start = None if states[0] is None else jax.tree.leaves(states)
        found, _ = layer.stateless_call(
            jax.tree.leaves(params),
            fixed,
            x,
            initial_state=start,
            mask=ahead.mask,
            training=True,
        )
        outputs = tuple(found[:-4]) if merge_mode is None else found[0]
        return outputs, tuple(found[-4:])

    return differentiate(
        function, (ahead.params, back.params), ahead.x, (ahead.state, back.state)
    )


@pytest.mark.slow(keep=3)
@pytest.mark.parametrize(("merge_mode", "case"), BOTH_WAYS)
def test_bidirectional(keras, peer_rules, merge_mode: str | None, case: Case) -> None:
    dtype = "float64" if case.mask == "gaps" else "float32"
    with precision(dtype):
        pair = (
            make_arrays(case, dtype),
            make_arrays(case._replace(seed=case.seed + 1), dtype),
        )
        with peer_rules():
            want = run_keras_bidirectional(keras, case, pair, merge_mode, dtype)
        layer = Bidirectional(
            case.shape.features,
            case.shape.units,
            merge_mode=merge_mode,
            return_sequences=case.return_sequences,
            return_state=True,
            param_dtype=jnp.dtype(dtype),
            rngs=nnx.Rngs(0),
        )
        made = functional(layer)

        def function(params, x, states):
            named = {
                f"{way}/{n}": a
                for way, one in zip(("forward", "backward"), params, strict=True)
                for n, a in one._asdict().items()
            }
            outputs, (ahead, back) = made.rebuild(named)(
                x,
                mask=pair[0].mask,
                initial_state=None if states[0] is None else states,
                dropout=(pair[0].dropout, pair[1].dropout),
            )
            return outputs, (*ahead, *back)

        got = differentiate(
            function,
            (pair[0].params, pair[1].params),
            pair[0].x,
            (pair[0].state, pair[1].state),
        )
        assert_close(got, want, dtype, f"{merge_mode} {case} ")


def test_keras_own_masks(keras, peer_rules) -> None:
    """With the masks that Keras has drawn, our outputs equal those of Keras.

    By default, Keras draws one input mask and one recurrent mask per gate, which are
    constant over time. Our layer draws masks of the same shapes.
    """
    case = Case(dropout="both, per gate")
    arrays = make_arrays(case)
    with peer_rules():
        zeros = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}
        layer = keras.layers.LSTM(
            case.shape.units,
            dropout=0.3,
            recurrent_dropout=0.3,
            return_sequences=True,
            seed=3,
            **zeros,
        )
        layer.build(arrays.x.shape)
        for variable, value in zip(
            layer.trainable_variables, arrays.params, strict=True
        ):
            variable.assign(value)
        drawn = []
        reset = layer.cell.reset_dropout_mask

        def note() -> None:
            drawn.append((layer.cell._dropout_mask, layer.cell._recurrent_dropout_mask))
            reset()

        layer.cell.reset_dropout_mask = note
        want = layer(arrays.x, initial_state=list(arrays.state), training=True)
    input_mask, recurrent_mask = (jnp.stack(masks) for masks in drawn[-1])
    assert input_mask.shape == (4, 5, 3)
    assert recurrent_mask.shape == (4, 5, 5)
    ours = LSTM(
        3,
        5,
        dropout=0.3,
        recurrent_dropout=0.3,
        return_sequences=True,
        rngs=nnx.Rngs(0),
    )
    drawn_by_us = ours.draw_masks(5, jax.random.key(0))
    assert (drawn_by_us.input.shape, drawn_by_us.recurrent.shape) == (
        input_mask.shape,
        recurrent_mask.shape,
    )
    masks = type(arrays.dropout)(input_mask, recurrent_mask)
    outputs, _ = run_case(case, arrays._replace(dropout=masks), "hoisted")
    assert_close(outputs, want, "float32")
