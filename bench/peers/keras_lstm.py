"""Benchmark of Keras 3 on the backend that the environment variable KERAS_BACKEND
names.

The models of the Keras examples are trained with `fit`. The time of a training step is
the duration of a call of `fit` on many batches, divided by the number of batches. The
time thus includes a share of the time that `fit` needs to start.

On JAX, the workload "recurrence" times a forward and backward pass of a single layer,
and the option `backend` may be "accelerated": then
`lstm_jax.convert.keras_layers.accelerate` replaces the recurrent layers of the model.
"""

import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

import keras
import numpy as np

from bench.peers.base import Built, Options, comparable, evaluation
from bench.workloads import Arrays, Workload, in_layer
from lstm_jax import convert
from lstm_jax.base.errors import require
from lstm_jax.lab.generation import data

REPEATED = (
    "Adam squares the gradients of a word's places in the batch before it adds "
    "them, so that words that repeat move otherwise"
)
ACCELERATED = "accelerated"
LAYERS: Any = {
    "lstm": keras.layers.LSTM,
    "gru": keras.layers.GRU,
    "simple_rnn": keras.layers.SimpleRNN,
}


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    keras.utils.set_random_seed(0)
    require(
        options.backend in (None, ACCELERATED),
        "keras_jax: backend",
        options.backend,
        f"give {ACCELERATED}, or none",
    )
    return (
        _recurrence(work, arrays, options.backend)
        if work.kind == "recurrence"
        else _training(work, arrays, options)
    )


def _devices() -> list[str]:
    device: Any = keras.ops.ones(1)
    platform = (
        "gpu" if re.search("cuda|gpu", str(device.device), re.IGNORECASE) else "cpu"
    )
    return [f"{platform}, Keras on {keras.backend.backend()}"]


def make_model(
    work: Workload,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    backend: str | None = None,
) -> Any:
    """Return the compiled model of the Keras example imdb_lstm (for word ids) or
    lstm_text_generation, with the sizes of a workload.
    """
    words = work.words
    layers = [
        keras.Input((work.length,), dtype="int32")
        if words
        else keras.Input((work.length, work.vocabulary)),
        *([keras.layers.Embedding(work.vocabulary, work.features)] if words else []),
        keras.layers.LSTM(
            work.units, dropout=dropout, recurrent_dropout=recurrent_dropout
        ),
        keras.layers.Dense(work.classes, activation="sigmoid" if words else "softmax"),
    ]
    model: Any = keras.Sequential(layers)
    if backend:
        from lstm_jax.convert.keras_layers import accelerate

        model = accelerate(model, verbose=False)
    loss, metrics = (
        ("binary_crossentropy", ["accuracy"])
        if words
        else ("categorical_crossentropy", None)
    )
    # the default epsilon of Keras' Adam is 1e-7, as in our Adam
    model.compile(loss=loss, optimizer="adam", metrics=metrics)
    return model


def _training(work: Workload, arrays: Arrays, options: Options) -> Built:
    words = work.words
    to_keras = convert.sentiment_to_keras if words else convert.generation_to_keras
    from_keras = (
        convert.sentiment_from_keras if words else convert.generation_from_keras
    )
    x, y = (
        (arrays.inputs, arrays.targets)
        if words
        else data.one_hot(arrays.inputs, arrays.targets, work.vocabulary)
    )
    first = x[: work.batch], y[: work.batch]

    def start(*rates):
        model = make_model(work, *rates, backend=options.backend)
        model.set_weights(to_keras(arrays.weights))
        return model

    def logits(model, x):
        p = model.predict(x, batch_size=work.batch, verbose="0").astype(np.float64)
        return comparable(work, np.log(p) - (np.log1p(-p) if words else 0))

    model = start(options.dropout, options.recurrent_dropout)
    if work.kind == "evaluation":
        return evaluation(work, lambda: logits(model, x), devices=_devices())

    @lru_cache(maxsize=1)
    def rows(count):
        numbers = np.arange(count * work.batch) % (work.batches * work.batch)
        return x[numbers], y[numbers]

    def run(count):
        model.fit(*rows(count), batch_size=work.batch, shuffle=False, verbose="0")

    def after_one_step():
        model = start()
        loss = np.ravel(model.train_on_batch(*first))[0]
        return from_keras([np.asarray(array) for array in model.get_weights()]) | {
            "loss": np.asarray(loss)
        }

    note, excluded = "", {}
    if words and keras.backend.backend() == "tensorflow":
        seen = np.bincount(first[0].ravel(), minlength=work.vocabulary)
        note, excluded = REPEATED, {"embedding/embedding": seen > 1}
    return Built(
        run,
        lambda: logits(start(), first[0]),
        after_one_step,
        "keras",
        _devices(),
        note,
        options.backend or "",
        1.0,
        excluded,
    )


def _recurrence(work: Workload, arrays: Arrays, backend: str | None) -> Built:
    from bench.peers import jax_step

    layer: Any = LAYERS[work.cell](work.units, return_sequences=True)
    if backend:
        from lstm_jax.convert import keras_layers as accelerated

        layer = getattr(accelerated, type(layer).__name__).from_config(
            layer.get_config()
        )
    layer.build((work.batch, work.length, work.features))
    layer.set_weights(convert.cell_to_keras(work.cell, arrays.cell()))

    def to_ours(gradients):
        return in_layer(
            convert.cell_from_keras(work.cell, list(map(np.asarray, gradients)))
        )

    weights, others = (
        [variable.value for variable in group]
        for group in (layer.trainable_variables, layer.non_trainable_variables)
    )
    built = jax_step.build(
        work,
        arrays,
        weights,
        lambda weights, x, key: layer.stateless_call(weights, others, x)[0],
        to_ours,
    )
    return replace(built, devices=_devices(), backend=backend or "")
