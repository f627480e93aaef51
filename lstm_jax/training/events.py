"""TensorBoard event file of a run. A resumed run continues the file of the interrupted run.

The file is a sequence of records. A record consists of the length of an event, the checksum of the length, the event, and the checksum of
the event.
"""

import itertools
import math
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lstm_jax.errors import InputError, system_errors

_HEADER, _CHECKSUM = 12, 4
_OURS = ".lstm_jax"
"""Ending of the event files that this module writes."""


def events_file(folder: Path, resumed: bool, largest: int | float = math.inf) -> Path:
    """Return the path of the event file of a training."""
    found = sorted(folder.glob(f"events.out.tfevents.*{_OURS}")) or sorted(folder.glob("events.out.tfevents.*"))
    if found and resumed and all(step <= largest for _, step in _events(found[-1])):
        return found[-1]
    return folder / f"events.out.tfevents.{int(time.time()):010}.{os.uname().nodename}.{time.time_ns()}{_OURS}"


def append_scalars(path: Path, step: int, scalars: Mapping[str, float]) -> None:
    """Append the scalars of one training step to an event file. The file and the folders above it are created if they do not exist."""
    Event, Summary = _messages()
    now = time.time()
    values = (Summary.Value(tag=name, simple_value=value) for name, value in scalars.items())
    made = [Event(wall_time=now, step=step, summary=Summary(value=[value])) for value in values]
    with system_errors(f"writing {path}", "free some space or name another folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            head = [] if file.tell() else [Event(wall_time=now, file_version="brain.Event:2")]
            file.write(b"".join(_record(event.SerializeToString()) for event in (*head, *made)))


def cut_off(path: Path, step: int) -> None:
    """Truncate an event file, so that it ends before the first event that is damaged or has a step number of at least `step`."""
    kept = [end for end, _ in itertools.takewhile(lambda event: not event[1] >= step > 0, _events(path))]
    try:
        if path.stat().st_size > (end := max(kept, default=0)):
            os.truncate(path, end)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"events {path}", error.strerror, "move the file away") from error


def _events(path: Path) -> list[tuple[int, int]]:
    """Return a list with one pair of ints for each event of a file that comes before the first damaged event."""
    from google.protobuf.message import DecodeError

    Event, _ = _messages()
    found, end = [], 0
    try:
        content = path.read_bytes()
        while len(content) >= (begin := end + _HEADER):
            size = struct.unpack("<Q", content[end : end + 8])[0]
            data = content[begin : begin + size]
            if content[end : begin + size + _CHECKSUM] != _record(data):
                break
            end = begin + size + _CHECKSUM
            found.append((end, Event.FromString(data).step))
    except FileNotFoundError:
        return []
    except (OSError, DecodeError) as error:
        raise InputError(f"events {path}", getattr(error, "strerror", "") or error, "move the file away") from error
    return found


def _messages() -> tuple[Any, Any]:
    from tensorboard.compat.proto import event_pb2, summary_pb2

    return getattr(event_pb2, "Event"), getattr(summary_pb2, "Summary")  # noqa: B009


def _record(data: bytes) -> bytes:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    header = struct.pack("<Q", len(data))
    return header + struct.pack("<I", masked_crc32c(header)) + data + struct.pack("<I", masked_crc32c(data))
