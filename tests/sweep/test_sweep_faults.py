"""Faults in sweeps: files that cannot be written or hold other rows, functions that cannot be imported, unusual results, and SIGTERM."""

import functools
import gzip
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import made_sweep
import ml_dtypes
import numpy as np
import pytest
from made_sweep import Config, Said

from lstm_jax import sweep
from lstm_jax.errors import InputError
from lstm_jax.sweep.rows import append_rows, read_rows, run_missing

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Table:
    table: dict[Any, Any] = field(default_factory=dict)

    def entries(self, config: Any) -> dict[str, int]:
        return {"entries": len(self.table)}

    @classmethod
    def size(cls, config: Any) -> dict[str, int]:
        return {"size": len(config.table)}


def never(config: Any) -> dict[str, float]:
    """Fail the test, since no run may begin."""
    pytest.fail(f"run of {config}")


def numbers(config: Config) -> dict[str, Any]:
    return {
        "large": np.int64(2**53 + 1),
        "right": np.bool_(True),
        "half": np.float16(0.5),
        "short": ml_dtypes.bfloat16(1.5),
        "traced": jnp.int32(7),
        "flag": jnp.bool_(False),
        "one": np.array([3]),
        "exact": np.float64(0.1),
    }


def undefined(config: Config) -> dict[str, float]:
    return {"loss": math.inf, "score": math.nan}


def nothing(config: Config) -> dict[str, float]:
    return {"score": 1.0}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_file_that_cannot_be_written_is_found_before_the_first_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / name
    (loop := tmp_path / name).symlink_to(loop)
    remedy = "free some space, or name a file that can be written"
    looped = f"rows {loop}: Too many levels of symbolic links; {remedy}"
    if name.endswith(".gz"):
        looped = f"writing {loop}: Is a link; name the file itself, or a new one"
    for wrong, message in ((path, f"rows {path}: File exists; {remedy}"), (loop, looped)):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            sweep.run(never, [Config()], wrong)
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            run_missing(wrong, {1: 1}, lambda row: None, never, "items", str)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_through_a_link(name: str, tmp_path: Path) -> None:
    """If the path of the rows is a link, the file to which the link leads is written, and the link stays."""
    (tmp_path / name).symlink_to(Path("folder") / name)
    rows = sweep.run(nothing, [Config(1), Config(2)], tmp_path / name)
    assert [row["result"] for row in rows] == [{"score": 1.0}] * 2
    assert (tmp_path / name).is_symlink()
    content = (tmp_path / "folder" / name).read_bytes()
    lines = (gzip.decompress(content) if name.endswith(".gz") else content).splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_a_write_that_fails_names_the_file(tmp_path: Path) -> None:
    """A write that fails raises an error with the name of the file. A limit on the file sizes of this process stands in for a full disk."""
    path = tmp_path / "rows.jsonl"
    append_rows(path, {"number": 1})
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, limits[1]))
    try:
        with pytest.raises(InputError, match=rf"^rows {path}: File too large; free some space, or name a file that can be written$"):
            append_rows(path, {"number": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(read_rows(path)) == [{"number": 1}]


def test_scalars_of_numpy_and_jax_keep_their_values(tmp_path: Path) -> None:
    (row,) = sweep.run(numbers, [Config()], tmp_path / "rows.jsonl")
    wanted = {"large": 2**53 + 1, "right": True, "half": 0.5, "short": 1.5, "traced": 7, "flag": False, "one": 3, "exact": 0.1}
    assert row["result"] == wanted
    assert {name: type(value) for name, value in row["result"].items()} == {name: type(value) for name, value in wanted.items()}


def test_results_that_are_not_finite_reach_the_table(tmp_path: Path) -> None:
    rows = sweep.run(undefined, [Config()], tmp_path / "rows.jsonl")
    assert '"result": {"loss": Infinity, "score": NaN}' in (tmp_path / "rows.jsonl").read_text()
    sweep.write_table(rows, tmp_path / "table.csv")
    assert ",inf,nan,," in (tmp_path / "table.csv").read_text()


OTHERS = ['{"id": "a", "score": 1}', '{"score": 1}', '["id"]', '{"id": 1, "config": {}, "status": "done", "seconds": 1}']


@pytest.mark.parametrize("content", OTHERS)
def test_a_file_of_other_rows(content: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"\n{content}\n")
    for call in (sweep.run, sweep.existing_rows):
        with pytest.raises(InputError, match=rf"^rows {path}, line 2: not a row of a sweep; name the file of a sweep, or a new one$"):
            call(never, [Config()], path)
    assert path.read_text() == f"\n{content}\n"


def test_a_line_that_is_not_utf_8_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "x\xff"}\n')
    rows = sweep.run(nothing, [Config()], path)
    assert [row["result"] for row in rows] == [{"score": 1.0}]
    assert f"{path}, line 1: torn, skipped" in capsys.readouterr().err


def test_functions_without_names(tmp_path: Path) -> None:
    message = r"^function: functools\.partial\(.*; give a function with a name, by which rows are found again$"
    for call in (lambda function: sweep.run(function, [Config()], tmp_path / "rows"), lambda function: sweep.run_id(function, Config())):
        with pytest.raises(InputError, match=message):
            call(functools.partial(nothing))
    with pytest.raises(InputError, match=r"^function: a lambda; "):
        sweep.run(lambda config: {}, [Config()], tmp_path / "rows")
    assert not list(tmp_path.iterdir())


def test_methods_of_objects(tmp_path: Path) -> None:
    """A method of an object is refused, since the id of a run would be the same for all objects of the class."""
    remedy = "the object of a method is not part of the id: give a function that needs only its config"
    with pytest.raises(InputError, match=rf"^function: {__name__}:Table\.entries; {remedy}$"):
        sweep.run(Table({1: 2}).entries, [Config()], tmp_path / "rows")
    assert not list(tmp_path.iterdir())


def test_configs_that_are_none(tmp_path: Path) -> None:
    mixed = Table({1: "a", "b": 2})
    remedy = "give text or numbers, and dicts with keys of one type"
    for config, message in (
        (mixed, f"field table of a config: not JSON: {mixed.table}; {remedy}"),
        ({"units": 1}, "config: {'units': 1}; give instances of a frozen dataclass"),
        (Table, f"config: {Table}; give instances of a frozen dataclass"),
    ):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            sweep.run(never, [config], tmp_path / "rows")
    with pytest.raises(InputError, match=r"^dict in a config: '<' not supported .*; give it keys of one type, text or numbers$"):
        sweep.run_id(never, mixed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["here", "processes"])
def test_a_run_that_exits_is_a_failed_one(where: str, tmp_path: Path) -> None:
    rows = sweep.run(made_sweep.say, [Said("exit 3"), Said("next")], tmp_path / "rows.jsonl", where, workers=1)
    assert [(row["status"], row["error"]) for row in rows] == [("failed", "SystemExit: exit 3"), ("failed", "ValueError: next")]


def test_local_functions(tmp_path: Path) -> None:
    """Local functions and configs of local classes are refused before the first run in processes, but may run in this process."""

    def inner(config: Config) -> dict[str, float]:
        return {"score": 2.0}

    @dataclass(frozen=True)
    class Own:
        number: int = 0

    remedy = r'another process cannot import it: define it at the top level of a module or script, or use where="here"$'
    name = rf"{__name__}:test_local_functions\.<locals>"
    for function, config, subject in ((inner, Config(), rf"function: {name}\.inner"), (nothing, Own(), rf"class of a config: {name}\.Own")):
        with pytest.raises(InputError, match=rf"^{subject}; {remedy}"):
            sweep.run(function, [config], tmp_path / "rows.jsonl", "processes", workers=1)
        assert not list(tmp_path.iterdir())
    (row,) = sweep.run(inner, [Own()], tmp_path / "rows.jsonl")
    assert row["result"] == {"score": 2.0}
    (row,) = sweep.run(Table.size, [Table()], tmp_path / "of_a_class.jsonl", "processes", workers=1)
    assert row["result"] == {"size": 0}


SCRIPT = """
from dataclasses import dataclass
from lstm_jax import sweep

@dataclass(frozen=True)
class Config:
    number: int = 0

def run(config):
    return {"score": config.number + 1}

if __name__ == "__main__":
    print(sweep.run(run, [Config()], "rows.jsonl", "processes", workers=1)[0]["result"])
"""


@pytest.mark.parametrize(("name", "said"), [("study-1.py", "{'score': 1}"), ("my.study.py", ""), ("-", "")])
def test_scripts_that_another_process_cannot_import(name: str, said: str, tmp_path: Path) -> None:
    """Processes can run the sweep of a script, unless its module name contains a dot or the script is read from standard input."""
    (tmp_path / name).write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, name], cwd=tmp_path, env=environment, input=SCRIPT, capture_output=True, text=True)
    if said:
        assert said in ended.stdout, ended.stderr
        return
    assert ended.returncode == 1
    module = "<stdin>" if name == "-" else "my.study"
    assert f"InputError: function: {module}:run; another process cannot import it: define it" in ended.stderr
    assert not (tmp_path / "rows.jsonl").exists()


BRAKE = """
import os
os.environ["DEPTH"] = os.environ.get("DEPTH", "") + "x"
assert len(os.environ["DEPTH"]) < 4
"""
"""Lines at the beginning of a script that keep it from starting processes without end.

Each process that executes the script inherits DEPTH from its parent and adds an x. The assertion fails in the fourth generation.
"""


@pytest.mark.parametrize("thread", [False, True])
def test_a_script_without_a_guard(thread: bool, tmp_path: Path) -> None:
    """A process of a sweep refuses to start a sweep of its own while it imports the script that started the sweep.

    The script in this test calls `sweep.run` outside of `if __name__ == "__main__":`, so that the import repeats the call. If the call is
    in the main thread, the sweep writes no row. After the call has been moved below this `if`, the sweep writes a row of a finished run. If
    the call is in another thread, the refusal does not stop the import, and the sweep writes this row.
    """
    call = 'sweep.run(run, [Config()], "rows.jsonl", "processes", workers=1)'
    start = f"import threading\nthread = threading.Thread(target=lambda: {call})\nthread.start()\nthread.join()" if thread else call
    begin, environment = SCRIPT.partition("if __name__")[0], os.environ | {"PYTHONPATH": str(ROOT)}

    def execute(text: str) -> str:
        (tmp_path / "bare.py").write_text(begin + text)
        return subprocess.run([sys.executable, "bare.py"], cwd=tmp_path, env=environment, capture_output=True, text=True).stderr

    called = "sweep: called while a run's process imports its function"
    assert f'{called}; put the call below if __name__ == "__main__":' in execute(BRAKE + start)
    if not thread:
        assert (tmp_path / "rows.jsonl").read_text() == ""
        execute(f'if __name__ == "__main__":\n    {call}')
    assert [row["status"] for row in read_rows(tmp_path / "rows.jsonl")] == ["done"]


def test_a_sweep_within_a_run(tmp_path: Path) -> None:
    inner, outer = tmp_path / "inner.jsonl", tmp_path / "outer.jsonl"
    (row,) = sweep.run(made_sweep.nest, [Config(log=str(inner))], outer, "processes", workers=1)
    assert row["result"] == {"config": "Inner(scale=1.0)"}
    assert [row["result"] for row in read_rows(inner)] == [row["result"]]


def running(number: int) -> bool:
    """Return whether the process with the id `number` exists and is not a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_sigterm_leaves_no_process(tmp_path: Path) -> None:
    """SIGTERM ends a sweep as Ctrl-C does: its processes are killed, and their runs have no rows."""
    log, environment = tmp_path / "log", os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    command = [sys.executable, made_sweep.__file__, str(tmp_path), "endless"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as parent:
        try:
            while not (log.exists() and len(log.read_text().split()) == 2):
                assert parent.poll() is None
                time.sleep(0.02)
            children: list[int] = []
            for task in Path(f"/proc/{parent.pid}/task").iterdir():
                children += [int(word) for word in (task / "children").read_text().split()]
            assert len(set(children)) == 2
            parent.send_signal(signal.SIGTERM)
            said = parent.communicate(timeout=30)[1]
        except BaseException:
            parent.send_signal(signal.SIGINT)  # so that it ends its processes
            raise
    assert said.rstrip().endswith("KeyboardInterrupt: SIGTERM")
    assert not any(running(child) for child in children)
    assert (tmp_path / "rows.jsonl").read_bytes() == b""


def test_the_handler_of_sigterm_is_restored(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    sweep.run(made_sweep.show, [Config()], tmp_path / "rows.jsonl", "processes", workers=1)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_after_an_incomplete_line_begin_on_a_new_one(name: str, tmp_path: Path) -> None:
    path, content = tmp_path / name, b'{"a": 1}\n{"b": '
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    append_rows(path, {"c": 3})
    assert list(read_rows(path)) == [{"a": 1}, {"c": 3}]
