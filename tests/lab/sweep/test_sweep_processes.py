"""Runs of a sweep in processes and Slurm jobs: imported scripts, ids, the working
folder, signals, and what is refused.
"""

import os
import signal
import stat

import made_sweep
import pytest
from made_sweep import Config, run_python

from lstm_jax.base.errors import InputError, Interrupted
from lstm_jax.lab import sweep
from lstm_jax.lab.sweep import executors
from lstm_jax.lab.sweep.rows import read_rows


def stop(config):
    """Raise `Interrupted`, as a training of the library does after a signal.

    The signal has the number `config.number`. If the number is 0, the function returns
    a result instead.
    """
    if config.number:
        raise Interrupted(3, config.number)
    return {"done": 1}


def move(config):
    """Change the working folder to `config.log`, and return the number of the config."""
    os.chdir(config.log)
    return {"number": config.number}


SCRIPT = """
from dataclasses import dataclass
from lstm_jax.lab import sweep

@dataclass(frozen=True)
class Config:
    number: int = 0

def run(config):
    return {"file": FILE, "id": sweep.run_id(run, config)}

if __name__ == "__main__":
    import sys
    options = {"cluster": "local", "timeout_min": 2} if sys.argv[1] == "slurm" else None
    for row in sweep.run(run, [Config()], "rows.jsonl", sys.argv[1], workers=1, options=options):
        print(row["result"], row["id"] == row["result"]["id"])
"""


@pytest.mark.parametrize(
    "where", ["processes", pytest.param("slurm", marks=pytest.mark.slow)]
)
def test_the_script_that_was_started_is_run(where, tmp_path):
    """The processes of a sweep import the script that was started, although the working
    folder contains a script of the same name.

    The started script is in a subfolder. In a run, `sweep.run_id` returns the id that
    the row of the run has.
    """
    if where == "slurm":
        pytest.importorskip("submitit")
    (tmp_path / "inner").mkdir()
    for path, name in (
        (tmp_path / "inner" / "study.py", "inner"),
        (tmp_path / "study.py", "outer"),
    ):
        path.write_text(SCRIPT.replace("FILE", repr(name)))
    ended = run_python("inner/study.py", where, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    last = ended.stdout.splitlines()[-1]
    assert last.startswith("{'file': 'inner', ")
    assert last.endswith("} True")


@pytest.mark.parametrize(
    ("per_job", "wrong", "processes"),
    [(0, ["", "", "killed", "exit", ""], 2), (1, ["", ""], 2)],
)
def test_a_process_executes_several_runs(per_job, wrong, processes, tmp_path):
    """A process that is killed or exits costs the row of its present run alone, and is
    replaced.
    """
    wanted = [
        Config(number, how, str(tmp_path / "log")) for number, how in enumerate(wrong)
    ]
    rows = sweep.run(
        made_sweep.where,
        wanted,
        tmp_path / "rows.jsonl",
        "processes",
        workers=1,
        per_job=per_job,
    )
    errors = {"killed": "killed by signal 9", "exit": "ended with code 3"}
    assert [row.get("error", row["config"]["wrong"]) for row in rows] == [
        errors.get(how, how) for how in wrong
    ]
    assert (
        len({row["result"]["process"] for row in rows if row["status"] == sweep.DONE})
        == processes
    )


@pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="the system does not list open files"
)
def test_processes_that_have_ended_hold_no_files(tmp_path):
    wanted = {
        str(number): Config(number, "", str(tmp_path / "log")) for number in range(6)
    }
    work = executors.Work(
        made_sweep.where, wanted, workers=1, per_job=1, runs=len(wanted)
    )
    counts = [len(os.listdir("/proc/self/fd")) for _ in executors.processes(work)]
    assert counts[1:] == counts[:1] * (len(wanted) - 1)


def test_each_process_has_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    wanted = [Config(number, "slow", str(tmp_path / "log")) for number in range(6)]
    with pytest.raises(
        InputError,
        match=r"^workers: 3; give at most 2, the GPUs or TPU chips of this process, "
        r"or set JAX_PLATFORMS=cpu$",
    ):
        sweep.run(
            made_sweep.where, wanted, tmp_path / "rows.jsonl", "processes", workers=3
        )
    rows = sweep.run(made_sweep.where, wanted, tmp_path / "rows.jsonl", "processes")
    assert [row["about"]["CUDA_VISIBLE_DEVICES"] for row in rows] == [
        row["result"]["gpu"] for row in rows
    ]
    assert len({(row["result"]["process"], row["result"]["gpu"]) for row in rows}) == 2
    assert {row["result"]["gpu"] for row in rows} == {"3", "GPU-5"}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,GPU-5"


def test_rows_stay_in_their_file_if_runs_change_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    rows = sweep.run(
        move,
        [Config(number, log=str(folder)) for number, folder in enumerate(folders)],
        "rows.jsonl",
    )
    assert [row["result"] for row in rows] == [{"number": 0}, {"number": 1}]
    assert [row["result"] for row in read_rows(tmp_path / "rows.jsonl")] == [
        {"number": 0},
        {"number": 1},
    ]


def test_a_sigterm_to_one_run_fails_it_alone(tmp_path):
    """A run that a SIGTERM interrupts has a row with the error "killed by signal 15",
    and the other runs go on.

    A run that a SIGINT interrupts ends the sweep, and has no row.
    """
    rows = sweep.run(
        stop,
        [Config(signal.SIGTERM), Config()],
        tmp_path / "rows.jsonl",
        "processes",
        workers=1,
    )
    assert [row.get("error", row.get("result")) for row in rows] == [
        f"killed by signal {signal.SIGTERM.value}",
        {"done": 1},
    ]
    with pytest.raises(KeyboardInterrupt):
        sweep.run(
            stop,
            [Config(signal.SIGINT)],
            tmp_path / "rows.jsonl",
            "processes",
            workers=1,
        )
    assert len(list(read_rows(tmp_path / "rows.jsonl"))) == 2


def test_jobs_that_slurm_refuses(tmp_path, monkeypatch):
    """A sweep whose jobs Slurm refuses raises an error that contains the last line of
    Slurm's message, and writes no row.
    """
    pytest.importorskip("submitit")
    message = (
        "sbatch: error: invalid partition specified: shrt\nsbatch: error: Batch "
        "job submission failed: Invalid partition"
    )
    for name, text in (("sbatch", f"echo '{message}' >&2; exit 1"), ("srun", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    options = {"slurm_partition": "shrt", "timeout_min": 1}
    with pytest.raises(
        InputError,
        match=r"^Slurm: sbatch: error: Batch job submission failed: Invalid "
        r"partition; correct the options",
    ):
        sweep.run(
            stop,
            [Config(0), Config(0, "x")],
            tmp_path / "rows.jsonl",
            "slurm",
            options=options,
        )
    assert (tmp_path / "rows.jsonl").read_text() == ""
