"""Functions that run workloads (training, evaluation or the recurrence alone) with the JAX model of any library.

The benchmarks of Equinox, Flax, Haiku, jax.experimental.rnn and lax.scan share them. A training step is one jit-compiled function that
donates its state. All steps run on JAX's default device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from bench.peers.base import Built, comparable, evaluation
from bench.workloads import Arrays, Workload, one_hot


@dataclass(frozen=True)
class Model:
    """Model of a benchmarked library as parameters and a pure forward function.

    Shapes: batch B, steps T, features E, hidden size H, vocabulary V.

    Attributes:
        params: pytree of parameters in the library's own structure.
        forward: forward(params, inputs, key) returns logits (B,) for word ids (B, T), logits (B, V) for one-hot characters (B, T, V), or
            the outputs h (B, T, H) of the recurrent layer for inputs x (B, T, E). If the key is None, dropout is off.
        to_ours: to_ours(tree) converts a pytree with the structure of `params` (weights or gradients) to a dict with the names and layout
            of `bench.workloads.Arrays.weights`.
        note: what this library computes differently from this project, or "".
    """

    params: Any
    forward: Callable[[Any, jax.Array, jax.Array | None], jax.Array]
    to_ours: Callable[[Any], dict[str, np.ndarray]]
    note: str = ""


def build(work: Workload, arrays: Arrays, model: Model) -> Built:
    """Prepare a benchmark workload, such as a training step, for a JAX model, and return functions that run it; see `base.Built`."""
    if work.kind == "evaluation":
        return _evaluation(work, arrays, model)
    return _recurrence(arrays, model) if work.kind == "recurrence" else _training(work, arrays, model)


def _devices() -> list[str]:
    return [f"{jax.devices()[0].platform}:{jax.devices()[0].device_kind}"]


def _recurrence(arrays: Arrays, model: Model) -> Built:
    x, cotangent = jax.device_put((arrays.inputs, arrays.targets))
    params = jax.tree.map(jax.numpy.asarray, model.params)

    @jax.jit
    def step(params, x, cotangent):
        h, back = jax.vjp(lambda params, x: model.forward(params, x, None), params, x)
        return h, back(cotangent)

    def run(count: int) -> None:
        result: Any = None
        for _ in range(count):
            result = step(params, x, cotangent)
        jax.block_until_ready(result)

    def gradients() -> dict[str, np.ndarray]:
        by_params, by_x = step(params, x, cotangent)[1]
        return model.to_ours(by_params) | {"x": np.asarray(by_x)}

    return Built(run, lambda: np.asarray(step(params, x, cotangent)[0]), gradients, "corrected", _devices(), model.note)


def _evaluation(work: Workload, arrays: Arrays, model: Model) -> Built:
    params = jax.tree.map(jax.numpy.asarray, model.params)
    spare = np.zeros((-len(arrays.inputs) % work.batch, work.length), arrays.inputs.dtype)
    batches = jax.device_put(np.concatenate([arrays.inputs, spare]).reshape(-1, work.batch, work.length))
    forward = jax.jit(lambda params, ids: model.forward(params, ids, None))

    def evaluate() -> np.ndarray:
        return np.concatenate([np.asarray(logits) for logits in [forward(params, batch) for batch in batches]])[: len(arrays.inputs)]

    return evaluation(work, evaluate, _devices(), model.note)


def _training(work: Workload, arrays: Arrays, model: Model) -> Built:
    optimizer = optax.adam(1e-3, eps=1e-7)
    inputs = arrays.inputs if work.words else one_hot(arrays.inputs, work.vocabulary)
    batches = [jax.device_put(pair) for pair in zip(np.split(inputs, work.batches), np.split(arrays.targets, work.batches), strict=True)]

    def loss(params, inputs, targets, key):
        logits = model.forward(params, inputs, key)
        if work.words:
            return optax.sigmoid_binary_cross_entropy(logits, targets.astype(logits.dtype)).mean()
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def make(dropout: bool):
        def step(state, inputs, targets):
            params, opt_state, number = state
            key = jax.random.fold_in(jax.random.key(0), number) if dropout else None
            value, gradient = jax.value_and_grad(loss)(params, inputs, targets, key)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state, number + 1), value

        return jax.jit(step, donate_argnums=0)

    def start():
        params = jax.tree.map(lambda array: jax.numpy.array(array, copy=True), model.params)
        return params, optimizer.init(params), jax.numpy.zeros((), jax.numpy.int32)

    step, state, taken = make(bool(work.dropout)), start(), 0

    def run(count: int) -> None:
        nonlocal state, taken
        for _ in range(count):
            state, _ = step(state, *batches[taken % work.batches])
            taken += 1
        jax.block_until_ready(state)

    def outputs() -> np.ndarray:
        return comparable(work, np.asarray(jax.jit(model.forward, static_argnums=2)(model.params, batches[0][0], None)))

    def after_one_step() -> dict[str, np.ndarray]:
        (params, _, _), value = make(False)(start(), *batches[0])
        return model.to_ours(params) | {"loss": np.asarray(value)}

    return Built(run, outputs, after_one_step, "corrected", _devices(), model.note)
