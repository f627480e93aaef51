"""Benchmark of this project itself, on CPU devices or one GPU.

Training workloads use the same compiled training steps as `fit` of this project. The
workloads "recurrence" and "forward" run `lstm_jax.unroll` alone.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bench.peers.base import Built, Options, comparable, evaluation, layer
from bench.workloads import STEP, Arrays, Workload, in_layer
from lstm_jax import unroll
from lstm_jax.base import sharding
from lstm_jax.base.errors import require
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.generation.config import GenerationConfig, GenerationModelConfig
from lstm_jax.lab.generation.task import window_examples, window_objective
from lstm_jax.lab.predict import make_predict
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sentiment.config import SentimentConfig, SentimentModelConfig
from lstm_jax.lab.sentiment.model import EMBEDDING
from lstm_jax.lab.sentiment.task import make_server
from lstm_jax.layers.products import set_products
from lstm_jax.recurrence import cpu_devices, resolve_backend
from lstm_jax.training.examples import Examples, Order
from lstm_jax.training.optimizers import keras_adam
from lstm_jax.training.parts import functional
from lstm_jax.training.state import EXAMPLES, create_state
from lstm_jax.training.step import make_run_steps

EPOCH = 1024
"""Number of steps in an epoch. One compiled call runs at most this many steps."""


def _mesh(work: Workload, options: Options) -> Mesh:
    """Return the JAX mesh on which a workload runs."""
    suited = (
        cpu_devices(options.backend, options.dtype, work.cell)
        if work.batch % len(os.sched_getaffinity(0)) == 0
        else 1
    )
    if options.devices or not suited:
        sharding.use_cpu_cores(options.devices)
    else:
        sharding.prefer_cpu_devices(suited)
    return sharding.make_mesh(0 if jax.default_backend() == "cpu" else 1)


def build(
    work: Workload, arrays: Arrays, options: Options, optimizer: Any = None
) -> Built:
    """Build a workload; see `base.Built`."""
    mesh, backend = (
        _mesh(work, options),
        resolve_backend(options.backend, work.cell, compute_dtype=options.dtype).name,
    )
    devices = [
        f"{device.platform}:{device.device_kind}" for device in mesh.devices.flat
    ]
    if work.layer_alone:
        return _recurrence(work, arrays, mesh, backend, options.dtype, devices)
    params = {name: jnp.asarray(array) for name, array in arrays.weights.items()}
    rebuild, objective = _model(work, options)
    if work.kind == "evaluation":
        note = "embedding and projection multiplied first"
        if work.one_call:
            serve = make_server(rebuild(params), options.dtype)
            return evaluation(
                work,
                lambda: serve(arrays.inputs),
                devices=devices[:1],
                note=f"{note}, which is not timed",
                backend=backend,
            )
        placed = jax.device_put(params, sharding.replicated(mesh))
        # as `lstm-jax evaluate`
        logits = sentiment.make_logits(
            lambda params: set_products(rebuild(params), options.dtype), mesh
        )
        return evaluation(
            work,
            lambda: logits(placed, arrays.inputs),
            devices=devices,
            note=note,
            backend=backend,
        )
    require(
        options.dtype != "int8",
        "dtype",
        options.dtype,
        "give float32 or bfloat16 for a training step",
    )
    start = partial(
        _training, work, arrays, params, mesh, optimizer or keras_adam(1e-3)
    )

    def after_one_step():
        run, state = start(
            _model(work, Options(options.backend, dtype=options.dtype))[1]
        )
        run(1)
        loss = np.asarray(state().totals["loss"]) / work.batch
        return {name: np.asarray(array) for name, array in state().params.items()} | {
            "loss": loss
        }

    def forward(params, ids):
        model = rebuild(params)
        return (
            model(ids, deterministic=True)
            if work.words
            else model(ids, last=True, deterministic=True)[0]
        )

    def outputs():
        return comparable(
            work, make_predict(forward, mesh)(params, arrays.inputs[: work.batch])
        )

    note = "Keras' dropout and recurrent dropout" if work.dropout else ""
    return Built(
        start(objective)[0], outputs, after_one_step, "keras", devices, note, backend
    )


def write_reference(path: Path, work: Workload, arrays: Arrays) -> None:
    """Run one step of a workload with our backend `reference`, and write the results to
    an .npz file as the reference for all libraries.
    """
    work = replace(work, one_call=False)
    built = build(work, arrays, Options("reference"))
    if work.layer_alone or work.kind == "evaluation":
        parts = {"gradients": built.after_one_step()}
    else:
        corrected = build(
            work, arrays, Options("reference"), optax.adam(1e-3, eps=1e-7)
        )
        parts = {
            "keras": built.after_one_step(),
            "corrected": corrected.after_one_step(),
        }
    flat: dict[str, Any] = {
        f"{part}/{name}": array
        for part, named in parts.items()
        for name, array in named.items()
    }
    np.savez(path, outputs=built.outputs(), **flat)


def _recurrence(
    work: Workload,
    arrays: Arrays,
    mesh: Mesh,
    backend: str,
    dtype: str,
    devices: list[str],
) -> Built:
    rows, copied = sharding.rows(mesh), sharding.replicated(mesh)
    x, cotangent = jax.device_put((arrays.inputs, arrays.targets), rows)
    cell = work.made
    params = jax.device_put(cell.params(**arrays.cell()), copied)

    def forward(params, x):
        return unroll(
            cell, params, x, resets=arrays.resets, backend=backend, compute_dtype=dtype
        )[0]

    def forward_and_backward(params, x, cotangent):
        h, back = jax.vjp(forward, params, x)
        return h, back(cotangent)

    if work.kind == "forward":
        compiled, operands = jax.jit(forward, out_shardings=rows), (params, x)
    else:
        compiled, operands = (
            jax.jit(forward_and_backward, out_shardings=(rows, (copied, rows))),
            (params, x, cotangent),
        )

    def step():
        result = compiled(*operands)
        # two calls with all-reduces can deadlock XLA's CPU runtime
        return jax.block_until_ready(result) if mesh.size > 1 else result

    def on_mesh(function):
        def on(*arguments):
            with sharding.on(mesh):
                return function(*arguments)

        return on

    built = layer(
        work,
        step,
        lambda gradients: in_layer(gradients._asdict()),
        jax.block_until_ready,
        devices=devices,
        backend=backend,
    )
    return replace(
        built,
        **{
            name: on_mesh(getattr(built, name))
            for name in ("run", "outputs", "after_one_step")
        },
    )


def _model(work: Workload, options: Options) -> tuple[Callable, Callable]:
    """Return two functions: one builds a workload's model from parameters, and the
    other computes the model's loss and metrics.
    """
    name: Any = options.backend or "auto"
    choices: Any = {
        "cell": work.cell,
        "dropout": options.dropout,
        "recurrent_dropout": options.recurrent_dropout,
        "remat": options.remat,
        "dtype": "float32" if options.dtype == "int8" else options.dtype,
    }
    if work.words:
        config = SentimentConfig(
            model=SentimentModelConfig(
                embed=work.features, units=work.units, backend=name, **choices
            )
        )
        _, rebuild = functional(sentiment.make_model(config, work.vocabulary))
        return rebuild, sentiment.objective(rebuild)
    characters = GenerationConfig(
        model=GenerationModelConfig(units=work.units, backend=name, **choices)
    )
    _, rebuild = functional(generation.make_model(characters, work.vocabulary))
    return rebuild, window_objective(rebuild)


def _training(
    work: Workload, arrays: Arrays, params, mesh: Mesh, optimizer, objective: Callable
):
    """Return two functions: run(count) takes training steps with the same compiled
    program as `fit`, and state() returns their state.
    """
    text = arrays.text
    examples = (
        Examples.of_rows((arrays.inputs, arrays.targets))
        if text is None
        else window_examples(text, work.length, STEP)
    )
    numbers = np.arange(EPOCH * work.batch, dtype=np.int32).reshape(
        EPOCH, work.batch
    ) % (work.batches * work.batch)
    weight = np.full(numbers.shape, 1 / work.batch, np.float32)
    order = Order(
        *(
            jnp.asarray(array)
            for array in (
                numbers,
                weight,
                np.full(len(numbers), work.batch, np.float32),
            )
        )
    )
    given, order, key = jax.device_put(
        (examples.arrays, order, jax.random.key(0)), sharding.replicated(mesh)
    )
    state, shardings = create_state(
        params,
        optimizer,
        ("loss", "accuracy", EXAMPLES),
        mesh,
        table=EMBEDDING if work.words else "",
    )
    run_steps = make_run_steps(objective, optimizer, shardings, examples.gather)
    taken = 0

    def run(count):
        nonlocal state, taken
        while count:
            start = taken % EPOCH
            steps = min(count, EPOCH - start)
            with sharding.on(mesh):
                state = jax.block_until_ready(
                    run_steps(state, given, order, start, start + steps, key)
                )
            taken += steps
            count -= steps

    return run, lambda: state
