"""Folder of a run: it is new, or has a run of the same config that is explicitly
resumed. Changes of its files are noticed.
"""

import json
import os
import subprocess

import jax
import pytest

from lstm_jax.base import sharding
from lstm_jax.base.errors import InputError
from lstm_jax.lab.runs import folder as run_folder
from lstm_jax.lab.runs.folder import RunFolder, differences, environment

CONFIG = '{"units": 8}\n'


def test_a_run_is_entered_only_on_purpose_and_with_its_config(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start(CONFIG, False)
    with pytest.raises(
        InputError, match="holds a run; resume it with --resume, or name another folder"
    ):
        run.start(CONFIG, False)
    run.start('{ "units":8 }', True)
    with pytest.raises(
        InputError, match="holds a run of another config; give its config to resume it"
    ):
        run.start('{"units": 9}', True)
    assert run.config.read_text() == CONFIG


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_left_alone(resume, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    (tmp_path / "metrics.jsonl").write_text("x")
    with pytest.raises(InputError, match=r"holds metrics\.jsonl; name a new folder"):
        RunFolder(tmp_path).start(CONFIG, resume)
    (tmp_path / "metrics.jsonl").unlink()
    RunFolder(tmp_path).start(CONFIG, resume)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex", "config.json"}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b""])
def test_a_damaged_config(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config .*config\.json: .*damaged"):
        RunFolder(tmp_path).start(CONFIG, True)


def test_environment():
    found = environment(sharding.make_mesh())
    assert found["versions"]["jax"] == jax.__version__
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert len(found["devices"]) == jax.device_count()
    assert found["devices"][0].startswith(jax.default_backend())
    assert set(found) >= {
        "python",
        "git",
        "platform",
        "cpu",
        "hosts",
        "xla_flags",
        "matmul_precision",
    }


def test_the_commit_is_that_of_a_repository_with_the_package(tmp_path, monkeypatch):
    """The recorded commit is that of the Git repository that tracks the files of the
    package.

    A repository that contains the folder of the package, but does not track it, is
    ignored. Only uncommitted changes of the package itself add a "+" to the commit.
    """

    def git(*words):
        person = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", "-C", tmp_path, *person, *words],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    package = tmp_path / "env" / "lstm_jax"
    (package / "training").mkdir(parents=True)
    for path in (
        file := package / "training" / "run_folder.py",
        package / "errors.py",
        tmp_path / "other.py",
    ):
        path.write_text("x")
    monkeypatch.setattr(run_folder, "__file__", str(file))
    assert run_folder.git_commit() == ""
    git("init", "-q")
    git("add", "other.py")
    git("commit", "-q", "-m", "other")
    assert run_folder.git_commit() == ""
    git("add", "env")
    git("commit", "-q", "-m", "all")
    commit = git("rev-parse", "--short=12", "HEAD")
    assert run_folder.git_commit() == commit
    (tmp_path / "other.py").write_text("y")
    assert run_folder.git_commit() == commit
    (package / "errors.py").write_text("y")
    assert run_folder.git_commit() == commit + "+"


HERE = {
    "cpu": "a",
    "cores": 2,
    "compiled": "lstm-1.so",
    "devices": ["cpu:cpu"] * 2,
    "backend": "compiled",
    "git": "abc",
}
HERE |= {"versions": {"jax": "1", "numpy": "2"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"git": "def", "platform": "other"}, []),
        ({"cores": 1}, ["cores 2, now 1"]),
        (
            {"compiled": "", "backend": "hoisted"},
            ["backend compiled, now hoisted", "compiled lstm-1.so, now none"],
        ),
        ({"devices": ["cpu:cpu"]}, ["devices 2 x cpu:cpu, now 1 x cpu:cpu"]),
        (
            {"devices": ["gpu:H100"] * 2, "cores": 8, "cpu": "b"},
            ["devices 2 x cpu:cpu, now 2 x gpu:H100"],
        ),
        ({"versions": {"jax": "1.1", "numpy": "2"}}, ["jax 1, now 1.1"]),
        ({"xla_flags": "--x"}, []),
    ],
)
def test_differences_that_can_move_a_bit(change, said):
    assert differences(HERE, HERE | change) == said


def test_the_first_environment_is_kept(tmp_path):
    run = RunFolder(tmp_path)
    run.seal((HERE, HERE | {"cores": 1}))
    assert run.environments() == (HERE, HERE | {"cores": 1})
    assert json.loads(run.environment.read_text()) == HERE | {
        "resumed": [HERE | {"cores": 1}]
    }
    run.environment.write_bytes(b"damaged, and only for readers")
    assert run.environments()[0] == HERE


def sealed(folder) -> RunFolder:
    run = RunFolder(folder)
    run.start(CONFIG, False)
    run.fix_data("abc")
    (folder / "vocabulary.json").write_text("words")
    run.seal((HERE,))
    return run


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("config.json", b'{"units": 9}\n', "changed"),
        ("vocabulary.json", b"wordt", "changed"),
        ("data.sha256", None, "missing"),
        ("scale.json", b"{}", "added"),
    ],
)
def test_a_change_is_noticed_until_it_is_accepted(name, content, kind, tmp_path):
    run = sealed(tmp_path)
    run.verify()
    (tmp_path / name).unlink(missing_ok=True) if content is None else (
        tmp_path / name
    ).write_bytes(content)
    message = (
        f"{name}: {kind} since the run wrote its files; .*lstm-jax run accept "
        f"--run {tmp_path}"
    )
    for call in (run.verify, lambda: run.start(CONFIG, True)):
        with pytest.raises(InputError, match=message):
            call()
    assert run.accept() == {name: kind}
    run.verify()
    assert run.environments() == (HERE,)
    assert run.accept() == {}


def test_every_flipped_bit_of_the_manifest_is_noticed(tmp_path):
    run = sealed(tmp_path)
    good = run.manifest.read_bytes()
    for bit in range(0, 8 * len(good), 37):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        run.manifest.write_bytes(flipped)
        with pytest.raises(InputError, match=r"manifest .*manifest\.json: damaged"):
            run.verify()
    assert set(run.accept()) == {"config.json", "data.sha256", "vocabulary.json"}
    # `accept` has read the environments from environment.json
    assert run.manifest.read_bytes() == good


def test_a_run_without_a_manifest(tmp_path):
    """A run that was killed as it began has no manifest. It can be resumed, but it is
    read only once its files are accepted.
    """
    run = sealed(tmp_path)
    run.manifest.unlink()
    run.start(CONFIG, True)
    with pytest.raises(InputError, match=r"^manifest .*: missing; bring the old one"):
        run.verify()
    run.accept()
    run.verify()
    assert run.environments() == (HERE,)
    with pytest.raises(InputError, match=r"no config\.json; name the folder of a run"):
        RunFolder(tmp_path / "none").accept()
    assert not (tmp_path / "none").exists()


def test_killed_before_the_config_was_renamed(tmp_path):
    """Starting a run removes temporary files of a killed process, but no other files
    with similar names.
    """
    run = RunFolder(tmp_path)
    (tmp_path / ".config.json.0a1b2c3d.tmp").write_text("{")
    with run.locked():
        run.start(CONFIG, False)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    for name in ("notes.tmp", ".notes.tmp", ".metrics.jsonl.0a1b2c3d.tmp"):
        (tmp_path / name).write_text("x")
    run.start(CONFIG, True)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "notes.tmp",
        ".notes.tmp",
    }


def test_one_process_at_a_time(tmp_path):
    run = RunFolder(tmp_path / "new")
    owner = rf"process {os.getpid()} on {os.uname().nodename}"
    with run.locked():
        with pytest.raises(
            InputError,
            match=rf"^run folder .*new: in use by {owner}; wait until it ends, or "
            r"name another folder$",
        ):
            run.locked().__enter__()
        assert run.lock.exists()
    assert list(run.path.iterdir()) == []
    run.lock.write_text("process 1 on a host that went down")
    with run.locked():
        assert (
            run.lock.read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"
        )
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        InputError, match=r"^run folder .*file: File exists; name a folder"
    ):
        RunFolder(tmp_path / "file").locked().__enter__()


def test_data_that_changed_is_noticed(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.fix_data("abc")
    run.fix_data("abc")
    with pytest.raises(InputError, match="changed since the run began"):
        run.fix_data("abd")
    assert run.fingerprint.read_text() == "abc\n"
    run.fingerprint.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="changed since the run began"):
        run.fix_data("abc")
