"""Interface that each benchmarked library (peer) implements: the options that it
receives and the built workload that it returns.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any, Literal

import numpy as np

from bench.workloads import Arrays, Weights, Workload

THREADS = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
"""Number of threads of the runtimes that take one."""
Run = Callable[[int], None]
"""Function run(count) that executes `count` steps."""


@dataclass(frozen=True)
class Options:
    """Options with which a benchmarked library (peer) builds a workload. "Our" refers
    to this project, which is also a peer.

    Attributes:
        backend: what to run instead of the peer's default. For "ours" it is a backend
            of the recurrence, for "own_loop" a training loop, for "keras_jax" the text
            "accelerated", and for "torchrl" a recurrent backend of TorchRL. None stands
            for the default.
        dropout: rate of the input dropout in training. On one-hot characters (workload
            B), only "ours", "own_loop" and Keras apply it.
        recurrent_dropout: rate of the recurrent dropout in training. Some peers have no
            recurrent dropout.
        remat: rematerialisation of our recurrence: "none" keeps all residuals, and
            "sqrt" recomputes them in segments.
        devices: number of devices of our mesh. If 0, it is chosen to suit the backend
            and the batch size.
        dtype: dtype of the matrix products: "float32", "bfloat16" or "int8". "ours"
            accepts all three, but "int8" only for inference. "torch_lstm" and "torchrl"
            accept "float32" and "bfloat16". "onnx_runtime" accepts "float32" and
            "int8". All other peers compute in float32.
    """

    backend: str | None = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    remat: str = "none"
    devices: int = 0
    dtype: str = "float32"


@dataclass(frozen=True)
class Built:
    """Workload that a benchmarked library (peer) has prepared: functions that run the
    workload or return its results, and a description.

    The kinds of workloads are training (on word ids for sentiment, or on characters),
    evaluation, and a recurrent layer alone (its forward and backward pass, or the
    forward pass only). Shapes: batch B, steps T, hidden size H, vocabulary V.

    Attributes:
        run: run(count) executes `count` steps and returns when they have ended. A step
            is a training step, an evaluation of all reviews, or a pass of the recurrent
            layer.
        outputs: outputs() returns the outputs for the first batch, computed with the
            initial weights and without dropout. They are logits (B,) for sentiment,
            logits minus their mean (B, V) for characters, and h (B, T, H) for a layer
            alone. For an evaluation, they are the logits of all reviews.
        after_one_step: after_one_step() returns the results of one step as a dict of
            arrays. For training, the step is one step of Adam (learning rate 1e-3,
            epsilon 1e-7) on the first batch without dropout. The dict then contains
            each new weight under its name, and the loss of the batch under "loss". For
            the forward and backward pass of a recurrent layer, the dict contains the
            gradient of each weight under the name of the weight, and the gradient of
            the inputs under "x". For an evaluation, and for the forward pass alone, the
            dict is empty. The names and layouts of the weights are those of
            `bench.workloads.Arrays.weights`.
        adam: form of Adam. "keras" adds epsilon to the square root of the second moment
            without bias correction. "corrected" adds epsilon to the square root of the
            bias-corrected second moment, as algorithm 1 of the Adam paper and Optax do.
        devices: names of the devices that run the workload.
        note: what this peer computes differently from this project, or "".
        backend: name of the backend that runs, or "" if the peer has only one.
        block_seconds: shortest duration of a timed call of `run`, in seconds.
        excluded: dict from the name of a weight to a boolean mask with an entry for
            each row of the weight. Rows where the mask is true are not compared with
            the reference after one step, because this peer updates them differently
            (see `note`).
    """

    run: Run
    outputs: Callable[[], np.ndarray]
    after_one_step: Callable[[], Weights]
    adam: Literal["keras", "corrected"]
    devices: list[str]
    note: str = ""
    backend: str = ""
    block_seconds: float = 0.05
    excluded: Weights = field(default_factory=dict)


Wait = Callable[[Any], object]
"""Function that waits for a result."""
ToNumpy = Callable[[Any], np.ndarray]


def no_wait(result) -> None:
    """Do nothing, because the result has been computed when its function returns."""


def repeated(step: Callable[[], Any], wait: Wait = no_wait) -> Run:
    """Return a function run(count) that calls `step` `count` times, and then waits for
    the last result.
    """

    def run(count):
        result: Any = None
        for _ in range(count):
            result = step()
        wait(result)

    return run


def layer(
    work: Workload,
    step: Callable[[], Any],
    to_ours: Callable[[Any], Weights],
    wait: Wait = no_wait,
    to_numpy: ToNumpy = np.asarray,
    **about: Any,
) -> Built:
    """Return the `Built` of a recurrent layer alone.

    step() returns (h, (gradients of the weights, gradient of x)) or, for the forward
    pass alone, h. `to_ours` converts the gradients of the weights to the names and
    layouts of `bench.workloads.Arrays.weights`, `wait` waits for a result of `step`,
    and `about` has other fields of `Built`.
    """
    forward = work.kind == "forward"

    def gradients():
        by_weights, by_x = step()[1]
        return to_ours(by_weights) | {"x": to_numpy(by_x)}

    def outputs():
        return to_numpy(step() if forward else step()[0])

    return Built(
        repeated(step, wait),
        outputs,
        dict if forward else gradients,
        "keras",
        **about,
    )


def training(
    work: Workload,
    batches: Sequence[tuple[Any, Any]],
    start: Callable[[bool], tuple[Callable[[Any, Any], Any], Callable[[], Weights]]],
    predict: Callable[[Any], np.ndarray],
    wait: Wait = no_wait,
    to_numpy: ToNumpy = np.asarray,
    **about: Any,
) -> Built:
    """Return the `Built` of a training workload with the form "corrected" of Adam.

    start(dropout) begins a training with or without dropout, and returns two functions:
    step(inputs, targets) takes a training step and returns the loss before it, and
    weights() returns the trained weights as in `bench.workloads.Arrays.weights`.
    predict(inputs) returns the logits of the initial weights without dropout.
    """
    step, _ = start(True)
    each = cycle(batches)

    def after_one_step():
        step, weights = start(False)
        loss = to_numpy(step(*batches[0]))
        return weights() | {"loss": loss}

    run = repeated(lambda: step(*next(each)), wait)
    return Built(
        run,
        lambda: comparable(work, predict(batches[0][0])),
        after_one_step,
        "corrected",
        **about,
    )


def evaluation(
    work: Workload,
    evaluate: Callable[[], np.ndarray],
    **about: Any,
) -> Built:
    """Return the `Built` of a workload that evaluates reviews without training, given a
    function that returns their logits.
    """
    return Built(
        repeated(evaluate),
        lambda: comparable(work, evaluate()),
        dict,
        "keras",
        **about,
    )


def batches_of_ids(work: Workload, ids: np.ndarray) -> np.ndarray:
    """Return the ids (N, T) of an evaluation as batches (N / B, B, T). Rows of zeros
    fill the last one.
    """
    spare = np.zeros((-len(ids) % work.batch, work.length), ids.dtype)
    return np.concatenate([ids, spare]).reshape(-1, work.batch, work.length)


def served(
    work: Workload,
    ids: np.ndarray,
    call: Callable[[np.ndarray], np.ndarray],
    to_logits: ToNumpy = np.asarray,
) -> Built:
    """Return the `Built` of an evaluation in a runtime on the CPU, given a function
    that runs a batch of ids (B, T).
    """
    batches = batches_of_ids(work, ids)

    def outputs():
        return [call(batch) for batch in batches]

    built = evaluation(
        work,
        lambda: to_logits(np.concatenate(outputs())[: len(ids)]),
        devices=[f"cpu, {THREADS} threads"],
    )
    return replace(built, run=repeated(outputs))


def head(arrays: Arrays, h: np.ndarray) -> np.ndarray:
    """Return the logits (B, 1) of the output layer for the last outputs (B, H) of the
    LSTM, computed with NumPy.
    """
    return h @ arrays.weights["head/kernel"] + arrays.weights["head/bias"]


def comparable(work: Workload, logits: np.ndarray) -> np.ndarray:
    """Return logits in the form in which they are compared between libraries."""
    logits = np.asarray(logits)
    return (
        logits - logits.mean(-1, keepdims=True)
        if work.kind == "characters"
        else logits.reshape(-1)
    )
