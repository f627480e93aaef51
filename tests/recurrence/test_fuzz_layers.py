"""Random calls of layers: each gives the outputs of `reference`, or an `InputError` if an operand is wrong; see test_fuzz.py."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_calls import Call, Drawing, draw_state, draw_valid, draw_x, mostly
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import BACKENDS, Shape
from test_fuzz import ANY, EXAMPLES, attempt, compare, forget_programs

from lstm_jax import GRU, LSTM, Bidirectional, RecurrentStack, SimpleRNN, unroll

pytestmark = pytest.mark.usefixtures("quick_compiles")

SHAPE = Shape(3, 4, 2, 5)
KINDS = ("LSTM", "GRU", "GRU, reset before", "SimpleRNN", "Bidirectional", "RecurrentStack")


@functools.cache
def make(kind: str) -> Any:
    rngs, sizes = nnx.Rngs(0), (SHAPE.features, SHAPE.units)
    match kind:
        case "LSTM":
            return LSTM(*sizes, rngs=rngs)
        case "GRU":
            return GRU(*sizes, rngs=rngs)
        case "GRU, reset before":
            return GRU(*sizes, reset_after=False, rngs=rngs)
        case "SimpleRNN":
            return SimpleRNN(*sizes, rngs=rngs)
        case "Bidirectional":
            return Bidirectional(*sizes, rngs=rngs)
        case _:
            return RecurrentStack([Bidirectional(*sizes, return_sequences=True, rngs=rngs), LSTM(2 * SHAPE.units, 3, rngs=rngs)])


def wanted(layer: Any, x: jax.Array, state: Any, valid: np.ndarray | None) -> jax.Array:
    """Return the outputs of a layer for x (B, T, E), computed by the backend `reference`."""
    if isinstance(layer, RecurrentStack):
        return wanted(layer.layers[1], wanted(layer.layers[0], x, None, valid), None, valid)
    if isinstance(layer, Bidirectional):
        sides = [wanted(side, x, None, valid) for side in (layer.forward, layer.backward)]
        sides[1] = jnp.flip(sides[1], 1) if layer.return_sequences else sides[1]
        return jnp.concatenate(sides, -1)
    options = {name: getattr(layer, name) for name in ("return_sequences", "zero_output_for_mask")}
    return unroll(layer.row, layer.cell_params(), x, state, mask=valid, backwards=layer.go_backwards, backend="reference", **options)[0]


def sides_of(layer: Any) -> list[Any]:
    if isinstance(layer, RecurrentStack):
        return [side for part in layer.layers for side in sides_of(part)]
    return [layer.forward, layer.backward] if isinstance(layer, Bidirectional) else [layer]


def draw_options(on: Drawing, layer: Any) -> None:
    for side in sides_of(layer):
        side.backend = on.one(None, *BACKENDS) if side.row.name == "lstm" else on.one(None, "reference")
        side.remat = on.draw(mostly(None, "sqrt", 2, share=6))
    last = layer.layers[-1] if isinstance(layer, RecurrentStack) else layer
    sequences = on.one(False, True)
    last.return_sequences = sequences
    for side in sides_of(last):
        side.return_sequences = sequences
        if not isinstance(last, Bidirectional):
            side.zero_output_for_mask, side.go_backwards = on.one(False, True), on.one(False, True)
        else:
            side.zero_output_for_mask = sequences


def damaged(on: Drawing, layer: Any, call: Call):
    """Replace a parameter of the layer by one of another shape or dtype with `nnx.update`.

    Return the arguments with which `nnx.update` restores the original parameter.
    """
    side = sides_of(layer)[0]
    name = on.one("kernel", "recurrent_kernel", "bias")
    usual = getattr(side, name)[...]
    wrong = on.one(usual.T, usual[..., :-1], usual[None], usual.astype(jnp.bfloat16), usual.astype(jnp.int32))
    if wrong.shape != usual.shape or wrong.dtype != usual.dtype:
        call.wrong = call.wrong or f"params.{name}"
        nnx.update(side, {name: wrong})
    return side, {name: usual}


def check_layer(on: Drawing) -> None:
    layer = make(kind := on.one(*KINDS))
    single = kind not in KINDS[-2:]
    call, time_major = Call(layer.row.name if single else "lstm", {}), on.one(False, True)
    draw_options(on, layer)
    valid = draw_valid(on, call, SHAPE, False, time_major)
    draw_x(on, call, SHAPE, "float32", False, valid, time_major)
    if single:
        draw_state(on, call, SHAPE, "float32", False)
    restored = damaged(on, layer, call) if on.draw(mostly(False, True, share=10)) else None
    x = call.given.pop("x")
    got, refusal = attempt(lambda: layer(x, time_major=time_major, **call.given))
    if restored:
        nnx.update(*restored)
    if refusal:
        assert call.wrong or (call.outside and refusal.subject == "x"), f"refused: {refusal}"
        return
    if call.is_another_call():
        assert call.x_sizes is not None
        rows, steps = call.x_sizes
        lead = got.shape[1::-1] if time_major and got.ndim == 3 else got.shape[:-1]
        assert lead in (((rows, steps), (rows,)) if rows else ((steps,), ()))
        return
    assert not call.wrong, f"accepted: {call.wrong}"
    want = wanted(layer, jnp.asarray(call.clean["x"]), call.clean.get("initial_state"), valid)
    compare(jnp.swapaxes(got, 0, 1) if time_major and got.ndim == 3 else got, want, 2e-5)


@pytest.mark.slow
def test_layers(unchecked: None) -> None:
    count = itertools.count(1)

    @settings(ANY, max_examples=EXAMPLES)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        forget_programs(next(count))
        with jax.disable_jit():
            check_layer(Drawing(data))

    for kind in KINDS:
        make(kind)
    check()
