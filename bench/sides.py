"""Sides of a comparison: a peer and its options, as `--peer` takes them, and by which their rows are known."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

from bench.peer import PEERS
from bench.workloads import Workload
from lstm_jax.errors import InputError, require
from lstm_jax.recurrence import BACKENDS

BASE = "ours"
"""The side that the others are compared with."""


@dataclass(frozen=True)
class Side:
    """A peer and its options; None is the workload's own."""

    name: str
    peer: str
    backend: str | None = None
    dropout: float | None = None
    recurrent: float | None = None
    dtype: str = "float32"
    slower: float = 0.0

    def arguments(self) -> list[str]:
        """For `bench.worker`."""
        named = {"--backend": self.backend, "--dropout": self.dropout, "--recurrent-dropout": self.recurrent}
        named |= {"--dtype": self.dtype if self.dtype != "float32" else None, "--slower": self.slower or None}
        return [self.peer, *(text for name, value in named.items() if value is not None for text in (name, str(value)))]

    def key(self, work: Workload) -> tuple:
        """By which its rows are known."""
        dropout, recurrent = (
            own if rate is None else rate for rate, own in ((self.dropout, work.dropout), (self.recurrent, work.recurrent_dropout))
        )
        return (self.peer, work.name, self.backend, dropout, recurrent, self.dtype, self.slower)


def side(name: str) -> Side:
    """Read a side: PEER[:backend=NAME][:dropout=RATE][:recurrent=RATE][:dtype=bfloat16][:slower=SHARE], the last two of ours alone.

    Raises:
        InputError: for an unknown peer or option.
    """
    peer, *options = name.split(":")
    pairs = {option.split("=")[0]: option.partition("=")[2] for option in options}
    if peer not in PEERS or not pairs.keys() <= {"backend", "dropout", "recurrent", "dtype", "slower"}:
        raise InputError("peer", name, f"give one of {', '.join(PEERS)}, with :backend=, :dropout=, :recurrent= or :dtype=")
    dtype, backend = pairs.get("dtype", "float32"), pairs.get("backend")
    require(dtype in ("float32", "bfloat16"), "dtype", dtype, "give float32 or bfloat16")
    require(peer == BASE or not pairs.keys() & {"dtype", "slower"}, "peer", name, f"give dtype and slower to {BASE} alone")
    require(peer != BASE or backend is None or backend in BACKENDS, "backend", backend, f"give one of {', '.join(BACKENDS)}")
    try:
        rates = {option: float(pairs[option]) for option in ("dropout", "recurrent", "slower") if option in pairs}
    except ValueError as error:
        raise InputError("peer", name, "give its rates as in ours:dropout=0.2") from error
    return Side(name, peer, backend, dtype=dtype, **rates)


KEY = ("peer", "workload", "backend", "dropout", "recurrent_dropout")


def row_key(row: dict[str, Any]) -> tuple:
    """As `Side.key`."""
    return (*(row[name] for name in KEY), row.get("dtype", "float32"), row.get("slower", 0.0))


def installed(sides: Iterable[Side]) -> list[Side]:
    """Those that can run here; the others are named."""
    found = []
    for one in sides:
        if missing := PEERS[one.peer].missing():
            print(f"{one.name}: skipped, {' and '.join(missing)} is missing", flush=True)
        else:
            found.append(one)
    return found


def sides_of(peers: Iterable[str], backends: Iterable[str | None], dtypes: Iterable[str]) -> list[Side]:
    """The peers, and in place of ours without options one for each backend and dtype."""
    found = []
    for name in peers:
        of_ours = product(backends, dtypes) if name == BASE else [(None, "float32")]
        parts = [
            (f":backend={backend}" if backend else "") + (f":dtype={dtype}" if dtype != "float32" else "") for backend, dtype in of_ours
        ]
        found += [side(name + options) for options in parts]
    return found
