"""Output of the callbacks: the file of metrics, TensorBoard events and the printed
table.
"""

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from lstm_jax.base.errors import InputError
from lstm_jax.lab.runs.reports import (
    metrics_file,
    print_row,
    tensorboard,
)
from lstm_jax.training.fit import EpochRecord

FIRST = {
    "epoch": 1,
    "step": 6,
    "train_loss": 0.75,
    "train_accuracy": 0.5,
    "seconds": 2.0,
    "validation_auc": None,
    "note": "text",
}
SECOND = FIRST | {"epoch": 2, "step": 12, "train_loss": 0.5, "validation_auc": 0.875}


def record(*rows: dict, resumed: bool = False) -> EpochRecord:
    return EpochRecord(len(rows), rows[-1]["step"], rows[-1], rows, {}, resumed=resumed)


def test_metrics_file_holds_all_rows_once(tmp_path):
    write = metrics_file(tmp_path / "run" / "metrics.jsonl")
    write(record(FIRST))
    write(record(FIRST, SECOND))
    write(record(FIRST, SECOND))
    assert [
        json.loads(line)
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ] == [FIRST, SECOND]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_a_metric_that_is_no_number_is_null(tmp_path):
    """A NaN or infinite metric is written as null, because JSON has neither NaN nor
    Infinity, and most readers refuse them.
    """
    metrics_file(tmp_path / "metrics.jsonl")(
        record(
            FIRST
            | {
                "train_loss": float("nan"),
                "test_perplexity": float("inf"),
                "list": [-np.inf],
            }
        )
    )
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    wanted = FIRST | {"train_loss": None, "test_perplexity": None, "list": [None]}
    assert json.loads(line, parse_constant=pytest.fail) == wanted


def events(folder) -> dict[str, list[tuple[int, float]]]:
    """Return the steps and the values of each scalar in a folder, as TensorBoard shows
    them.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in shown.Scalars(tag)]
        for tag in shown.Tags()["scalars"]
    }


BOTH = {
    "train_loss": [(6, 0.75), (12, 0.5)],
    "train_accuracy": [(6, 0.5), (12, 0.5)],
    "seconds": [(6, 2.0), (12, 2.0)],
    "validation_auc": [(12, 0.875)],
}


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("repeated", [1, 2])
def test_tensorboard_scalars(repeated, same, tmp_path):
    """TensorBoard shows each epoch once, after a resumed run has repeated one or two
    epochs, with the same callback or a new one.
    """
    write = tensorboard(tmp_path / "events")
    write(record(FIRST | {"train_loss": 9.0} if repeated == 2 else FIRST))
    write(record(FIRST, SECOND | {"train_loss": 9.0}))
    again = write if same else tensorboard(tmp_path / "events")
    if repeated == 2:
        again(record(FIRST, resumed=True))
    again(record(FIRST, SECOND, resumed=True))
    assert events(tmp_path / "events") == BOTH


def test_a_new_training_begins_a_new_file(tmp_path):
    """A new training, with the same callback or another one, leaves the event files of
    an earlier training unchanged.
    """
    write = tensorboard(str(tmp_path))
    write(record(FIRST))
    write(record(FIRST, SECOND))
    (first,) = tmp_path.iterdir()
    before = first.read_bytes()
    for callback in (write, tensorboard(tmp_path)):
        callback(record(FIRST))
    assert first.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3
    assert len(events(tmp_path)["train_loss"]) == 4


def test_events_in_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"^writing .*file/events.*: .*; free some space"
    ):
        tensorboard(tmp_path / "file")(record(FIRST))


def table_of(rows: list[dict], width: int, best: int = 0, **options) -> list[str]:
    file = io.StringIO()
    show = print_row(
        Console(file=file, width=width, force_terminal=bool(options)), **options
    )
    for n in range(len(rows)):
        show(
            dataclasses.replace(
                record(*rows[: n + 1]),
                best_epoch=min(n + 1, best),
                last=n + 1 == len(rows),
            )
        )
    return file.getvalue().splitlines()


def test_print_row():
    assert table_of([FIRST, SECOND], 200) == [
        "       train             validation",
        "epoch    loss  accuracy     auc  seconds",
        "    1  0.7500    0.5000       -      2.0",
        "    2  0.5000    0.5000  0.8750      2.0",
    ]


def test_print_row_leaves_out_the_test_part():
    row = {
        "epoch": 1,
        "step": 6,
        "train_loss": 0.5,
        "train_accuracy": 0.25,
        "seconds": 31.25,
    }
    row |= {
        f"{split}_{name}": 0.75
        for split in ("validation", "test")
        for name in ("loss", "accuracy", "auc", "ece")
    }
    heading, metrics, line = table_of([row], 50)
    assert heading.split() == ["train", "validation"]
    assert metrics.split() == [
        "epoch",
        "loss",
        "acc.",
        "loss",
        "acc.",
        "auc",
        "seconds",
    ]
    assert line.split() == ["1", "0.5000", "0.2500", *["0.7500"] * 3, "31.2"]
    assert table_of([row], 80)[1].split()[2] == "accuracy"


def test_print_row_begins_a_new_table_if_the_metrics_change():
    lines = table_of([FIRST, FIRST | {"epoch": 2, "validation_loss": 1.0}], 80)
    assert [line.split()[0] for line in lines] == [
        "train",
        "epoch",
        "1",
        "train",
        "epoch",
        "2",
    ]


@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        (0.12345, "0.1235"),
        (-0.48961, "-0.490"),
        (12.3456, "12.346"),
        (1234.56, "1234.6"),
        (1e9, "1000000000"),
    ],
)
def test_print_row_keeps_columns_for_any_number(loss, shown):
    assert table_of([FIRST | {"train_loss": loss}], 80)[2].split()[1] == shown


def test_print_row_of_many_epochs():
    """A star marks the best epoch so far; of many quick epochs the first, the last and
    the best are printed.
    """
    shown = ["0.7500", "0.5000", "-"]
    rows = [FIRST | {"epoch": n + 1} for n in range(22)]
    lines = table_of(rows, 80, best=21, epochs=25)
    assert [line.split() for line in lines[2:]] == [
        ["1", *shown, "2.0", "*"],
        ["22", *shown, "42.0"],
        ["21", *shown, "*", "the", "best"],
    ]
    assert len(table_of(rows, 80, epochs=20)) == len(table_of(rows, 80)) == 24
