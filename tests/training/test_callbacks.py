"""Output of the callbacks: the file of metrics, TensorBoard events and the printed table."""

import contextlib
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lstm_jax.errors import InputError
from lstm_jax.training.callbacks import EpochRecord, _append_scalars, metrics_file, print_row, tensorboard

FIRST = {"epoch": 1, "step": 6, "train_loss": 0.75, "train_accuracy": 0.5, "seconds": 2.0, "test_auc": None, "note": "text"}
SECOND = FIRST | {"epoch": 2, "step": 12, "train_loss": 0.5, "test_auc": 0.875}


def record(*rows: dict, resumed: bool = False) -> EpochRecord:
    return EpochRecord(len(rows), rows[-1]["step"], rows[-1], rows, {}, resumed=resumed)


def test_metrics_file_holds_all_rows_once(tmp_path):
    write = metrics_file(tmp_path / "run" / "metrics.jsonl")
    write(record(FIRST))
    write(record(FIRST, SECOND))
    write(record(FIRST, SECOND))
    assert [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()] == [FIRST, SECOND]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_a_metric_that_is_no_number_is_null(tmp_path):
    """A NaN or infinite metric is written as null, because JSON has neither NaN nor Infinity, and most readers refuse them."""
    metrics_file(tmp_path / "metrics.jsonl")(
        record(FIRST | {"train_loss": float("nan"), "test_perplexity": float("inf"), "list": [-np.inf]})
    )
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    wanted = FIRST | {"train_loss": None, "test_perplexity": None, "list": [None]}
    assert json.loads(line, parse_constant=pytest.fail) == wanted


def events(folder) -> list[tuple[str, int, float]]:
    """Return (tag, step, value) of each entry in the only event file of a folder, as TensorBoard's reader reads it."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.errors import OutOfRangeError
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    (path,) = folder.iterdir()
    reader, found = PyRecordReader_New(str(path)), []
    with contextlib.suppress(OutOfRangeError):
        while True:
            reader.GetNext()  # checks the checksums
            event = Event.FromString(reader.record())
            found += [(event.file_version, event.step, 0.0)] if event.file_version else []
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


ONE = [("brain.Event:2", 0, 0.0), ("train_loss", 6, 0.75), ("train_accuracy", 6, 0.5), ("seconds", 6, 2.0)]
TWO = [("train_loss", 12, 0.5), ("train_accuracy", 12, 0.5), ("seconds", 12, 2.0), ("test_auc", 12, 0.875)]


def test_tensorboard_scalars(tmp_path):
    write = tensorboard(tmp_path / "events")
    write(record(FIRST))
    assert events(tmp_path / "events") == ONE
    write(record(FIRST, SECOND))
    assert events(tmp_path / "events") == ONE + TWO


@pytest.mark.parametrize("lost", [0.0, 0.01, 0.1, 0.4, 1.0])
def test_a_resumed_run_goes_on_with_its_events(lost, tmp_path):
    """A resumed run writes the events of the repeated epoch exactly once, whether the file has all, some or none of them.

    `lost` is the share of the bytes of these events that the file has lost.
    """
    write = tensorboard(tmp_path)
    write(record(FIRST))
    (path,) = tmp_path.iterdir()
    before = path.stat().st_size
    write(record(FIRST, SECOND))
    after = path.stat().st_size
    os.truncate(path, after - math.ceil(lost * (after - before)))
    tensorboard(tmp_path)(record(FIRST, SECOND, resumed=True))
    assert events(tmp_path) == ONE + TWO


@pytest.mark.parametrize("name", ["", "events.out.tfevents.1700000000.host"])
def test_a_resumed_run_repeats_its_first_epochs(name, tmp_path):
    """The event file has the events of the first epoch once, after a resumed run has repeated this epoch.

    This also holds if a former version of the project named the event file, and if the resumed run uses the callback of the first run.
    """
    write = tensorboard(str(tmp_path))
    write(record(FIRST))
    if name:
        (path,) = tmp_path.iterdir()
        path.rename(tmp_path / name)
    again = tensorboard(tmp_path) if name else write
    again(record(FIRST, resumed=True))
    assert events(tmp_path) == ONE
    again(record(FIRST, SECOND, resumed=True))
    again(record(FIRST, SECOND, resumed=True))
    assert events(tmp_path) == ONE + TWO


def test_events_of_another_training_are_kept(tmp_path):
    """A resumed training without a checkpoint begins a new event file, and leaves the event file of a longer training unchanged."""
    write = tensorboard(tmp_path)
    write(record(FIRST, SECOND))
    (other,) = tmp_path.iterdir()
    before = other.read_bytes()
    for count, callback in ((2, tensorboard(tmp_path)), (2, write)):  # the second one repeats the first epoch of the first one's file
        callback(record(FIRST, resumed=True))
        assert other.read_bytes() == before
        assert len(list(tmp_path.iterdir())) == count


def test_a_new_training_begins_a_new_file(tmp_path):
    """A new training begins a new event file, and leaves the files of an earlier training and of another program unchanged.

    This also holds if both trainings use the same callback.
    """
    foreign = tmp_path / "events.out.tfevents.9999999999.host"
    _append_scalars(foreign, 40, {"x": 1.0})
    kept = foreign.read_bytes()
    write = tensorboard(tmp_path)
    write(record(FIRST))
    write(record(FIRST, SECOND))
    (first,) = set(tmp_path.iterdir()) - {foreign}
    before = first.read_bytes()
    for callback in (write, tensorboard(tmp_path)):
        callback(record(FIRST))
    assert first.read_bytes() == before
    assert foreign.read_bytes() == kept
    assert len(list(tmp_path.iterdir())) == 4


def test_events_on_a_full_disk(tmp_path):
    with pytest.raises(InputError, match=r"^writing .*full: No space left on device; free some space"):
        _append_scalars(Path("/dev/full"), 1, {"x": 1.0})


def table_of(rows: list[dict], width: int) -> list[str]:
    file = io.StringIO()
    show = print_row(Console(file=file, width=width))
    for n in range(len(rows)):
        show(record(*rows[: n + 1]))
    return file.getvalue().splitlines()


def test_print_row():
    assert table_of([FIRST, SECOND], 200) == [
        "       train             test",
        "epoch    loss  accuracy     auc  seconds",
        "    1  0.7500    0.5000       -      2.0",
        "    2  0.5000    0.5000  0.8750      2.0",
    ]


def test_print_row_of_three_splits_fits_in_80_columns():
    row = {"epoch": 1, "step": 6, "train_loss": 0.5, "train_accuracy": 0.25, "seconds": 31.25}
    row |= {f"{split}_{name}": 0.75 for split in ("validation", "test") for name in ("loss", "accuracy", "auc", "ece")}
    heading, metrics, line = table_of([row], 80)
    assert heading.split() == ["train", "validation", "test"]
    assert metrics.split() == ["epoch", "loss", "acc.", *["loss", "acc.", "auc"] * 2, "seconds"]
    assert line.split() == ["1", "0.5000", "0.2500", *["0.7500"] * 6, "31.2"]
    assert len(metrics) == len(line) <= 80
    assert table_of([row], 200)[1].split()[2] == "accuracy"


def test_print_row_begins_a_new_table_if_the_metrics_change():
    lines = table_of([FIRST, FIRST | {"epoch": 2, "test_loss": 1.0}], 80)
    assert [line.split()[0] for line in lines] == ["train", "epoch", "1", "train", "epoch", "2"]


@pytest.mark.parametrize(
    ("loss", "shown"), [(0.12345, "0.1235"), (-0.48961, "-0.490"), (12.3456, "12.346"), (1234.56, "1234.6"), (1e9, "1000000000")]
)
def test_print_row_keeps_columns_for_any_number(loss, shown):
    assert table_of([FIRST | {"train_loss": loss}], 80)[2].split()[1] == shown
