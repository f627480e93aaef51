"""Functions that run workloads (training, evaluation or the recurrence alone) with the
JAX model of any library.

The benchmarks of Equinox, Flax, Haiku and lax.scan share them. A training step is one
jit-compiled function that donates its state. All steps run on JAX's default device.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench.peers.base import Built, batches_of_ids, evaluation, layer, training
from bench.workloads import LAYER, Arrays, Weights, Workload


def build(
    work: Workload,
    arrays: Arrays,
    params: Any,
    forward: Callable[[Any, jax.Array, jax.Array | None], jax.Array],
    to_ours: Callable[[Any], Weights],
) -> Built:
    """Prepare a benchmark workload, such as a training step, for a JAX model, and
    return functions that run it; see `base.Built`.

    Shapes: batch B, steps T, features E, hidden size H, vocabulary V.

    Args:
        work: workload.
        arrays: arrays of the workload.
        params: pytree of parameters in the library's own structure.
        forward: forward(params, inputs, key) returns logits (B, 1) for word ids (B, T),
            logits (B, V) for one-hot characters (B, T, V), or the outputs h (B, T, H)
            of the recurrent layer for inputs x (B, T, E). If the key is None, dropout
            is off.
        to_ours: to_ours(tree) converts a pytree with the structure of `params` (weights
            or gradients) to a dict with the names and layout of
            `bench.workloads.Arrays.weights`.
    """
    first = jax.devices()[0]
    devices = [f"{first.platform}:{first.device_kind}"]
    if work.kind == "recurrence":
        operands = jax.device_put((params, arrays.inputs, arrays.targets))

        @jax.jit
        def both(params, x, cotangent):
            h, back = jax.vjp(lambda params, x: forward(params, x, None), params, x)
            return h, back(cotangent)

        return layer(
            work,
            lambda: both(*operands),
            to_ours,
            jax.block_until_ready,
            devices=devices,
        )
    if work.kind == "evaluation":
        params, batches = jax.device_put((params, batches_of_ids(work, arrays.inputs)))
        alone = jax.jit(lambda params, ids: forward(params, ids, None))

        def evaluate():
            return np.concatenate(
                [
                    np.asarray(logits)
                    for logits in [alone(params, batch) for batch in batches]
                ]
            )[: len(arrays.inputs)]

        return evaluation(work, evaluate, devices=devices)
    optimizer = optax.adam(1e-3, eps=1e-7)

    def loss(params, inputs, targets, key):
        return mean_loss(forward(params, inputs, key), targets)

    def update(dropout, state, inputs, targets):
        params, opt_state, number = state
        key = jax.random.fold_in(jax.random.key(0), number) if dropout else None
        value, gradient = jax.value_and_grad(loss)(params, inputs, targets, key)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, number + 1), value

    def start(dropout):
        copied = jax.tree.map(lambda array: jnp.array(array, copy=True), params)
        state = copied, optimizer.init(copied), jnp.zeros((), jnp.int32)
        compiled = jax.jit(
            partial(update, dropout and work.dropout > 0), donate_argnums=0
        )

        return carried(compiled, state, lambda state: to_ours(state[0]))

    def predict(inputs):
        return np.asarray(jax.jit(forward, static_argnums=2)(params, inputs, None))

    return training(
        work,
        batches_of(work, arrays),
        start,
        predict,
        jax.block_until_ready,
        devices=devices,
    )


def carried(
    compiled: Callable[[Any, Any, Any], tuple[Any, Any]],
    state: Any,
    result: Callable[[Any], Any],
) -> tuple[Callable[[Any, Any], Any], Callable[[], Any]]:
    """Return step(inputs, targets), which replaces the state by that of a training step
    and returns the loss, and a function that returns the result of the last state.
    """

    def step(inputs, targets):
        nonlocal state
        state, value = compiled(state, inputs, targets)
        return value

    return step, lambda: result(state)


def outer(arrays: Arrays) -> dict[str, Weights]:
    """Return the weights outside of the recurrent layer as nested dicts, such as
    {"head": {"kernel": ..., "bias": ...}}.
    """
    found: dict[str, Weights] = defaultdict(dict)
    for name, array in arrays.weights.items():
        if not name.startswith(LAYER):
            module, _, part = name.partition("/")
            found[module][part] = array
    return found


def flat(tree) -> Weights:
    """Return the arrays of nested dicts under names such as "head/kernel". The inner
    dicts of "rnn" are left out.
    """
    return {
        f"{module}/{part}": np.asarray(array)
        for module, parts in tree.items()
        if module != "rnn"
        for part, array in parts.items()
    }


def scan(
    step: Callable[[Any, Any], tuple[Any, Any]], inputs: jax.Array, arrays: Arrays
) -> jax.Array:
    """Run step((h, c) or (c, h), inputs_t) over time-major inputs with `lax.scan`, and
    return the outputs h (B, T, H).

    It serves a recurrent layer alone, where `arrays.targets` has H as its last axis. A
    reset replaces the state by zeros, with `where`.
    """
    resets = None if arrays.resets is None else jnp.asarray(arrays.resets.T)
    zeros = jnp.zeros((inputs.shape[1], arrays.targets.shape[-1]), inputs.dtype)

    def body(state, inputs):
        inputs_t, reset_t = inputs
        state = (
            state
            if reset_t is None
            else jax.tree.map(lambda part: jnp.where(reset_t[:, None], 0, part), state)
        )
        return step(state, inputs_t)

    return jax.lax.scan(body, (zeros, zeros), (inputs, resets))[1].swapaxes(0, 1)


def batches_of(work: Workload, arrays: Arrays) -> list[Any]:
    """Return the batches (inputs, targets) of a training workload on JAX's default
    device.
    """
    inputs = (
        arrays.inputs
        if work.words
        else np.eye(work.vocabulary, dtype=np.float32)[arrays.inputs]
    )
    return [
        jax.device_put(pair)
        for pair in zip(
            np.split(inputs, work.batches),
            np.split(arrays.targets, work.batches),
            strict=True,
        )
    ]


def mean_loss(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the cross-entropy of logits (B, 1) of reviews or (B, V) of characters."""
    if logits.shape[1] == 1:
        return optax.sigmoid_binary_cross_entropy(
            logits[:, 0], targets.astype(logits.dtype)
        ).mean()
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
