"""Benchmark of Haiku: hk.dynamic_unroll over hk.LSTM.

Haiku has one kernel for the concatenation [x, h], orders the gates as i, g, f, o, and
adds 1 to the preactivation of the forget gate.
"""

from typing import Any

import haiku as hk  # pyright: ignore[reportMissingImports]
import numpy as np

from bench.peers import jax_step
from bench.peers.base import Built, Options
from bench.workloads import Arrays, Workload, in_layer

FORGET = 1.0
NAMES = {"kernel": "w", "bias": "b", "embedding": "embeddings"}


def _reordered(array: np.ndarray) -> np.ndarray:
    i, second, third, o = np.split(np.asarray(array), 4, axis=-1)
    return np.concatenate([i, third, second, o], axis=-1)


def _forget(units: int) -> np.ndarray:
    return np.repeat(np.array([0, FORGET, 0, 0], np.float32), units)


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    lstm, units = arrays.cell(), work.units
    w = _reordered(np.concatenate([lstm["kernel"], lstm["recurrent_kernel"]]))
    tree = {"lstm/linear": {"w": w, "b": _reordered(lstm["bias"] - _forget(units))}}
    tree |= {
        layer: {NAMES[part]: array for part, array in parts.items()}
        for layer, parts in jax_step.outer(arrays).items()
    }

    def net(x, train):
        if work.words:
            x = hk.Embed(work.vocabulary, work.features, name="embedding")(x)
            # one mask for all words of a review, as in Keras
            if train and options.dropout:
                x = hk.dropout(
                    hk.next_rng_key(), options.dropout, x, broadcast_dims=(1,)
                )
        core = hk.LSTM(units, name="lstm")
        result: Any = hk.dynamic_unroll(
            core, x, core.initial_state(x.shape[0]), time_major=False
        )
        outputs, state = result
        if not work.classes:
            return outputs
        return hk.Linear(work.classes, name="head")(state.hidden)

    apply = hk.transform(net).apply

    def to_ours(tree):
        w, b = (
            _reordered(tree["lstm/linear"]["w"]),
            _reordered(tree["lstm/linear"]["b"]),
        )
        # a gradient does not depend on the constant
        b = b if work.kind == "recurrence" else b + _forget(units)
        rest = {
            layer: {ours: tree[layer][NAMES[ours]] for ours in parts}
            for layer, parts in jax_step.outer(arrays).items()
        }
        return in_layer(
            {
                "kernel": w[: work.features],
                "recurrent_kernel": w[work.features :],
                "bias": b,
            }
        ) | jax_step.flat(rest)

    def forward(params, x, key):
        return apply(params, key, x, key is not None)

    return jax_step.build(work, arrays, tree, forward, to_ours)
