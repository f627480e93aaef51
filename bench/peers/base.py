"""Interface of a peer: the options it is built with and the workload it builds."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from bench.workloads import Workload


@dataclass(frozen=True)
class Options:
    """Options of a peer.

    Attributes:
        backend: of our recurrence, None chooses; of Flax NNX, the cell.
        dropout: rate of the input dropout of workload A.
        recurrent_dropout: rate of the recurrent dropout of workload A; a peer without it says so in its note.
        remat: of our recurrence, see `unroll`.
        devices: devices of our mesh, 0 for one a core.
        dtype: compute dtype of ours; every other peer computes in float32.
        slower: share of its time that each call of ours waits on top of it, to see whether a slowdown is detected.
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
    """A workload built by a peer.

    Attributes:
        run: run(count) runs that many training steps (recurrence: forward and backward passes; evaluation: of all reviews) on arrays that
            lie on the device, and returns when they have ended.
        outputs: outputs() of the first batch under the given weights, without dropout: logits (B,), logits less their mean (B, V), or
            h (B, T, H); of an evaluation, the logits of all reviews.
        after_one_step: weights after one step of Adam (learning rate 1e-3, epsilon 1e-7) on the first batch, without dropout, and that
            batch's "loss"; of a recurrence the gradients, that of the input as "x"; of an evaluation nothing. Names and layout are those
            of `Arrays.weights`.
        adam: "keras" adds epsilon to the square root of the uncorrected second moment, "corrected" to that of the corrected one, as
            algorithm 1 of the paper and Optax do.
        devices: names of the devices it uses.
        note: difference of its work from ours.
        backend: name of the backend that runs.
        block_seconds: shortest time of a timed call of `run`.
        excluded: by array, the rows that one step moves differently, for the reason in `note`; they are not compared.
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
    """Return a `run` that afterwards waits for this share of the time it took; the wait computes nothing."""

    def longer(count: int) -> None:
        began = time.perf_counter()
        run(count)
        end = (1 + share) * time.perf_counter() - share * began
        while time.perf_counter() < end:
            pass

    return longer if share else run


def evaluation(work: Workload, evaluate: Callable[[], np.ndarray], devices: list[str], note: str = "", backend: str = "") -> Built:
    """Return the evaluation workload of `evaluate() -> logits` of all reviews."""

    def run(count: int) -> None:
        for _ in range(count):
            evaluate()

    return Built(run, lambda: comparable(work, evaluate()), dict, "keras", devices, note, backend)


def comparable(work: Workload, logits: np.ndarray) -> np.ndarray:
    """Return logits without the constant to which a softmax is invariant."""
    logits = np.asarray(logits)
    return logits - logits.mean(-1, keepdims=True) if work.kind == "characters" else logits.reshape(-1)


def no_recurrent_dropout(options: Options) -> str:
    """Return the note of a peer whose cell has no recurrent dropout."""
    return "dropout of the embedded words, elementwise; no recurrent dropout" if options.dropout or options.recurrent_dropout else ""
