"""Table of the peers, and candidates, which are peers with options as `--peer` reads them. Each peer runs in its own process."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import product
from typing import Any

from bench import machine
from bench.workloads import Workload
from lstm_jax.errors import InputError, require

OURS = "ours"
"""Name of this project among the peers."""
DTYPES = ("float32", "bfloat16")
RATES = ("dropout", "recurrent")
COMMON_CELLS = ("gru", "simple_rnn")


@dataclass(frozen=True)
class Peer:
    """A library that is benchmarked; this project is one of the peers.

    Attributes:
        name: name of the peer in rows and flags.
        title: name of the peer in a report. A package name in braces stands for the version of the package.
        module: module of `bench.peers` with the function `build(workload, arrays, options) -> Built`.
        imports: modules that must be installed.
        packages: distributions whose versions are recorded in rows.
        extra: extra of this project with which pip installs the packages.
        options: names of the options that a candidate of this peer may have.
        environment: environment variables that are set before the peer is imported.
        gpu: whether the peer needs a GPU.
        cells: cells, besides the LSTM, that the peer can run in the workload "recurrence".
    """

    name: str
    title: str
    module: str
    imports: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    extra: str = ""
    options: tuple[str, ...] = RATES
    environment: Mapping[str, str] = field(default_factory=dict)
    gpu: bool = False
    cells: tuple[str, ...] = ()

    def lacks(self, work: Workload) -> str:
        """Return what the peer lacks to run a workload, or "" if it can run the workload."""
        if work.cell == "lstm" or self.name == OURS or (work.kind == "recurrence" and work.cell in self.cells):
            return ""
        return f"no {work.cell} in {work.name.partition(':')[0]}"

    def missing(self) -> str:
        """Return why the peer cannot run on this machine: packages that are not installed, or no GPU. Return "" if it can run."""
        packages = [name for name in self.imports if find_spec(name) is None]
        if packages:
            return f"{' and '.join(packages)} is missing: pip install '.[{self.extra}]'"
        return "a GPU is missing" if self.gpu and not machine.gpu() else ""


def _torch(name: str, title: str) -> Peer:
    return Peer(name, f"PyTorch {{torch}}, {title}", name, ("torch",), ("torch",), "torch", cells=COMMON_CELLS)


def _keras(backend: str, title: str, package: str) -> Peer:
    environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
    return Peer(
        f"keras_{backend}",
        f"Keras {{keras}} on {title}, `fit`",
        "keras_lstm",
        ("keras", backend),
        ("keras", package),
        "peers",
        environment=environment,
        cells=COMMON_CELLS,
    )


TABLE = (
    Peer(OURS, "this project", "ours", options=("backend", *RATES, "dtype", "slower")),
    _torch("torch_lstm", "nn.LSTM, fused Adam"),
    _torch("torch_compiled", "nn.LSTM under torch.compile, fused Adam"),
    Peer("jax_rnn", "jax.experimental.rnn {jax}", "jax_rnn", (), ("jax",), gpu=True),
    Peer("flax_nnx", "Flax {flax}, nnx.RNN", "flax_nnx", (), ("flax",), options=("backend", *RATES)),
    Peer("flax_linen", "Flax {flax}, Linen", "flax_linen", (), ("flax",)),
    Peer("haiku", "Haiku {dm-haiku}", "haiku_lstm", ("haiku",), ("dm-haiku",), "peers"),
    Peer("equinox", "Equinox {equinox}", "equinox_lstm", ("equinox",), ("equinox",), "peers"),
    _keras("jax", "JAX", "jax"),
    _keras("torch", "PyTorch", "torch"),
    _keras("tensorflow", "TensorFlow", "tensorflow-cpu"),
)
PEERS = {peer.name: peer for peer in TABLE}


@dataclass(frozen=True)
class Candidate:
    """A peer with options.

    Attributes:
        name: text of `--peer` that names the candidate.
        peer: name of the peer.
        backend: backend of the recurrence (ours) or class of the cell (Flax NNX). If None, the peer chooses.
        dropout: rate of the input dropout. If None, it is the rate of the workload.
        recurrent: rate of the recurrent dropout. If None, it is the rate of the workload.
        dtype: compute dtype.
        slower: waiting time after each call, as a share of the time of the call.
    """

    name: str
    peer: str
    backend: str | None = None
    dropout: float | None = None
    recurrent: float | None = None
    dtype: str = "float32"
    slower: float = 0.0

    def arguments(self) -> list[str]:
        """Return the arguments of `bench.worker` for the candidate, without the workload; the first one is the name of the peer."""
        named = {"--backend": self.backend, "--dropout": self.dropout, "--recurrent-dropout": self.recurrent}
        named |= {"--dtype": self.dtype if self.dtype != "float32" else None, "--slower": self.slower or None}
        return [self.peer, *(text for name, value in named.items() if value is not None for text in (name, str(value)))]

    def key(self, work: Workload) -> tuple:
        """Return the key that `row_key` returns for the rows of the candidate on a workload."""
        dropout = work.dropout if self.dropout is None else self.dropout
        recurrent = work.recurrent_dropout if self.recurrent is None else self.recurrent
        return (self.peer, work.name, self.backend, dropout, recurrent, self.dtype, self.slower)


KEY = ("peer", "workload", "backend", "dropout", "recurrent_dropout", "dtype", "slower")


def row_key(row: Mapping[str, Any]) -> tuple:
    """Return the key that identifies the candidate and the workload of a row."""
    return tuple(row.get(name, default) for name, default in zip(KEY, (None,) * 5 + ("float32", 0.0), strict=True))


def read_candidate(text: str) -> Candidate:
    """Return the candidate that a text names.

    Args:
        text: PEER[:backend=NAME][:dropout=RATE][:recurrent=RATE][:dtype=bfloat16][:slower=SHARE].

    Raises:
        InputError: if the peer is unknown, if it does not have an option, or if the value of an option is invalid.
    """
    from lstm_jax.recurrence import BACKENDS  # imported here, since it imports JAX, which a process of another peer must not hold

    name, *options = text.split(":")
    pairs = {option.split("=")[0]: option.partition("=")[2] for option in options}
    require(name in PEERS, "peer", text, f"give one of {', '.join(PEERS)}")
    known = PEERS[name].options
    require(pairs.keys() <= {*known}, "peer", text, f"give {name} no other options than {', '.join(known)}, as in {name}:dropout=0.2")
    dtype, backend = pairs.get("dtype", "float32"), pairs.get("backend")
    require(dtype in DTYPES, "dtype", dtype, f"give {' or '.join(DTYPES)}")
    require(name != OURS or backend is None or backend in BACKENDS, "backend", backend, f"give one of {', '.join(BACKENDS)}")
    try:
        numbers = {option: float(pairs[option]) for option in (*RATES, "slower") if option in pairs}
    except ValueError as error:
        raise InputError("peer", text, f"give numbers as in {name}:dropout=0.2") from error
    return Candidate(text, name, backend, dtype=dtype, **numbers)


def installed(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the candidates that can run on this machine, and print for each other candidate why it is skipped."""
    found = []
    for candidate in candidates:
        if missing := PEERS[candidate.peer].missing():
            print(f"{candidate.name}: skipped, {missing}", flush=True)
        else:
            found.append(candidate)
    return found


def read_candidates(names: Iterable[str], backends: Iterable[str | None], dtypes: Iterable[str]) -> list[Candidate]:
    """Return the candidates that texts name; the plain name "ours" becomes one candidate for each pair of a backend and a dtype.

    Args:
        names: texts that `read_candidate` reads.
        backends: backends of this project's recurrence. For None, the project chooses.
        dtypes: compute dtypes of this project.

    Raises:
        InputError: if `read_candidate` raises it for a text.
    """
    choices = [
        (f":backend={backend}" if backend else "") + (f":dtype={dtype}" if dtype != "float32" else "")
        for backend, dtype in product(backends, dtypes)
    ]
    return [read_candidate(name + options) for name in names for options in (choices if name == OURS else [""])]


def title(name: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the title of a candidate in a report, with the package versions that its rows record."""
    versions = next((row["versions"] for row in rows if row.get("candidate") == name and "versions" in row), {})
    peer, _, options = name.partition(":")
    text = PEERS[peer].title
    for package in PEERS[peer].packages:
        text = text.replace(f"{{{package}}}", versions.get(package, "").split("+")[0])
    return text + (f", {options.replace(':', ', ')}" if options else "")
