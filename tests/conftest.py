"""Settings and fixtures that all tests share: strict JAX with two CPU devices, and
reproducible hypothesis.

This module must be imported before JAX creates its devices.
"""

import contextlib
import gc
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
# XLA compiles small programs for a CPU in half the time without its newer code
# generator; LSTM_JAX_TEST_XLA=default leaves JAX as it is
if os.environ.get("LSTM_JAX_TEST_XLA") != "default":
    quick = (
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()
# a test compiles what it tests; test_compilation_cache.py has processes of its own
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax
import jaxtyping
import pytest
from hypothesis import settings
from selection import is_filtered, left_out

gc.disable()  # until all tests are collected
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# on a GPU, results in TF32 would exceed the tolerances
jax.config.update("jax_default_matmul_precision", "highest")


def _share_one_context() -> None:
    """Let JAX use one MLIR context for all programs.

    Making a context for each program would take a seventh of the time of tests that
    compile many programs.
    """
    from jax._src.interpreters import mlir

    if make := getattr(mlir, "make_ir_context", None):
        context = make()
        mlir.make_ir_context = lambda: context


if os.environ.get("LSTM_JAX_TEST_XLA") != "default":
    _share_one_context()


settings.register_profile("lstm_jax", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("lstm_jax")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="also run the tests and the cases that are marked slow",
    )
    parser.addoption(
        "--rest", action="store_true", help="run only what the quick suite leaves out"
    )


def pytest_report_header(config: pytest.Config) -> str:
    return (
        "quick suite: tests and cases that are marked slow run with --all"
        if is_filtered(config)
        else "slow tests included"
    )


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    rest = config.getoption("rest")
    if not (rest or is_filtered(config)):
        return
    slow = left_out(items)
    out = [item for item in items if (item in slow) != rest]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if (item in slow) == rest]


def pytest_collection_finish() -> None:
    """Let the garbage collector ignore the objects that exist so far, and run it less
    often, because JAX allocates many objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()


def pytest_sessionstart() -> None:
    """Set the cache folder of the tests, and create the devices of JAX.

    The compiled backend is built in the cache folder, unless a usable library of the
    current sources exists.
    """
    # not above: what is imported before jaxtyping's hook is not checked for types
    from lstm_jax import native
    from lstm_jax.base.errors import InputError

    os.environ["XDG_CACHE_HOME"] = str(
        Path(tempfile.gettempdir()) / f"lstm_jax-tests-{os.getuid()}"
    )
    if native.why_not():
        with contextlib.suppress(InputError):
            native.build()
    # create the devices now, so that a test that runs alone has the two devices that it
    # has in the whole suite
    jax.devices()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and jax.default_backend() != "gpu":
        pytest.skip(f"needs a GPU, JAX runs on {jax.default_backend()}")
    # else the weights that peers draw would differ from run to run; Keras seeds PyTorch
    # only where PyTorch is its backend
    if keras := sys.modules.get("keras"):
        keras.utils.set_random_seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder with the real data sets: $LSTM_JAX_DATA, or shared/data beside
    the repository.

    The test is skipped if the folder does not exist.
    """
    folder = Path(
        os.environ.get("LSTM_JAX_DATA") or Path(__file__).parents[2] / "shared" / "data"
    )
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}: set LSTM_JAX_DATA")
    return folder


@pytest.fixture
def x64() -> Iterator[None]:
    """Enable float64 within the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def eager() -> Iterator[None]:
    """Disable `jax.jit`, so that JAX runs operations one by one.

    JAX then compiles each operation only once, even if several functions use it.
    """
    with jax.disable_jit():
        yield


@pytest.fixture(scope="module", autouse=True)
def quick_compiles(request: pytest.FixtureRequest) -> None:
    """Make XLA and LLVM skip most optimisations, except in modules that set
    `OPTIMIZED`.

    This halves the time of programs that are compiled and run only once.
    """
    optimized = (
        getattr(request.module, "OPTIMIZED", False)
        or os.environ.get("LSTM_JAX_TEST_XLA") == "default"
    )
    jax.config.update("jax_disable_most_optimizations", not optimized)


@pytest.fixture(scope="module")
def quick_processes() -> Iterator[None]:
    """Set the options of `quick_compiles` for the processes that a test starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
        yield


@pytest.fixture(scope="module")
def kept_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the processes that a test module starts share a cache of compiled programs,
    as the processes of the command line do.
    """
    settings = {
        "ENABLE_COMPILATION_CACHE": "true",
        "COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs")),
    }
    settings |= {
        "PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(f"JAX_{name}", value)
        yield


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the type checks at run time, which users do not have, so that wrong
    arguments reach the library's own checks.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def ask(capfd, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Return a function ask(*arguments, stdin=None) that runs a command line of
    lstm-jax in this process.

    The function `ask` returns a tuple (exit code, standard output, standard error).
    """
    # not above: what is imported before the tests are is not checked for types
    from lstm_jax.lab import cli

    # `use_cpu_cores` asks for one device a core; the tests have two, whatever the
    # machine has
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})

    def call(*arguments: object, stdin: bytes | None = None) -> tuple[int, str, str]:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return small trained runs by name; see `command_runs`."""
    import command_runs

    return command_runs.Runs(tmp_path_factory.mktemp("runs"))


@contextlib.contextmanager
def _peer_rules() -> Iterator[None]:
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        warnings.catch_warnings(),
    ):
        # Keras' variables lack the `copy` argument that NumPy 2 asks for
        warnings.filterwarnings(
            "ignore", "__array__ implementation", DeprecationWarning
        )
        yield


@pytest.fixture(scope="module")
def only_peers() -> Iterator[None]:
    """Let JAX promote dtypes and ranks as it does by default, in all tests of a module.

    The other tests run with strict promotion. Code of peers, such as Keras or Flax,
    would raise errors under it.
    """
    with _peer_rules():
        yield


@pytest.fixture(scope="session")
def peer_rules() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Return a function that makes a context in which JAX promotes dtypes and ranks as
    it does by default.

    The tests run with strict promotion, under which the code of peers would raise
    errors.
    """
    return _peer_rules


@pytest.fixture(scope="session")
def keras():
    return pytest.importorskip("keras", reason="Keras is not installed")


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")
