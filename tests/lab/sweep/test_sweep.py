"""Tests of sweeps: grids, ids, rows and tables, runs that raise an error or are killed,
and a sweep that is killed.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jax
import made_sweep
import pytest
from made_sweep import (
    ENVIRONMENT,
    Adam,
    Config,
    Inner,
    Nested,
    Optional,
    Said,
    Sgd,
    run_python,
)

from lstm_jax.base.errors import InputError
from lstm_jax.lab import sweep
from lstm_jax.lab.runs.folder import commit_of
from lstm_jax.lab.sweep import configs, executors
from lstm_jax.lab.sweep.rows import read_rows
from lstm_jax.training.config import TrainConfig


@pytest.mark.usefixtures("unchecked")
def test_grids_and_overrides():
    found = sweep.grid(Config(), number=[1, 2], **{"inner.scale": [0.5, 2.0]})
    assert [(c.number, c.inner.scale) for c in found] == [
        (1, 0.5),
        (1, 2.0),
        (2, 0.5),
        (2, 2.0),
    ]
    assert sweep.variants(Config(), [{"number": 5}, {"inner.scale": 3.0}]) == [
        Config(5),
        Config(inner=Inner(3.0)),
    ]
    assert sweep.override(
        Config(), {"inner.scale": 3.0, "inner": Inner(4.0)}
    ) == Config(inner=Inner(4.0))
    assert sweep.override(
        Config(), {"inner": Inner(4.0), "inner.scale": 3.0, "number": 2}
    ) == Config(2, inner=Inner(3.0))
    # one alone would be refused
    for changes in itertools.permutations(
        {"schedule": "cosine", "final_learning_rate": 1e-5}.items()
    ):
        assert sweep.override(TrainConfig(), dict(changes)) == TrainConfig(
            schedule="cosine", final_learning_rate=1e-5
        )
    # a field has the name of an argument of `grid`
    named = dataclasses.make_dataclass("Named", [("config", str, "a")], frozen=True)
    assert [made.config for made in sweep.grid(named(), config=["b", "c"])] == [
        "b",
        "c",
    ]
    with pytest.raises(InputError, match=r"^dict in a config: "):
        sweep.run_id(made_sweep.show, Nested(path={1: "a", "b": 2}))
    for config, axes, found in (
        (Config(), {"colour": ["red"]}, "field: colour"),
        (Config(), {"inner.width": [1]}, "field: width"),
        (Optional(), {"one.scale": [2.0]}, "field: scale; .* is no config"),
        (Optional(one=Inner), {"one.scale": [2.0]}, "field: scale; .* is no config"),
        (Inner(), {"scale": 3}, "scale: 3"),
        (Inner(), {"scale": "abc"}, "scale: 'abc'"),
    ):
        with pytest.raises(InputError, match=f"^{found}"):
            sweep.grid(config, **axes)


def test_the_classes_of_inner_configs_count():
    """An inner config whose class is not the default one changes the id of a run, even
    if all values are equal.

    Without such an inner config, the id is a hash of the function's name and the
    config's values.
    """
    wanted = [
        Nested(),
        Nested(Adam()),
        Nested(more=(Sgd(),)),
        Nested(more=(Adam(),)),
        Nested(Adam(), more=(Adam(),)),
    ]
    # all classes are the usual ones
    assert configs.other_classes(Optional(Inner(), (Inner(),)), Optional()) == {}
    assert len({sweep.run_id(made_sweep.show, config) for config in wanted}) == len(
        wanted
    )
    text = json.dumps(["made_sweep:show", dataclasses.asdict(Nested())], sort_keys=True)
    assert (
        sweep.run_id(made_sweep.show, Nested())
        == hashlib.sha256(text.encode()).hexdigest()[:16]
    )
    needed = dataclasses.make_dataclass(
        "Needed", [("inner", Inner), ("other", "Inner")], frozen=True
    )(Inner(2.0), Inner())
    assert configs.other_classes(needed, needed) == {}
    assert configs.other_classes(Nested(Adam()), Nested()) == {
        "optimizer": "made_sweep:Adam"
    }


def test_configs_of_two_classes_with_equal_values(tmp_path):
    """A sweep runs a config even if the file has the row of a config of another class
    with equal values.

    Both configs have the same id, but a row names the class of its config. A row that
    an older version wrote does not name the class, and counts as the row of a config of
    any class.
    """
    path, kinds = tmp_path / "rows.jsonl", (Sgd, Adam)
    assert sweep.run_id(made_sweep.show, Sgd()) == sweep.run_id(made_sweep.show, Adam())
    sweep.run(made_sweep.show, [Sgd()], path)
    with pytest.warns(
        UserWarning,
        match=r"rows.jsonl: of 1 configs, the rows are of another class with equal "
        r"values and do not count$",
    ):
        sweep.run(made_sweep.show, [Adam()], path)
    assert [
        sweep.run(made_sweep.show, [kind()], path)[0]["result"]["config"]
        for kind in kinds
    ] == ["Sgd(rate=0.1)", "Adam(rate=0.1)"]
    assert [row["class"] for row in read_rows(path)] == [
        "made_sweep:Sgd",
        "made_sweep:Adam",
    ]
    assert [sweep.existing_rows(made_sweep.show, [kind()], path) for kind in kinds] == [
        [row] for row in read_rows(path)
    ]
    for call in (sweep.run, sweep.existing_rows):
        with pytest.raises(
            InputError,
            match=r"^configs with the same values: made_sweep:Sgd .* made_sweep:Adam",
        ):
            call(made_sweep.show, [Sgd(0.2), Sgd(0.2), Sgd(), Adam()], path)
    old = [
        {name: value for name, value in row.items() if name != "class"}
        for row in read_rows(path)
    ][:1]
    path.write_text(json.dumps(old[0]) + "\n")
    assert [sweep.run(made_sweep.show, [kind()], path) for kind in kinds] == [old, old]


@pytest.mark.parametrize("where", ["here", "processes"])
def test_a_config_reaches_its_run_unchanged(where, tmp_path):
    wanted = [
        Nested(Adam(0.2), Inner(3.0), ((1,), ()), [["x"], ("y",)], (Adam(), Sgd()))
    ]
    (row,) = sweep.run(
        made_sweep.show, wanted, tmp_path / "rows.jsonl", where, workers=1
    )
    assert row["result"]["config"] == repr(wanted[0])


def test_a_sweep_of_twelve(tmp_path):
    """A sweep with two failing runs is killed midway. When it is repeated, it ends with
    twelve rows, and no finished run is repeated.
    """
    path = tmp_path / "rows.jsonl"
    command, quiet = [made_sweep.__file__, tmp_path], subprocess.DEVNULL
    with subprocess.Popen(
        [sys.executable, *command],
        env=ENVIRONMENT,
        stdout=quiet,
        stderr=quiet,
        start_new_session=True,
    ) as first:
        while not path.exists() or len(path.read_text().splitlines()) < 4:
            assert first.poll() is None
            time.sleep(0.02)
        os.killpg(first.pid, signal.SIGKILL)
    before = list(read_rows(path))
    assert 4 <= len(before) < 12
    again = run_python(*command)
    assert again.returncode == 0, again.stderr
    rows = list(read_rows(path))
    assert rows[: len(before)] == before
    assert sorted(row["config"]["number"] for row in rows) == list(range(12))
    by_number = {row["config"]["number"]: row for row in rows}
    assert {
        number for number, row in by_number.items() if row["status"] == "failed"
    } == {3, 7}
    assert by_number[3]["error"] == "ValueError: no such thing"
    assert by_number[7]["error"] == "killed by signal 9"
    # the tuple and the inner config reached the process
    assert by_number[5]["result"] == {"score": 13.0}
    ran = Counter((tmp_path / "log").read_text().split())
    assert all(ran[str(row["config"]["number"])] == 1 for row in before)
    third = run_python(*command)
    assert (third.returncode, third.stdout) == (0, "rows.jsonl: 12 cached\n")
    assert list(read_rows(path)) == rows


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_share_the_cores_out(tmp_path, workers):
    every = sorted(os.sched_getaffinity(0))
    rows = sweep.run(
        made_sweep.cores,
        [Config(n) for n in range(3)],
        tmp_path / "rows.jsonl",
        "processes",
        workers,
    )
    found = {tuple(row["result"]["cores"]) for row in rows}
    assert found <= {tuple(every[n::workers] or every) for n in range(workers)}
    assert len(found) == min(workers, len(every))


def test_here_and_retry(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    wanted = [
        Config(n, "raise" if n == 1 else "", str(tmp_path / "log")) for n in range(3)
    ]
    rows = sweep.run(made_sweep.score, wanted, path)
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    with pytest.warns(
        UserWarning,
        match=r"rows.jsonl: 1 of 3 runs have failed before; retry=True repeats them",
    ):
        assert sweep.run(made_sweep.score, [*wanted, wanted[0]], path) == rows
    assert len(path.read_text().splitlines()) == 3
    sweep.run(made_sweep.score, wanted, path, retry=True)
    assert len(path.read_text().splitlines()) == 4  # only the failed one
    assert "failed" in capsys.readouterr().out
    assert sweep.table(rows)[0][2:8] == [
        "number",
        "wrong",
        "log",
        "sizes",
        "inner.scale",
        "score",
    ]


def test_a_run_that_a_signal_interrupts_ends_the_sweep(tmp_path):
    """A run that raises `Interrupted` ends the sweep.

    The run has no row, not even one of a failed run, so that a repeated sweep runs it
    again.
    """
    path = tmp_path / "rows.jsonl"
    wanted = [
        Config(n, "interrupted" if n == 1 else "", str(tmp_path / "log"))
        for n in range(3)
    ]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt, match="interrupted after step 7"):
            sweep.run(made_sweep.score, wanted, path)
        assert [row["config"]["number"] for row in read_rows(path)] == [0]
    assert (tmp_path / "log").read_text().split() == ["0", "1", "1"]


def test_rows_of_an_edited_function(tmp_path):
    path = tmp_path / "rows.jsonl"
    wanted = [
        Config(0, "", str(tmp_path / "log")),
        Config(2, "", str(tmp_path / "log")),
    ]
    rows = sweep.run(made_sweep.score, wanted, path)
    assert sweep.run(made_sweep.score, wanted, path) == rows  # without a warning
    edited = path.read_text().replace(rows[0]["code"], "0123456789abcdef")
    path.write_text(edited)
    with pytest.warns(
        UserWarning,
        match="2 of 2 rows are of another version of score; a new file repeats them",
    ):
        assert len(sweep.run(made_sweep.score, wanted, path)) == 2
    assert path.read_text() == edited
    # rows of an earlier version of lstm_jax
    path.write_text(edited.replace('"code": "0123456789abcdef", ', ""))
    assert len(sweep.run(made_sweep.score, wanted, path)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "per_job"), [(0, 0), (2, 4)])
def test_slurm_through_submitit_on_this_machine(
    workers, per_job, tmp_path, monkeypatch
):
    """A sweep of 16 runs on submitit's cluster "local" has 16 rows, although one run
    raises an error and one kills its job.

    The other runs of the killed job are executed by a new job, and no run is executed
    twice.
    """
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    monkeypatch.setattr(executors, "ARRAY_JOBS", 10)  # so that there are two arrays
    wanted = [
        Config(n, {3: "raise", 9: "killed"}.get(n, ""), str(tmp_path / "log"))
        for n in range(16)
    ]
    options = {"cluster": "local", "timeout_min": 2}
    call = functools.partial(
        sweep.run,
        made_sweep.score,
        wanted,
        tmp_path / "rows.jsonl",
        "slurm",
        workers,
        options=options,
    )
    rows = call(per_job=per_job)
    assert [row.get("result") for row in rows] == [
        None if n in (3, 9) else {"score": n + 3.0} for n in range(16)
    ]
    assert rows[3]["error"] == "ValueError: no such thing"
    assert rows[9]["error"]
    with pytest.warns(UserWarning, match="2 of 16 runs have failed before"):
        assert call() == rows
    assert Counter((tmp_path / "log").read_text().split()) == Counter(
        map(str, range(16))
    )
    assert not list((tmp_path / "rows.jobs").glob("*.jsonl"))


def test_brackets_and_colons_in_an_error_are_no_markup(tmp_path, capsys, monkeypatch):
    """On a terminal, the text of an error is printed unchanged, even if it looks like
    markup of Rich, and the sweep goes on.

    It also goes on after a run that exits.
    """
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    rows = sweep.run(
        made_sweep.say,
        [Said("[/INST]"), Said("exit 3"), Said("[red] :smile:")],
        tmp_path / "rows.jsonl",
    )
    assert [row["error"] for row in rows] == [
        "ValueError: [/INST]",
        "SystemExit: exit 3",
        "ValueError: [red] :smile:",
    ]
    shown = capsys.readouterr().out
    assert all(f"failed (0.0 s): {row['error']}" in shown for row in rows)


def test_lines_name_what_differs(tmp_path, capsys):
    log = str(tmp_path / "log")
    wanted = [
        Config(1, log=log),
        Config(2, "raise", log),
        Config(2, log=log, inner=Inner(1 / 3)),
    ]
    rows = sweep.run(made_sweep.score, wanted, tmp_path / "rows.jsonl")
    sweep.run(made_sweep.score, wanted[::2], tmp_path / "rows.jsonl")
    sweep.run(made_sweep.score, [Config(5, log=log)], tmp_path / "rows.jsonl")
    assert capsys.readouterr().out.splitlines() == [
        "number=1 wrong= inner.scale=1: score 4 (0.0 s)",
        "number=2 wrong=raise inner.scale=1: failed (0.0 s): ValueError: no such thing",
        "number=2 wrong= inner.scale=0.333333: score 3.667 (0.0 s)",
        "rows.jsonl: 2 done, 1 failed",
        "rows.jsonl: 2 cached",
        f"{sweep.run_id(made_sweep.score, Config(5, log=log))}: score 8 (0.0 s)",
        "rows.jsonl: 1 done",
    ]
    about = rows[0]["about"]
    assert about["device"] == f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    assert (about["jax"], about["python"]) == (
        jax.__version__,
        platform.python_version(),
    )
    assert abs(datetime.now(UTC) - datetime.fromisoformat(about["date"])) < timedelta(
        minutes=5
    )
    assert about["commit"] == commit_of(Path(made_sweep.__file__), ":/*.py")


def test_two_identical_sweeps_at_the_same_time(tmp_path):
    """The second call is refused. A call with other configs may append to the same
    file.
    """

    def call_again(config):
        return {
            "runs": len(
                sweep.run(
                    call_again,
                    [Config(again) for again in range(config.number)],
                    tmp_path / "rows.jsonl",
                )
            )
        }

    (row,) = sweep.run(call_again, [Config(2)], tmp_path / "rows.jsonl")
    assert row["result"] == {"runs": 2}
    (row,) = sweep.run(
        identical, [Config(log=str(tmp_path / "rows.jsonl"))], tmp_path / "rows.jsonl"
    )
    assert row["error"].startswith(
        f"InputError: rows {tmp_path / 'rows.jsonl'}: in use by process "
        f"{os.getpid()} on "
    )
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def identical(config):
    return sweep.run(identical, [config], config.log)[0]
