"""Tests of the persistent compilation cache.

The cache changes no bit of a result, JAX's own settings take precedence over those of
the cache, and faults of the cache stop no run.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from made_reviews import write_csvs

from lstm_jax.lab.machine import compilation_cache
from lstm_jax.lab.machine.compilation_cache import compilation_cache_dir, keep_compiled

SETTINGS = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
)
SIZES = (
    "--vocabulary frequency --num-words 300 --maxlen 12 --embed 8 --units 8 "
    "--epochs 1 --batch-size 16 --no-figures"
)

RUN = """
import hashlib, json, sys
from pathlib import Path
import jax, lstm_jax.lab.sentiment.task
assert jax.config.jax_compilation_cache_dir is None  # an import switches nothing on
counts = {}
jax.monitoring.register_event_listener(lambda event, **_: counts.__setitem__(event, counts.get(event, 0) + 1))
from lstm_jax.lab import cli
code = cli.main(sys.argv[1:])
params = lstm_jax.lab.sentiment.task.load(Path(sys.argv[sys.argv.index("--run") + 1])).params
bits = hashlib.sha256(b"".join(params[name].tobytes() for name in sorted(params))).hexdigest()
print(json.dumps({"code": code, "bits": bits, "hits": counts.get("/jax/compilation_cache/cache_hits", 0)}))
"""


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csvs(tmp_path_factory.mktemp("reviews"), 64, 16)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_processes")
def test_cold_and_warm_give_the_same_bits(reviews, tmp_path):
    """A training with a warm cache gives the same parameters, bit for bit, as one with
    a cold cache, even if a cache entry is truncated.

    Both trainings run in fresh processes with the default devices and the default
    backend, and their compiled steps donate the state.
    """
    home = os.environ["XDG_CACHE_HOME"]
    kept = tmp_path / "cache" / "lstm_jax"
    kept.mkdir(parents=True)
    # use the compiled backend that is already built
    if (Path(home) / "lstm_jax" / "native").is_dir():
        (kept / "native").symlink_to(Path(home) / "lstm_jax" / "native")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "JAX_ENABLE_COMPILATION_CACHE"
    }
    answers, files = [], []
    for number in range(2):
        command = [
            "train",
            "sentiment",
            "--data",
            str(reviews),
            "--run",
            str(tmp_path / f"run{number}"),
            *SIZES.split(),
        ]
        run = subprocess.run(
            [sys.executable, "-c", RUN, *command],
            capture_output=True,
            text=True,
            env=environment | {"XDG_CACHE_HOME": str(kept.parent)},
        )
        assert run.returncode == 0, run.stderr[-3000:]
        assert "machine type" not in run.stderr.lower()
        answers.append(json.loads(run.stdout.splitlines()[-1]))
        files.append(
            {path: path.stat().st_size for path in (kept / "xla").rglob("*-cache")}
        )
        cut = next((kept / "xla").rglob("jit_epoch_order-*-cache"))
        os.truncate(cut, cut.stat().st_size // 2)
    assert [answer["code"] for answer in answers] == [0, 0]
    assert answers[0]["bits"] == answers[1]["bits"]
    assert files[0].keys() <= files[1].keys()
    assert any("run_steps" in path.name for path in files[0])
    assert answers[1]["hits"] > 0.8 * len(files[0]) > 5


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Use a new folder as the user's cache folder, set `jax_enable_compilation_cache`,
    and yield the folder. Restore JAX's settings.

    With this fixture, `keep_compiled` omits its check that XLA can load a program. This
    check would compile a program.
    """
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compilation_cache, "_load_a_program", lambda: None)
    jax.config.update("jax_enable_compilation_cache", True)
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_on_in_the_user_s_cache(settings):
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == str(compilation_cache_dir())
    assert compilation_cache_dir().is_relative_to(settings / "lstm_jax" / "xla")
    assert compilation_cache_dir().is_dir()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_jax_s_own_settings_go_before(settings, monkeypatch):
    jax.config.update("jax_enable_compilation_cache", False)
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == "/elsewhere"
    assert not (settings / "lstm_jax").exists()
    jax.config.update("jax_compilation_cache_dir", None)
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(least))
    keep_compiled()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == least


def test_another_processor_or_jaxlib_has_its_own(monkeypatch):
    here = compilation_cache_dir()
    monkeypatch.setattr(compilation_cache, "version", lambda package: "0.0")
    older = compilation_cache_dir()
    monkeypatch.setattr(
        compilation_cache, "processor", lambda: "Linux x86_64 flags: fpu"
    )
    assert len({here, older, compilation_cache_dir()}) == 3


def test_a_folder_that_cannot_be(settings, monkeypatch):
    """The cache stays off if others can write to its folder, if it cannot be made, or
    if the user has no home in which it could be.
    """
    folder = compilation_cache_dir()
    folder.mkdir(parents=True)
    folder.chmod(0o770)
    keep_compiled()
    shutil.rmtree(settings / "lstm_jax")
    (settings / "lstm_jax").write_text("a file")
    keep_compiled()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(
        Path, "expanduser", lambda path: (_ for _ in ()).throw(RuntimeError("no home"))
    )
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None


def _complain() -> None:
    os.write(
        2,
        b"E0000 cpu_aot_loader.cc:195] Machine type used for XLA:CPU "
        b"compilation doesn't match",
    )


def _fail() -> None:
    raise RuntimeError("rejected")


@pytest.mark.parametrize(
    ("load", "said"), [(_complain, "doesn't match"), (_fail, "RuntimeError: rejected")]
)
def test_off_where_xla_complains_of_its_own_programs(
    settings, monkeypatch, capfd, load, said
):
    monkeypatch.setattr(compilation_cache, "_load_a_program", load)
    keep_compiled()
    monkeypatch.setattr(
        compilation_cache, "_load_a_program", lambda: pytest.fail("is asked once")
    )
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None
    assert said in (compilation_cache_dir() / compilation_cache.VERDICT).read_text()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_no_verdict_without_a_test(tmp_path, monkeypatch):
    """A process on a GPU does not test whether XLA can load programs.

    Such a process stores no test result for later processes on a CPU, and ignores the
    stored result of an earlier process.
    """
    verdict = tmp_path / "verdict"
    monkeypatch.setattr(compilation_cache, "_load_a_program", _complain)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compilation_cache._loads(verdict)
    assert not verdict.exists()
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert not compilation_cache._loads(verdict)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compilation_cache._loads(verdict)


def test_a_program_loads():
    assert isinstance(
        compilation_cache._stderr_of(compilation_cache._load_a_program), str
    )
    assert "Error" not in compilation_cache._stderr_of(
        compilation_cache._load_a_program
    )


@pytest.mark.parametrize("most", [25, 20])
def test_the_oldest_go(most, settings, monkeypatch):
    folder = compilation_cache_dir()
    folder.mkdir(parents=True)
    for age, name in enumerate("dcba"):
        (folder / f"{name}-cache").write_bytes(bytes(10))
        os.utime(folder / f"{name}-cache", (1000 - age, 1000 - age))
    monkeypatch.setattr(compilation_cache, "MOST_BYTES", most)
    keep_compiled()
    assert sorted(path.name for path in folder.glob("*-cache")) == [
        "c-cache",
        "d-cache",
    ]
