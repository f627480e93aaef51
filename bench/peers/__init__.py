"""Table of the benchmarked libraries (peers), and the parser of the flag `--peer`.

The flag gives the name of a peer and its options, which together are called a
candidate. Each peer runs in its own process.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

from bench import hardware
from bench.peers.base import Options
from bench.workloads import Workload
from lstm_jax.base.errors import InputError, require

OURS = "ours"
"""Name of this project in the table of peers."""
OWN = (OURS, "own_loop")
"""Names of the peers that run this project's code, which are not counted as other
libraries."""
TASKS = {"keras_jax": "bench.peers.keras_tasks", OURS: "bench.peers.ours_tasks"}
"""Dict from a peer to the script with which it trains whole models and draws text."""
DTYPES = ("float32", "bfloat16", "int8")
RATES = ("dropout", "recurrent")
COMMON_CELLS = ("lstm", "gru", "simple_rnn")
MODEL_KINDS = "sentiment characters evaluation"
COMMON_KINDS = f"{MODEL_KINDS} recurrence"
KINDS = f"{COMMON_KINDS} forward"
MODULES = {
    "ai-edge-litert": "ai_edge_litert",
    "dm-haiku": "haiku",
    "mlstm-kernels": "mlstm_kernels",
    "tensorflow-cpu": "tensorflow",
}
"""Dict from the names of packages to those of their modules, where they differ."""


@dataclass(frozen=True)
class Peer:
    """Library that the benchmark measures, called a peer. This project is itself one of
    the peers.

    Attributes:
        name: name of the peer in result rows and flags.
        title: name of the peer in a report. A package name in braces, such as
            "{torch}", is replaced by the version of the package.
        module: module of `bench.peers` that defines `build(workload, arrays, options)
            -> Built` for the peer.
        packages: packages that must be installed, and whose versions are recorded in
            the result rows.
        extra: optional dependency group of this project that installs the packages, as
            in pip install '.[peers]'; or another command.
        options: names of the options that `--peer` accepts for this peer.
        environment: environment variables that are set before the peer is imported.
        gpu: whether the peer needs a GPU.
        recurrent_dropout: whether the peer has recurrent dropout. If not, it trains
            without it.
        cells: recurrent cells that the peer can run. Other cells than the LSTM are for
            workloads of a recurrent layer alone.
        kinds: kinds of workload that the peer can run, separated by blanks.
        resets: whether the peer can reset the state within a sequence.
        loads_jax: whether building and running a workload with the peer imports JAX. If
            False, a test checks that JAX is not imported. After the measurement,
            `bench.worker` imports JAX for every peer.
    """

    name: str
    title: str
    module: str
    packages: tuple[str, ...] = ()
    extra: str = ""
    options: tuple[str, ...] = RATES
    environment: Mapping[str, str] = field(default_factory=dict)
    gpu: bool = False
    recurrent_dropout: bool = False
    cells: tuple[str, ...] = ("lstm",)
    kinds: str = COMMON_KINDS
    resets: bool = False
    loads_jax: bool = True

    def lacks(self, work: Workload) -> str:
        """Return "" if the library supports a workload. Otherwise return what it lacks:
        the kind, the recurrent cell or the resets.
        """
        if work.kind not in self.kinds.split():
            return f"no workload of the kind {work.kind}"
        if work.resets and not self.resets:
            return f"no resets in {work.base}"
        if self.name == OURS or (
            work.cell in self.cells and (work.cell == "lstm" or work.layer_alone)
        ):
            return ""
        return f"no {work.cell} in {work.base}"

    def missing(self) -> str:
        """Return "" if the library can run on this machine. Otherwise return what is
        missing: packages or a GPU.
        """
        packages = [
            name for name in self.packages if find_spec(MODULES.get(name, name)) is None
        ]
        if not packages:
            return "a GPU is missing" if self.gpu and not hardware.gpu() else ""
        command = self.extra
        if " " not in command:
            command = f"pip install '.[{command}]'"
        return f"{' and '.join(packages)} is missing: {command}"


def _torch(name: str, title: str, *options: str) -> Peer:
    about: Any = {
        "options": (*RATES, *options),
        "cells": COMMON_CELLS,
        "kinds": KINDS,
        "loads_jax": False,
    }
    return Peer(name, f"PyTorch {{torch}}, {title}", name, ("torch",), "torch", **about)


def _keras(backend: str, title: str, package: str, *options: str) -> Peer:
    about: Any = {
        "options": (*options, *RATES),
        "kinds": COMMON_KINDS if backend == "jax" else MODEL_KINDS,
        "cells": COMMON_CELLS,
        "recurrent_dropout": True,
    }
    about |= {"environment": {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}}
    return Peer(
        f"keras_{backend}",
        f"Keras {{keras}} on {title}, `fit`",
        "keras_lstm",
        ("keras", package),
        "peers",
        **about,
    )


_OURS: Any = {"options": ("backend", *RATES), "recurrent_dropout": True}
_RUNTIME: Any = {"kinds": "evaluation", "loads_jax": False}
_RESETS: Any = {"options": (), "kinds": "recurrence", "resets": True}
_SUCCESSOR: Any = {"options": (), "kinds": "recurrence"}
# it needs an older typeguard than tyro does
NO_DEPS = "pip install einops sentencepiece && pip install --no-deps recurrentgemma"
TABLE = (
    Peer(
        OURS,
        "this project",
        "ours",
        **_OURS
        | {
            "options": ("backend", *RATES, "dtype"),
            "kinds": KINDS,
            "resets": True,
        },
    ),
    Peer(
        "own_loop",
        "a user's own loop with our layer",
        "own_loop",
        **_OURS,
        kinds="sentiment characters",
    ),
    _torch("torch_lstm", "nn.LSTM, fused Adam", "dtype"),
    _torch("torch_compiled", "nn.LSTM under torch.compile, fused Adam"),
    Peer("jax_rnn", "jax.experimental.rnn {jax}", "jax_rnn", ("jax",), gpu=True),
    Peer("flax_nnx", "Flax {flax}, nnx.RNN", "flax_nnx", ("flax",)),
    Peer("flax_linen", "Flax {flax}, Linen", "flax_linen", ("flax",)),
    Peer("haiku", "Haiku {dm-haiku}", "haiku_lstm", ("dm-haiku",), "peers"),
    Peer("equinox", "Equinox {equinox}", "equinox_lstm", ("equinox",), "peers"),
    Peer(
        "jax_scan", "lax.scan with `where`, JAX {jax}", "jax_scan", ("jax",), **_RESETS
    ),
    Peer(
        "flax_scan",
        "Flax {flax}, a cell in lax.scan",
        "flax_scan",
        ("flax",),
        **_RESETS,
    ),
    Peer(
        "torchrl",
        "TorchRL {torchrl}, LSTMModule",
        "torchrl_lstm",
        ("torchrl", "torch"),
        "rl",
        **_RESETS | {"options": ("backend", "dtype"), "loads_jax": False},
    ),
    Peer(
        "memax",
        "Memax {memax}",
        "memax_cells",
        ("memax", "equinox"),
        "more-peers",
        cells=("lstm_no_output_activation", "lru"),
        **_RESETS,
    ),
    Peer(
        "xlstm",
        "xlstm {xlstm}, vanilla",
        "xlstm_slstm",
        ("xlstm", "torch"),
        "more-peers",
        cells=("slstm",),
        **_SUCCESSOR,
    ),
    Peer(
        "mlstm_kernels",
        "mlstm-kernels {mlstm-kernels}",
        "mlstm_native",
        ("mlstm-kernels", "torch"),
        "more-peers",
        cells=("mlstm",),
        **_SUCCESSOR,
    ),
    Peer(
        "recurrentgemma",
        "recurrentgemma {recurrentgemma}",
        "recurrentgemma_rg_lru",
        ("recurrentgemma", "flax"),
        NO_DEPS,
        cells=("rg_lru",),
        **_SUCCESSOR,
    ),
    Peer(
        "onnx_runtime",
        "ONNX Runtime {onnxruntime}",
        "onnx_runtime",
        ("onnxruntime", "onnx"),
        "onnx",
        ("dtype",),
        **_RUNTIME,
    ),
    Peer(
        "openvino",
        "OpenVINO {openvino}",
        "openvino_runtime",
        ("openvino", "onnx"),
        "more-peers",
        (),
        **_RUNTIME,
    ),
    Peer(
        "litert",
        "LiteRT {ai-edge-litert}",
        "litert",
        ("ai-edge-litert",),
        "more-peers",
        (),
        **_RUNTIME,
    ),
    Peer(
        "torch_packed",
        "oneDNN in PyTorch {torch}, packed weights",
        "torch_packed",
        ("torch",),
        "torch",
        (),
        **_RUNTIME | {"kinds": "evaluation forward"},
    ),
    _keras("jax", "JAX", "jax", "backend"),
    _keras("torch", "PyTorch", "torch"),
    _keras("tensorflow", "TensorFlow", "tensorflow-cpu"),
)
PEERS = {peer.name: peer for peer in TABLE}


@dataclass(frozen=True)
class Candidate:
    """Benchmarked library (peer) together with its options.

    Attributes:
        name: text of the flag `--peer` that this candidate was read from, such as
            "ours:dropout=0.2".
        peer: name of the peer.
        given: values of fields of `Options` that the text gives. The other fields have
            their defaults, and the rates of dropout are those of the workload.
    """

    name: str
    peer: str
    given: Mapping[str, Any] = field(default_factory=dict)

    def options(self, work: Workload) -> Options:
        """Return the options with which the peer builds a workload."""
        return replace(
            Options(None, work.dropout, work.recurrent_dropout), **self.given
        )

    def fields(self, work: Workload) -> dict[str, Any]:
        """Return the fields of a result row (`KEY`) that identify this candidate on a
        workload.
        """
        known = {"peer": self.peer, "workload": work.name} | vars(self.options(work))
        return {name: known[name] for name in KEY}

    def key(self, work: Workload) -> tuple:
        """Return the value of `row_key` for the result rows of this candidate on a
        workload.
        """
        return row_key(self.fields(work))


KEY = dict.fromkeys(("peer", "workload", "backend", "dropout", "recurrent_dropout")) | {
    "dtype": "float32"
}
"""Fields that identify what a row has measured, with the values that stand for absent
fields."""


def row_key(row: Mapping[str, Any]) -> tuple:
    """Return the key of a result row: a tuple of the peer, the workload and all options
    that the peer was measured with.
    """
    return tuple(row.get(name, default) for name, default in KEY.items())


def read_candidate(text: str) -> Candidate:
    """Parse a value of the flag `--peer`, such as "ours:dropout=0.2", and return the
    candidate, that is, the library with its options.
    """
    name, *options = text.split(":")
    given: dict[str, Any] = {
        option.split("=")[0]: option.partition("=")[2] for option in options
    }
    require(name in PEERS, "peer", text, f"give one of {', '.join(PEERS)}")
    known = PEERS[name].options
    allowed = (
        f"no other options than {', '.join(known)}, as in {name}:{known[0]}=..."
        if known
        else "no options"
    )
    require(given.keys() <= {*known}, "peer", text, f"give {name} {allowed}")
    if "dtype" in given:
        require(
            given["dtype"] in DTYPES,
            "dtype",
            given["dtype"],
            f"give {', '.join(DTYPES[:-1])} or {DTYPES[-1]}",
        )
    if name == OURS and "backend" in given:
        # imported here because it imports JAX, which the process of another peer must
        # not load
        from lstm_jax.recurrence import BACKENDS

        require(
            given["backend"] in BACKENDS,
            "backend",
            given["backend"],
            f"give one of {', '.join(BACKENDS)}",
        )
    for option in given.keys() & {*RATES}:
        try:
            given[option] = float(given[option])
        except ValueError as error:
            raise InputError(
                "peer", text, f"give numbers as in {name}:dropout=0.2"
            ) from error
        require(
            0 <= given[option] < 1, option, given[option], "give 0 or more, below 1"
        )
    if "recurrent" in given:
        given["recurrent_dropout"] = given.pop("recurrent")
    return Candidate(text, name, given)


def installed(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates (libraries with options) that can run on this machine. For
    any other candidate, print why it is skipped.
    """
    found = []
    for candidate in candidates:
        if missing := PEERS[candidate.peer].missing():
            print(f"{candidate.name}: skipped, {missing}", flush=True)
        else:
            found.append(candidate)
    return found


def title(name: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the title under which a report lists a candidate, such as "Equinox 0.11.4,
    dropout=0".
    """
    versions = next(
        (
            row["versions"]
            for row in rows
            if row.get("candidate") == name and "versions" in row
        ),
        {},
    )
    peer, _, options = name.partition(":")
    text = PEERS[peer].title
    for package in PEERS[peer].packages:
        text = text.replace(f"{{{package}}}", versions.get(package, "").split("+")[0])
    return text + (f", {options.replace(':', ', ')}" if options else "")
