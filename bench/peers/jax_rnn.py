"""Benchmark of jax.experimental.rnn, which is cuDNN's LSTM and needs a GPU."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import rnn

from bench.peers import jax_step
from bench.peers.base import Built, Options
from bench.workloads import LAYER, Arrays, Workload, in_layer

BIASES = "two biases, each with a step of its own"


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Prepare a workload in jax.experimental.rnn, and return functions that run it; see
    `base.Built`.
    """
    weights, units = arrays.weights, work.units
    lstm = arrays.cell()
    # cuDNN takes a flat array: both kernels transposed, the bias, and a second bias of
    # zeros
    parts = (
        lstm["kernel"].T,
        lstm["recurrent_kernel"].T,
        lstm["bias"],
        np.zeros_like(lstm["bias"]),
    )
    tree = {"lstm": np.concatenate([part.ravel() for part in parts])} | {
        name: array for name, array in weights.items() if not name.startswith(LAYER)
    }

    def forward(params, x, key):
        if work.words:
            x = jnp.take(params["embedding/embedding"], x, axis=0)
            if key is not None:  # one mask for all words of a review, as in Keras
                mask = jax.random.bernoulli(
                    key, 1 - options.dropout, (len(x), 1, x.shape[2])
                )
                x = jnp.where(mask, x / (1 - options.dropout), 0)
        zeros = jnp.zeros((1, len(x), units), x.dtype)
        lengths = jnp.full(len(x), x.shape[1], jnp.int32)
        result: Any = rnn.lstm(
            x,
            zeros,
            zeros,
            params["lstm"],
            lengths,
            x.shape[2],
            units,
            1,
            0.0,
            False,
            None,
        )
        outputs, h, _ = result
        if not work.classes:
            return outputs
        return h[0] @ params["head/kernel"] + params["head/bias"]

    def to_ours(tree):
        rest = {
            name: np.asarray(array) for name, array in tree.items() if name != "lstm"
        }
        unpacked = rnn.unpack_lstm_weights(
            jnp.asarray(tree["lstm"]), work.features, units, 1, False
        )
        kernel, recurrent, bias, _ = (np.asarray(part[0]) for part in unpacked)
        return (
            in_layer(
                {"kernel": kernel.T, "recurrent_kernel": recurrent.T, "bias": bias}
            )
            | rest
        )

    built = jax_step.build(work, arrays, tree, forward, to_ours)
    return replace(built, note=BIASES)
