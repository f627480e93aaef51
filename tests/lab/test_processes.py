"""Tests of runs of several local processes: results as of one process, kills, resuming,
and errors that end all processes.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_texts import TEXT
from running import running, signal_and_go_on

from lstm_jax.base.errors import InputError
from lstm_jax.lab.commands.launch import divided_cores, run_processes
from lstm_jax.lab.machine import processes
from lstm_jax.lab.machine.process_config import MANAGERS, Processes

pytestmark = pytest.mark.usefixtures("quick_processes")

CHUNKS = (
    "--regime",
    "stream",
    "--units",
    16,
    "--batch-size",
    8,
    "--sample-chars",
    5,
    "--epochs",
    2,
    "--checkpoint-steps",
    10,
)
VARIABLES = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
    *MANAGERS[0],
    *MANAGERS[1],
)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 6)
    return path


def training(text: object, run: Path, *more: object) -> tuple[object, ...]:
    return (
        "train",
        "generation",
        "--data",
        text,
        *CHUNKS,
        "--run",
        run,
        "--no-figures",
        *more,
    )


def started(
    *command: Any,
    place: tuple[str, int, int] | None = None,
    cwd: Path | None = None,
    **variables: str,
) -> subprocess.Popen:
    words = [sys.executable, "-m", "lstm_jax.lab.cli", *map(str, command)]
    names = dict(zip(VARIABLES, map(str, place), strict=False)) if place else {}
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env=clean | names | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if place:  # on the cores that `launch` gives it
        os.sched_setaffinity(process.pid, divided_cores(place[1])[place[2]])
    return process


def ended(process: subprocess.Popen, seconds: float = 200) -> tuple[int, str]:
    said = process.communicate(timeout=seconds)
    return process.returncode, said[0] + said[1]


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def numbers(run: Path) -> list[dict]:
    rows = [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    return [
        {name: value for name, value in row.items() if "second" not in name}
        for row in rows
    ]


def newest_step(run: Path) -> int:
    return max(
        (
            int(path.name.split(".")[0])
            for path in run.glob("checkpoints/latest/*.manifest.json")
        ),
        default=0,
    )


def wait_for_a_checkpoint(run: Path) -> None:
    before, until = newest_step(run), time.monotonic() + 120
    while newest_step(run) == before and time.monotonic() < until:
        time.sleep(0.05)


def leaves(run: Path) -> dict[str, Any]:
    newest = run / "checkpoints" / "latest" / f"{newest_step(run)}.manifest.json"
    return json.loads(newest.read_text().partition("\n")[2])["leaves"]


def assert_same_numbers(run: Path, other: Path) -> None:
    pairs = list(zip(numbers(run), numbers(other), strict=True))
    assert len(pairs) == 2
    for left, right in pairs:
        assert left == pytest.approx(right, rel=1e-6)


@pytest.fixture(scope="module")
def two(text: Path, tmp_path_factory) -> Path:
    """Train an uninterrupted run with two processes, and return its folder."""
    run = tmp_path_factory.mktemp("two") / "run"
    code, said = ended(started("launch", "-n", 2, "--", *training(text, run)))
    assert code == 0, said
    assert said.count("epoch    loss") == 1  # only one of them prints
    return run


@pytest.mark.slow
def test_two_processes_are_two_devices(text, two, tmp_path):
    """A run of two processes gives the metrics, the drawn samples and the files of a
    run of one process with two devices.
    """
    code, said = ended(started(*training(text, tmp_path / "one", "--devices", 2)))
    assert code == 0, said
    assert_same_numbers(two, tmp_path / "one")
    assert (two / "samples.jsonl").read_text() == (
        tmp_path / "one" / "samples.jsonl"
    ).read_text()
    assert sorted(path.name for path in two.iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )
    environment = json.loads((two / "environment.json").read_text())
    assert (environment["hosts"], len(environment["devices"])) == (2, 2)


@pytest.mark.slow
def test_killed_and_interrupted(text, two, tmp_path):
    """Two processes save the state and end after a SIGTERM to one of them. After a
    SIGKILL to one, the other ends with one line.

    After all interruptions, the resumed run ends with the same bits as an uninterrupted
    run.
    """
    run, address = tmp_path / "run", free_address()
    command = training(text, run)
    for number, hit in ((signal.SIGTERM, 1), (signal.SIGKILL, 1), (signal.SIGKILL, 0)):
        pair = [
            started(
                *command,
                *(["--resume"] if run.exists() else []),
                place=(address, 2, index),
            )
            for index in range(2)
        ]
        wait_for_a_checkpoint(run)
        pair[hit].send_signal(number)
        results = [ended(process, 60) for process in pair]
        if number == signal.SIGTERM:
            assert [code for code, _ in results] == [75, 75], results
            assert "the state is saved; to continue: lstm-jax train" in results[0][1]
        else:
            code, said = results[1 - hit]
            assert (results[hit][0], code, said.count("error: "), "stack" in said) == (
                -number,
                2,
                1,
                False,
            ), said
    code, said = ended(started("launch", "--", *command, "--resume"))
    assert code == 0, said
    assert numbers(run) == numbers(two)
    assert leaves(run) == leaves(two)


@pytest.mark.slow
def test_resumed_by_one_process(text, two, tmp_path):
    """One process can resume a run of two processes only with --allow-other-machine.

    The metrics are about equal to those of an uninterrupted run of two processes.
    """
    run = tmp_path / "run"
    command = training(text, run)
    launched = started("launch", "--", *command)
    wait_for_a_checkpoint(run)
    launched.send_signal(signal.SIGTERM)
    assert ended(launched)[0] == 75
    code, said = ended(started(*command, "--resume"))
    assert code == 2
    assert "hosts 2, now 1" in said
    code, said = ended(started(*command, "--resume", "--allow-other-machine"))
    assert code == 0, said
    assert_same_numbers(run, two)


@pytest.mark.slow
def test_sentiment_with_a_sharded_table(runs, tmp_path):
    """A sentiment run of two processes has the metrics of a run on two devices of one
    process.

    The embedding table and its moments are sharded over the processes and updated by
    rows.
    """
    more = ("--embed", "64", "--epochs", "2", "--recurrent-dropout", "0.2")
    code, said = ended(
        started("launch", "--", *runs.command("sentiment", tmp_path / "two", *more))
    )
    assert code == 0, said
    code, said = ended(
        started(*runs.command("sentiment", tmp_path / "one", *more, "--devices", "2"))
    )
    assert code == 0, said
    assert_same_numbers(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize(
    ("flags", "variables", "copies", "said"),
    [
        (("--resume",), {}, 6, ["resume: False on process 0, True on process 1"] * 2),
        (
            ("--run", "other"),
            {},
            6,
            [
                (
                    "run folder, which all processes must share: found on process "
                    "0, missing on process 1"
                )
            ]
            * 2,
        ),
        ((), {"LSTM_JAX_COMPILED_CODE": "0"}, 6, ["none on process 1"] * 2),
        (
            (),
            {"JAX_NUM_PROCESSES": "3"},
            6,
            ["processes: 2 on process 0, 3 on process 1"] * 2,
        ),
        ((), {}, 7, ["data: "] * 2),
        ((), {}, 0, ["process 1: ended by an error", "no such file or folder"]),
    ],
)
def test_processes_that_differ(flags, variables, copies, said, tmp_path):
    """If process 1 differs, each process ends with one line that names the difference,
    and no run begins.
    """
    address, pair = free_address(), []
    for index, (more, changed, times) in enumerate(
        (((), {}, 6), (flags, variables, copies))
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        if times:
            (folder / "text.txt").write_text(TEXT * times)
        command = training("text.txt", tmp_path / "run", *more)
        pair.append(started(*command, place=(address, 2, index), cwd=folder, **changed))
    for process, text in zip(pair, said, strict=True):
        code, lines = ended(process)
        assert (code, lines.count("\n"), text in lines) == (2, 1, True), lines
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_signal_ends_a_waiting_process(tmp_path):
    place = (free_address(), 2, 0)
    process = started("train", "generation", "--run", tmp_path / "run", place=place)
    processes._reach_coordinator(Processes(*place[:2], 1))
    process.send_signal(signal.SIGTERM)
    assert ended(process, 30) == (75, "interrupted\n")


def test_a_platform_that_this_machine_lacks():
    said = (
        "error: $JAX_PLATFORMS: nonsense; name a platform of this machine, such "
        "as cpu\n"
    )
    assert ended(started("backends", JAX_PLATFORMS="nonsense")) == (2, said)


def test_codes_of_launched_processes():
    """`run_processes` returns the exit codes of its processes in the order in which
    they end.

    The environment of each process has its number.
    """
    program = (
        "import os, sys, time; n = int(os.environ['JAX_PROCESS_ID']); "
        "time.sleep(n / 2); sys.exit(0 if n else 7)"
    )
    assert run_processes([sys.executable, "-c", program], 2) == [7, 0]
    program = "import os; os.kill(os.getpid(), 9)"
    assert run_processes([sys.executable, "-c", program], 1) == [137]


LAUNCH = """
import sys
from lstm_jax.lab import cli
from lstm_jax.lab.commands import COMMANDS, launch

child = "import os, signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); os.write(1, b'running' + bytes([10])); time.sleep(60)"
COMMANDS["backends"] = lambda: lambda console: launch.run_processes([sys.executable, "-c", child], 2)
raise SystemExit(cli.main(["backends"]))
"""


def test_a_second_signal_leaves_no_process():
    """A second Ctrl-C ends `launch` and its processes at once, even if they ignore
    Ctrl-C, as they do in the middle of a long step.
    """
    with running(LAUNCH, 2) as launched:
        signal_and_go_on(launched, signal.SIGINT)
        launched.send_signal(signal.SIGINT)
        # the pipe ends with the last process that has it
        launched.communicate(timeout=30)
        assert launched.returncode == 130


HANGING = """
import sys
from lstm_jax.lab.commands import launch

child = '''
import os, signal, sys, time
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
os.write(1, b"running" + bytes([10]))  # at once, for the two processes share the pipe
for _ in range(600):
    time.sleep(0.1)
    if got:
        time.sleep(0.5)
        sys.exit(75 if len(got) == 1 else 130)
'''
sys.exit(max(launch.run_processes([sys.executable, "-c", child], 2)))
"""


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal(ignored):
    """If `launch` gets two SIGHUPs, each of its processes gets one SIGTERM. Under
    nohup, a SIGHUP does not end the processes.

    `launch` gets two SIGHUPs when a terminal that runs bash is closed. After one
    SIGTERM, a training saves its state. A second SIGTERM would end the training at
    once.
    """
    # not what the tests themselves were started with
    action = "SIG_IGN" if ignored else "SIG_DFL"
    with running(
        f"import signal; signal.signal(signal.SIGHUP, signal.{action})\n{HANGING}", 2
    ) as launched:
        launched.send_signal(signal.SIGHUP)
        time.sleep(0.05)
        if ignored:
            signal_and_go_on(launched, signal.SIGHUP)
        launched.send_signal(signal.SIGTERM if ignored else signal.SIGHUP)
        # the pipe ends with the last process that has it
        launched.communicate(timeout=30)
        assert launched.returncode == 75


def test_a_signal_while_processes_start(monkeypatch):
    """If SIGTERM arrives while `run_processes` starts the second of two processes, both
    processes end.

    At this moment, the second process has been started, but is not yet in the list of
    processes.
    """
    made: list[subprocess.Popen] = []

    def popen(command: list[str], **options: Any) -> subprocess.Popen:
        made.append(subprocess_popen(command, **options))
        if len(made) == 2:
            signal.raise_signal(signal.SIGTERM)
        return made[-1]

    subprocess_popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", popen)
    assert (
        run_processes([sys.executable, "-c", "import time; time.sleep(60)"], 2)
        == [128 + signal.SIGTERM] * 2
    )


@pytest.fixture
def no_place(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_one_process_joins_nothing(no_place):
    assert processes.join() == Processes("", 1, 0)
    # a batch script, which is no step
    for name, value in (("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0")):
        no_place.setenv(name, value)
    assert processes.join() == Processes("", 1, 0)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (Processes("nowhere", 2, 0), "coordinator: nowhere"),
        (Processes("a:99999", 2, 0), "coordinator: a:99999"),
        (Processes("", 2, 0), "coordinator: ;"),
        (Processes("a:1", 0, 0), "processes: 0"),
        (Processes("a:1", 2, -1), "process: -1"),
        (Processes("a:1", 2, 2), "process: 2"),
    ],
)
def test_places_that_are_none(no_place, place, said):
    with pytest.raises(InputError, match=said):
        processes.join(place)
    no_place.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(InputError, match=r"\$JAX_NUM_PROCESSES: two"):
        processes.join()


def test_a_port_in_use(no_place):
    del no_place
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        with pytest.raises(InputError, match="Address already in use"):
            processes.join(Processes(f"127.0.0.1:{taken.getsockname()[1]}", 2, 0))


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        (
            {
                "JAX_COORDINATOR_ADDRESS": "h:1",
                "JAX_NUM_PROCESSES": "3",
                "JAX_PROCESS_ID": "2",
            },
            Processes("h:1", 3, 2),
        ),
        (
            {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "n[1-2]"},
            Processes("", 4, 3),
        ),
        (
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
            Processes("", 2, 0),
        ),
    ],
)
def test_places_that_the_environment_names(no_place, variables, found):
    """The number of processes and the index of this process are read from environment
    variables, and passed on to JAX.

    Under Slurm and Open MPI, JAX itself finds the address of process 0.
    """
    calls = []
    no_place.setattr(
        processes.jax.distributed,
        "initialize",
        lambda *args, **options: calls.append((args, options)),
    )
    no_place.setattr(processes.jax.config, "update", lambda *args: None)
    no_place.setattr(processes, "_reach_coordinator", lambda place: None)
    no_place.setattr(processes, "_one_line_for_lost_processes", contextlib.nullcontext)
    for name, value in variables.items():
        no_place.setenv(name, value)
    assert processes.join() == found
    (args, options), managed = calls[0], not found.coordinator
    assert args == (found.coordinator or None, found.processes, found.process)
    assert options["cluster_detection_method"] == (None if managed else "deactivate")


@given(st.integers(0, 64), st.integers(1, 8))
def test_devices_of_each_process(devices, count):
    with (
        contextlib.nullcontext()
        if devices % count == 0
        else pytest.raises(InputError, match="devices")
    ):
        assert (
            processes.own_devices(devices, Processes("", count, 0)) * count == devices
        )
