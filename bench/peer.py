"""What a peer is: the table of them, what it is asked for, and what it gives."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal

import numpy as np

from bench import device
from bench.workloads import Workload


@dataclass(frozen=True)
class Peer:
    """module: in bench/peers, with `build(workload, arrays, options) -> Built`; imports: what must be there; packages: whose versions are
    noted; environment: set before the import; gpu: whether it runs on nothing else; cells: beside the LSTM, of which it has the recurrence
    alone."""

    module: str
    imports: tuple[str, ...]
    packages: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    gpu: bool = False
    cells: tuple[str, ...] = ()

    def lacks(self, work: Workload) -> str:
        """What it lacks for that workload; empty if nothing."""
        if work.cell == "lstm" or self.module == "ours" or (work.kind == "recurrence" and work.cell in self.cells):
            return ""
        return f"no {work.cell} in {work.name.partition(':')[0]}"

    def missing(self) -> list[str]:
        """What is not here of packages, and of a GPU where it needs one."""
        packages = [name for name in self.imports if find_spec(name) is None]
        return packages + ["a GPU"] * (self.gpu and not device.gpu())


COMMON = ("gru", "simple_rnn")


def _keras(backend: str, package: str) -> Peer:
    environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
    return Peer("keras_lstm", ("keras", backend), ("keras", package), environment, cells=COMMON)


PEERS = {
    "ours": Peer("ours", (), ()),
    "torch_lstm": Peer("torch_lstm", ("torch",), ("torch",), cells=COMMON),
    "torch_compiled": Peer("torch_compiled", ("torch",), ("torch",), cells=COMMON),
    "jax_rnn": Peer("jax_rnn", (), ("jax",), gpu=True),
    "flax_nnx": Peer("flax_nnx", (), ("flax",)),
    "flax_linen": Peer("flax_linen", (), ("flax",)),
    "haiku": Peer("haiku_lstm", ("haiku",), ("dm-haiku",)),
    "equinox": Peer("equinox_lstm", ("equinox",), ("equinox",)),
    "keras_jax": _keras("jax", "jax"),
    "keras_torch": _keras("torch", "torch"),
    "keras_tensorflow": _keras("tensorflow", "tensorflow-cpu"),
}


@dataclass(frozen=True)
class Options:
    """backend: of our recurrence, None chooses; of Flax NNX, the cell. The rates are A's, and what a peer lacks of them its note says.
    remat: of our recurrence, see `unroll`; devices: of our mesh, 0 for one a core. dtype: that we compute in; a peer knows float32 alone.
    slower: the share of its time that each call of ours waits on top of it, to see whether a slowdown is found."""

    backend: str | None = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    remat: str = "none"
    devices: int = 0
    dtype: str = "float32"
    slower: float = 0.0


@dataclass(frozen=True)
class Built:
    """A workload in a peer's hands.

    run(count): that many training steps (recurrence: forward and backward passes; evaluation: of all reviews) on arrays that lie on the
        device; returns when they are done.
    outputs(): without dropout, of the first batch under the given weights: logits (B,), logits less their mean (B, V), or h (B, T, H);
        of an evaluation logits of all reviews.
    after_one_step(): weights after one step of Adam (learning rate 1e-3, epsilon 1e-7) on the first batch, without dropout, and that
        batch's "loss"; of a recurrence the gradients, that of the input as "x"; of an evaluation nothing. Names and layout are those of
        `Arrays.weights`.
    adam: "keras" adds epsilon to the square root of the second moment as it is, "corrected" after its correction, as the paper's
        algorithm 1 and optax do.
    note: what it does otherwise than ours.
    block_seconds: the least that a timed call of `run` should take.
    apart: of these arrays, the rows that come out of a step otherwise, for the reason in `note`; they are not compared.
    """

    run: Callable[[int], None]
    outputs: Callable[[], np.ndarray]
    after_one_step: Callable[[], dict[str, np.ndarray]]
    adam: Literal["keras", "corrected"]
    devices: list[str]
    note: str = ""
    backend: str = ""
    block_seconds: float = 0.05
    apart: dict[str, np.ndarray] = field(default_factory=dict)


def slowed(run: Callable[[int], None], share: float) -> Callable[[int], None]:
    """`run`, and then a wait of that share of the time that it took. It computes nothing, so that a block of few steps has it too."""

    def longer(count: int) -> None:
        began = time.perf_counter()
        run(count)
        end = (1 + share) * time.perf_counter() - share * began
        while time.perf_counter() < end:
            pass

    return longer if share else run


def evaluation(work: Workload, evaluate: Callable[[], np.ndarray], devices: list[str], note: str = "", backend: str = "") -> Built:
    """Of `evaluate() -> logits` of all reviews."""

    def run(count: int) -> None:
        for _ in range(count):
            evaluate()

    return Built(run, lambda: comparable(work, evaluate()), dict, "keras", devices, note, backend)


def comparable(work: Workload, logits: np.ndarray) -> np.ndarray:
    """Logits without the constant that a softmax does not see."""
    logits = np.asarray(logits)
    return logits - logits.mean(-1, keepdims=True) if work.kind == "characters" else logits.reshape(-1)


def no_recurrent_dropout(options: Options) -> str:
    """The note of a peer whose cell has none."""
    return "dropout of the embedded words, elementwise; no recurrent dropout" if options.dropout or options.recurrent_dropout else ""
