"""Tests of `run_missing`, which measures the items that have no row yet: order, skipped
items, failures, workers and compressed files.
"""

import gzip
import subprocess
import threading

import pytest

from lstm_jax import InputError
from lstm_jax.lab.sweep.rows import append_rows, read_rows, run_missing


def _square(item):
    if item == 3:
        raise subprocess.CalledProcessError(7, "command")
    return [{"item": item, "square": item**2}, {"item": item, "square": item**2}]


def _describe(item, rows):
    return f"{item}: {len(rows)} rows"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_missing_items_are_measured_in_order(name, tmp_path, capsys):
    path = tmp_path / name
    append_rows(path, {"item": 2, "square": 4}, {"other": 1})
    wanted = {item: item for item in (4, 2, 3, 1)}
    rows = run_missing(
        path, wanted, lambda row: row.get("item"), _square, "items", _describe
    )
    assert [row.get("item") for row in rows] == [2, None, 4, 4, 1, 1]
    assert rows == list(read_rows(path))
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "4: 2 rows",
        "3: failed, ended with code 7",
        "1: 2 rows",
        (
            "1 items failed; their messages are above, and the same command runs "
            "them again"
        ),
    ]
    again = run_missing(
        path,
        {4: 4, 1: 1},
        lambda row: row.get("item"),
        lambda item: pytest.fail("it has rows"),
        "items",
        _describe,
    )
    assert again == rows


def test_workers_and_errors(tmp_path):
    path, items = tmp_path / "rows.jsonl", [n for n in range(20) if n != 3]
    rows = run_missing(
        path,
        {n: n for n in items},
        lambda row: row["item"],
        _square,
        "items",
        _describe,
        workers=4,
    )
    assert sorted(row["item"] for row in rows) == sorted(items * 2)

    def broken(item):
        raise InputError("item", item, "give another")

    with pytest.raises(InputError, match="item: 30"):
        run_missing(path, {30: 30}, lambda row: row["item"], broken, "items", _describe)
    assert list(read_rows(path)) == rows


def test_a_damaged_compressed_file(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    append_rows(path, {"a": 1})
    append_rows(path, {"b": 2})
    assert gzip.decompress(path.read_bytes()) == b'{"a": 1}\n{"b": 2}\n'
    for content, message in (
        (path.read_bytes()[:-6], ".*name a file that is complete"),
        (b'{"a": 1}\n', "not rows of JSON"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"rows\.jsonl\.gz: {message}"):
            list(read_rows(path))


def test_an_error_drops_the_items_not_yet_started(tmp_path):
    started = []

    def measure(item):
        threading.Event().wait(item / 10)
        started.append(item)
        return [{"item": item}]

    def interrupted(item, rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_missing(
            tmp_path / "rows.jsonl",
            {n: n for n in range(50)},
            lambda row: row["item"],
            measure,
            "items",
            interrupted,
        )
    assert len(started) < 5
