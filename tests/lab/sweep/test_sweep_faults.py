"""Faults in sweeps: files that cannot be written or hold other rows, functions that
cannot be imported, unusual results, and SIGTERM.
"""

import functools
import gzip
import math
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import made_sweep
import ml_dtypes
import numpy as np
import pytest
from made_sweep import ENVIRONMENT, Config, run_python

from lstm_jax.base.errors import InputError
from lstm_jax.lab import sweep
from lstm_jax.lab.sweep.rows import append_rows, read_rows, run_missing


@dataclass(frozen=True)
class Table:
    table: dict[Any, Any] = field(default_factory=dict)

    def entries(self, config):
        return {"entries": len(self.table)}

    @classmethod
    def size(cls, config):
        return {"size": len(config.table)}


def never(config):
    """Fail the test, since no run may begin."""
    pytest.fail(f"run of {config}")


def undefined(config):
    return {"loss": math.inf, "score": math.nan}


def nothing(config):
    return {"score": 1.0}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_file_that_cannot_be_written_is_found_before_the_first_run(name, tmp_path):
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / name
    (loop := tmp_path / name).symlink_to(loop)
    looped = (
        "writing .*: Is a link"
        if name.endswith(".gz")
        else "rows .*: Too many levels of symbolic links"
    )
    for wrong, message in ((path, "rows .*: File exists"), (loop, looped)):
        for call in (
            lambda path: sweep.run(never, [Config()], path),
            lambda path: run_missing(path, {1: 1}, str, never, "items", str),
        ):
            with pytest.raises(InputError, match=f"^{message}"):
                call(wrong)


SCALARS = [
    (np.int64(2**53 + 1), 2**53 + 1),
    (np.bool_(True), True),
    (np.float16(0.5), 0.5),
    (np.float64(0.1), 0.1),
    (np.array([3]), 3),
    (ml_dtypes.bfloat16(1.5), 1.5),
    (jnp.int32(7), 7),
    (jnp.bool_(False), False),
]
"""Pairs of a scalar and the value of Python that stands for it in a row."""


def test_scalars_of_numpy_and_jax_keep_their_values(tmp_path):
    def scalars(config):
        return {str(n): scalar for n, (scalar, _) in enumerate(SCALARS)}

    (row,) = sweep.run(scalars, [Config()], tmp_path / "rows.jsonl")
    assert [(type(value), value) for value in row["result"].values()] == [
        (type(value), value) for _, value in SCALARS
    ]


def test_results_that_are_not_finite_reach_the_table(tmp_path):
    rows = sweep.run(undefined, [Config()], tmp_path / "rows.jsonl")
    assert (
        '"result": {"loss": Infinity, "score": NaN}'
        in (tmp_path / "rows.jsonl").read_text()
    )
    sweep.write_table(rows, tmp_path / "table.csv")
    assert ",inf,nan,," in (tmp_path / "table.csv").read_text()


@pytest.mark.parametrize(
    "content",
    [
        '{"id": "a", "score": 1}',
        '["id"]',
        '{"id": 1, "config": {}, "status": "done", "seconds": 1}',
    ],
)
def test_a_file_of_other_rows(content, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"\n{content}\n")
    for call in (sweep.run, sweep.existing_rows):
        with pytest.raises(
            InputError, match=rf"^rows {path}, line 2: not a row of a sweep"
        ):
            call(never, [Config()], path)
    assert path.read_text() == f"\n{content}\n"


SLURM = [
    (
        {"where": "slurm", "options": {"cluster": "debug", "nosuch": 1}},
        "options: Parameter 'nosuch' need",
    ),
    (
        {"where": "slurm", "options": {"cluster": "moon"}},
        "options: AutoExecutor doesn't know any",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        ({"where": "moon"}, "where: moon"),
        ({"workers": -1}, "workers: -1"),
        ({"per_job": -1}, "per_job: -1"),
        ({"function": functools.partial(nothing)}, r"function: functools\.partial\("),
        ({"function": lambda config: {}}, rf"function: {__name__}:<lambda>"),
        (
            {"function": Table({1: 2}).entries},
            rf"function: {__name__}:Table\.entries; give a function with a name",
        ),
        ({"configs": [Config(), Table({1: "a", "b": 2})]}, "field table of a config: "),
        (
            {"configs": [Config(), Table({"a": {"b": Path()}})]},
            "field table of a config: ",
        ),
        ({"configs": [Config(), Table({(1, 2): 3})]}, "field table of a config: "),
        ({"configs": [Config(), {"units": 1}]}, "config: {'units': 1}"),
        ({"configs": [Config(), Table]}, "config: .*Table'>"),
        *(SLURM if find_spec("submitit") else ()),
    ],
)
def test_arguments_that_are_refused(arguments, subject, tmp_path):
    """They are refused before the first run."""
    with pytest.raises(InputError, match=f"^{subject}"):
        sweep.run(
            **(
                {"function": never, "configs": [Config()], "path": tmp_path / "rows"}
                | arguments
            )
        )
    assert not (tmp_path / "rows").is_file() or not (tmp_path / "rows").read_bytes()


def test_slurm_without_submitit(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"^submitit: not installed; pip install"):
        sweep.run(never, [Config()], tmp_path / "rows", "slurm")


@dataclass(frozen=True)
class Locked:
    """Config with a value that cannot be pickled."""

    def __post_init__(self):
        object.__setattr__(self, "lock", threading.Lock())


def local():
    """Return a function and an instance of a class that another process cannot import."""

    def inner(config):
        return {"score": 2.0}

    @dataclass(frozen=True)
    class Own:
        number: int = 0

    return inner, Own()


def test_what_another_process_cannot_import(tmp_path):
    """Local functions, and configs that cannot be pickled, are refused before the first
    run in processes, but may run in this process.
    """
    inner, own = local()
    for function, config, subject in (
        (inner, Config(), "function"),
        (nothing, own, "config Own"),
        (nothing, Table({1: own}), "config Table"),
        (nothing, Locked(), "config Locked"),
    ):
        with pytest.raises(InputError, match=f"^{subject}: "):
            sweep.run(
                function,
                [Config(), config],
                tmp_path / "rows.jsonl",
                "processes",
                workers=1,
            )
        assert not list(tmp_path.iterdir())
    (row,) = sweep.run(inner, [own], tmp_path / "rows.jsonl")
    assert row["result"] == {"score": 2.0}
    (row,) = sweep.run(
        Table.size, [Table()], tmp_path / "of_a_class.jsonl", "processes", workers=1
    )
    assert row["result"] == {"size": 0}


SCRIPT = """
from dataclasses import dataclass
from lstm_jax.lab import sweep

@dataclass(frozen=True)
class Config:
    number: int = 0

def run(config):
    return {"score": config.number + 1}

if __name__ == "__main__":
    print(sweep.run(run, [Config()], "rows.jsonl", "processes", workers=1)[0]["result"])
"""


def test_a_script_that_another_process_cannot_import(tmp_path):
    ended = run_python("-", cwd=tmp_path, input=SCRIPT)
    assert ended.returncode == 1
    assert (
        "InputError: function: <stdin>:run; another process cannot import it: define it"
        in ended.stderr
    )
    assert not (tmp_path / "rows.jsonl").exists()


BRAKE = """
import os
os.environ["DEPTH"] = os.environ.get("DEPTH", "") + "x"
assert len(os.environ["DEPTH"]) < 4
"""
"""Lines at the beginning of a script that keep it from starting processes without end.

Each process that executes the script inherits DEPTH from its parent and adds an x. The
assertion fails in the fourth generation.
"""


@pytest.mark.parametrize("thread", [False, True])
def test_a_script_without_a_guard(thread, tmp_path):
    """A process of a sweep refuses to start a sweep of its own while it imports the
    script that started the sweep.

    The script in this test calls `sweep.run` outside of `if __name__ == "__main__":`,
    so that the import repeats the call. If the call is in the main thread, the sweep
    writes no row. After the call has been moved below this `if`, the sweep writes a row
    of a finished run. If the call is in another thread, the refusal does not stop the
    import, and the sweep writes this row.
    """
    call = 'sweep.run(run, [Config()], "rows.jsonl", "processes", workers=1)'
    start = (
        (
            "import threading\nthread = threading.Thread(target=lambda: "
            f"{call})\nthread.start()\nthread.join()"
        )
        if thread
        else call
    )
    begin = SCRIPT.partition("if __name__")[0]

    def execute(text):
        (tmp_path / "bare.py").write_text(begin + text)
        return run_python("bare.py", cwd=tmp_path).stderr

    called = "sweep: called while a run's process imports its function"
    assert f'{called}; put the call below if __name__ == "__main__":' in execute(
        BRAKE + start
    )
    if not thread:
        assert (tmp_path / "rows.jsonl").read_text() == ""
        execute(f'if __name__ == "__main__":\n    {call}')
    assert [row["status"] for row in read_rows(tmp_path / "rows.jsonl")] == ["done"]


def test_a_sweep_within_a_run(tmp_path):
    inner = tmp_path / "inner.jsonl"
    outer = tmp_path / "outer.jsonl"
    handler = signal.getsignal(signal.SIGTERM)
    (row,) = sweep.run(
        made_sweep.nest, [Config(log=str(inner))], outer, "processes", workers=1
    )
    assert row["result"] == {"config": "Inner(scale=1.0)"}
    assert [row["result"] for row in read_rows(inner)] == [row["result"]]
    assert signal.getsignal(signal.SIGTERM) is handler


def running(number):
    """Return whether the process with the id `number` exists and is not a zombie."""
    try:
        return (
            Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
            != "Z"
        )
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_process(number, tmp_path):
    """SIGINT and SIGTERM end a sweep at once: its processes are killed, and not waited
    for, and their runs have no rows.
    """
    log = tmp_path / "log"
    command = [sys.executable, made_sweep.__file__, str(tmp_path), "endless"]
    with subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        try:
            while not (log.exists() and len(log.read_text().split()) == 2):
                assert parent.poll() is None
                time.sleep(0.02)
            tasks = Path(f"/proc/{parent.pid}/task").iterdir()
            children = {
                int(word)
                for task in tasks
                for word in (task / "children").read_text().split()
            }
            children = {
                child
                for child in children
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
            }
            assert len(children) == 2
            parent.send_signal(number)
            said = parent.communicate(timeout=30)[1]
        except BaseException:
            parent.send_signal(signal.SIGINT)  # so that it ends its processes
            raise
    assert said.rstrip().endswith(
        "KeyboardInterrupt: SIGTERM"
        if number == signal.SIGTERM
        else "KeyboardInterrupt"
    )
    assert not any(running(child) for child in children)
    assert (tmp_path / "rows.jsonl").read_bytes() == b""


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_after_an_incomplete_line_begin_on_a_new_one(name, tmp_path, capsys):
    path, content = tmp_path / name, b'{"id": "x\xff"}\n{"a": 1}\n{"b": '
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    append_rows(path, {"c": 3})
    assert list(read_rows(path)) == [{"a": 1}, {"c": 3}]
    assert capsys.readouterr().err.splitlines() == [
        f"{path}, line {line}: torn, skipped" for line in (1, 3)
    ]
