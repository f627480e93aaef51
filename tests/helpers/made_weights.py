"""Random weights in the layout of this project, a comparison of arrays bit by bit, and
a check that weights are refused.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import Phase, settings
from hypothesis import strategies as st

from lstm_jax import convert
from lstm_jax.base.errors import InputError

SIZES = st.sampled_from([1, 2, 3, 5, 7])
SHAPES = st.tuples(SIZES, SIZES, SIZES, SIZES)  # B, T, E, H
# A peer compiles anew for each shape, so that shrinking a failure would take minutes.
FEW = settings(max_examples=3, deadline=None, derandomize=True, phases=[Phase.generate])


def assert_same(got, want, ordered: bool = True) -> None:
    """Check that two trees of arrays have equal keys (in equal order, if `ordered`),
    dtypes, shapes and bits.
    """
    if isinstance(want, dict):
        assert list(got) == list(want) if ordered else set(got) == set(want)
        for key in want:
            assert_same(got[key], want[key], ordered)
    elif isinstance(want, list | tuple):
        assert len(got) == len(want)
        for array, wanted in zip(got, want, strict=True):
            assert_same(array, wanted, ordered)
    else:
        assert (got.dtype, got.shape, got.tobytes()) == (
            want.dtype,
            want.shape,
            want.tobytes(),
        )


def assert_subject(call, subject: str) -> None:
    """Check that a call raises an error with the given subject."""
    with pytest.raises(InputError) as refused:
        call()
    assert refused.value.subject == subject


def assert_refused(layer, weights, subject: str) -> None:
    """Check that `convert.load` refuses weights with an error with the given subject,
    and leaves the layer unchanged.
    """
    before = [
        np.asarray(array) for array in jax.tree.leaves(nnx.state(layer, nnx.Param))
    ]
    assert_subject(lambda: convert.load(layer, weights), subject)
    assert_same(
        [np.asarray(array) for array in jax.tree.leaves(nnx.state(layer, nnx.Param))],
        before,
    )


def edited(arrays, **change):
    """Return a copy of a dict: `head__bias=array` sets the key "head/bias", and
    `head__bias=None` removes this key.
    """
    changed = arrays | {
        name.replace("__", "/"): array for name, array in change.items()
    }
    return {name: array for name, array in changed.items() if array is not None}


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng([seed, *shape]).normal(0, 0.6, shape).astype(dtype)


def randomized(module):
    """Set all parameters of a module to random values, and return it. If the biases
    were zeros, exchanged gates would not be noticed.
    """
    for number, (_, variable) in enumerate(
        nnx.to_flat_state(nnx.state(module, nnx.Param))
    ):
        variable[...] = jnp.asarray(normal(number, *variable.shape))
    return module


def random_lstm(features, units, seed=0, dtype=np.float32):
    shapes = {
        "kernel": (features, 4 * units),
        "recurrent_kernel": (units, 4 * units),
        "bias": (4 * units,),
    }
    return {
        name: normal(seed + place, *shape, dtype=dtype)
        for place, (name, shape) in enumerate(shapes.items())
    }


def random_pair(features, units, seed=0):
    return {
        "forward": random_lstm(features, units, seed),
        "backward": random_lstm(features, units, seed + 10),
    }


def random_model(
    kinds=("lstm",), vocabulary=11, features=3, units=4, outputs=1, tied=False
):
    """Return the flat dict of a model. With `features=0` its input is one-hot, and if
    it is tied, its head has no kernel.
    """
    model, width = (
        ({"embedding/embedding": normal(1, vocabulary, features)}, features)
        if features
        else ({}, vocabulary)
    )
    for number, kind in enumerate(kinds):
        parts = (
            {"": random_lstm(width, units, number)}
            if kind == "lstm"
            else random_pair(width, units, number)
        )
        for part, arrays in parts.items():
            model |= {
                "/".join(filter(None, ("recurrent", str(number), part, name))): array
                for name, array in arrays.items()
            }
        width = units * len(parts)
    return (
        model
        | ({} if tied else {"head/kernel": normal(2, width, outputs)})
        | {"head/bias": normal(3, outputs)}
    )
