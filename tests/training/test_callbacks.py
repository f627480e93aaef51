"""What callbacks write."""

import io
import json
import struct

import pytest
from rich.console import Console

from lstm_jax.training.callbacks import EpochRecord, metrics_file, print_row, tensorboard

FIRST = {"epoch": 1, "step": 6, "train_loss": 0.75, "train_accuracy": 0.5, "seconds": 2.0, "test_auc": None, "note": "text"}
SECOND = FIRST | {"epoch": 2, "step": 12, "train_loss": 0.5, "test_auc": 0.875}


def record(*rows: dict) -> EpochRecord:
    return EpochRecord(len(rows), rows[-1]["step"], rows[-1], rows, {})


def test_metrics_file_holds_all_rows_once(tmp_path):
    write = metrics_file(tmp_path / "run" / "metrics.jsonl")
    write(record(FIRST))
    write(record(FIRST, SECOND))
    write(record(FIRST, SECOND))
    assert [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()] == [FIRST, SECOND]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_tensorboard_scalars(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    write = tensorboard(tmp_path)
    write(record(FIRST))
    write(record(FIRST, SECOND))
    found = []
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        while content:  # length, its checksum, the event, its checksum
            size = struct.unpack("<Q", content[:8])[0]
            event = Event.FromString(content[12 : 12 + size])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            content = content[16 + size :]
    assert sorted(found) == sorted(
        [
            *[("train_loss", 6, 0.75), ("train_accuracy", 6, 0.5), ("seconds", 6, 2.0)],
            *[("train_loss", 12, 0.5), ("train_accuracy", 12, 0.5), ("seconds", 12, 2.0), ("test_auc", 12, 0.875)],
        ]
    )


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (FIRST, "epoch 1: train loss 0.7500, train accuracy 0.5000 (2.0 s)\n"),
        (SECOND, "epoch 1: train loss 0.5000, train accuracy 0.5000, test auc 0.8750 (2.0 s)\n"),
    ],
)
def test_print_row(row, line):
    file = io.StringIO()
    print_row(Console(file=file, width=200))(record(row))
    assert file.getvalue() == line
