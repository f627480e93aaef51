"""Interface of the peers: the options that a peer receives, and the built workload that it returns."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from bench.workloads import Workload


@dataclass(frozen=True)
class Options:
    """Options with which a peer builds a workload.

    Attributes:
        backend: backend of our recurrence, or class of the cell for Flax NNX. If None, the peer chooses. Other peers ignore it.
        dropout: rate of the input dropout of workload A.
        recurrent_dropout: rate of the recurrent dropout of workload A. A peer without recurrent dropout says so in `Built.note`.
        remat: `remat` of our recurrence, as `unroll` takes it.
        devices: number of devices of our mesh. If 0, the number suits the backend.
        dtype: compute dtype of our models; all other peers compute in float32.
        slower: waiting time after each of our calls, as a share of the time of the call. It tests whether a slowdown is detected.
    """

    backend: str | None = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    remat: str = "none"
    devices: int = 0
    dtype: str = "float32"
    slower: float = 0.0


@dataclass(frozen=True)
class Built:
    """A workload as a peer built it.

    Attributes:
        run: run(count) executes `count` steps and returns when they have ended. A step is a training step, a forward and backward pass of
            the recurrence, or an evaluation of all reviews.
        outputs: outputs() returns the outputs of the first batch with the given weights and without dropout: logits (B,) for sentiment,
            logits minus their mean (B, V) for characters, or h (B, T, H) for the recurrence. For an evaluation it returns the logits of
            all reviews.
        after_one_step: after_one_step() takes one step of Adam (learning rate 1e-3, epsilon 1e-7) on the first batch without dropout, and
            returns the weights after it and the "loss" of the batch. For the recurrence it returns the gradients, that of the inputs as
            "x"; for an evaluation it returns nothing. Names and layout of the arrays are those of `Arrays.weights`.
        adam: form of Adam. "keras" adds epsilon to the square root of the second moment without bias correction; "corrected" adds it to
            the square root of the bias-corrected second moment, as algorithm 1 of the Adam paper and Optax do.
        devices: names of the devices that run the workload.
        note: difference between the work of this peer and ours.
        backend: name of the backend that runs.
        block_seconds: shortest duration of a timed call of `run`, in seconds.
        excluded: masks (rows,) by name of an array; rows where the mask is true are not compared after one step, for the reason in `note`.
    """

    run: Callable[[int], None]
    outputs: Callable[[], np.ndarray]
    after_one_step: Callable[[], dict[str, np.ndarray]]
    adam: Literal["keras", "corrected"]
    devices: list[str]
    note: str = ""
    backend: str = ""
    block_seconds: float = 0.05
    excluded: dict[str, np.ndarray] = field(default_factory=dict)


def slowed(run: Callable[[int], None], share: float) -> Callable[[int], None]:
    """Return a function that calls `run` and then waits, in a busy loop, for the given share of the time that the call took."""

    def longer(count: int) -> None:
        began = time.perf_counter()
        run(count)
        end = (1 + share) * time.perf_counter() - share * began
        while time.perf_counter() < end:
            pass

    return longer if share else run


def evaluation(work: Workload, evaluate: Callable[[], np.ndarray], devices: list[str], note: str = "", backend: str = "") -> Built:
    """Return the built workload "evaluation" for a function `evaluate` that returns the logits of all reviews.

    Args:
        work: workload.
        evaluate: evaluate() -> logits of all reviews.
        devices: names of the devices, see `Built`.
        note: difference from our work, see `Built`.
        backend: name of the backend, see `Built`.
    """

    def run(count: int) -> None:
        for _ in range(count):
            evaluate()

    return Built(run, lambda: comparable(work, evaluate()), dict, "keras", devices, note, backend)


def comparable(work: Workload, logits: np.ndarray) -> np.ndarray:
    """Return logits in the form in which peers are compared.

    Logits of characters (B, V) are reduced by their mean, since a softmax does not depend on an added constant; others are flattened.
    """
    logits = np.asarray(logits)
    return logits - logits.mean(-1, keepdims=True) if work.kind == "characters" else logits.reshape(-1)


def no_recurrent_dropout(options: Options) -> str:
    """Return the note of a peer whose cell has no recurrent dropout, or "" if both dropout rates are 0."""
    return "dropout of the embedded words, elementwise; no recurrent dropout" if options.dropout or options.recurrent_dropout else ""
