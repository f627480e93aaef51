"""Trackers: the calls that they get, their errors, and what arrives in Weights & Biases
(offline) and in a file store of MLflow.
"""

import contextlib
import json
import signal
import struct
import sys
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
import optax
import pytest
from command_line import assert_error
from flax import nnx

import lstm_jax
from lstm_jax.base.errors import InputError, Interrupted
from lstm_jax.lab.forecast import task as forecast
from lstm_jax.lab.forecast.config import (
    ForecastConfig,
    ForecastModelConfig,
    SeriesConfig,
)
from lstm_jax.lab.forecast.data import Series
from lstm_jax.lab.runs.trackers import SERVICES, Tracker
from lstm_jax.training.config import TrainConfig
from lstm_jax.training.fit import FitResult

CONFIG = ForecastConfig(
    SeriesConfig(context=6, horizon=2),
    ForecastModelConfig(units=3),
    TrainConfig(epochs=2, batch_size=16),
)
SERIES = Series(np.arange(80.0), np.sin(np.arange(80.0)), False)


def fit(callbacks=()) -> FitResult:
    x = np.linspace(-1, 1, 16, dtype=np.float32)[:, None]
    return lstm_jax.fit(
        nnx.Linear(1, 1, rngs=nnx.Rngs(0)),
        lambda model, x: (model(x)[:, 0] - 1) ** 2,
        optax.sgd(1e-2),
        [x],
        epochs=2,
        batch_size=8,
        callbacks=callbacks,
    )


class Noting(Tracker):
    """Tracker of the service "json", which knows no run."""

    package, remedy = "json", "correct it"
    calls: ClassVar[list[Any]] = []

    def start(self, known):
        self.calls[:] = [self.config]
        return f"{known}+"

    def log(self, metrics, step):
        self.calls.append((step, metrics["train_loss"]))

    def log_result(self, metrics, figures, files):
        self.calls.append((metrics, figures, files))

    def stop(self, status):
        self.calls.append(status)


class Failing(Noting):
    def log(self, metrics, step):
        raise OSError(28, "No space left on device")

    def stop(self, status):
        raise RuntimeError("no network")


class Refusing(Noting):
    def start(self, known):
        raise RuntimeError("no network")


def interrupt(_):
    signal.raise_signal(signal.SIGTERM)


def fail(_):
    raise ZeroDivisionError


def stop(_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("callbacks", "status", "error"),
    [
        ([], "finished", None),
        ([stop], "interrupted", KeyboardInterrupt),
        ([fail], "failed", ZeroDivisionError),
    ],
)
def test_calls(callbacks, status, error, tmp_path):
    rows = []
    with (
        pytest.raises(error) if error else contextlib.nullcontext(),
        Noting(tmp_path, {"units": 3}) as tracker,
    ):
        rows = fit(callbacks=[tracker, *callbacks]).rows
        tracker.result({"loss": 1.5, "note": "a"})
    config, *logged, last = Noting.calls
    assert (config, last) == ({"units": 3}, status)
    if not error:
        assert logged.pop() == ({"result/loss": 1.5}, (), ())
        assert logged == [(row["step"], row["train_loss"]) for row in rows]


def test_a_tracker_that_fails(capsys, tmp_path):
    """The result has the same bits as without the tracker, whose first error is a
    warning of one line.
    """
    plain = fit()
    with Failing(tmp_path) as tracker:
        result = fit(callbacks=[tracker])
    assert capsys.readouterr().err.splitlines() == [
        (
            "warning: tracker json: OSError(28, 'No space left on device'); "
            "nothing of the training itself is lost"
        )
    ]
    jax.tree.map(np.testing.assert_array_equal, plain.params, result.params)


@pytest.mark.parametrize(
    ("tracker", "subject"),
    [
        (("wandb",), "tracker wandb"),
        (("jsonl", "mlflow"), "tracker mlflow"),
        (("paper",), "tracker"),
    ],
)
def test_refused(tracker, subject, tmp_path, monkeypatch, unchecked):
    for package in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(InputError) as error:
        forecast.train(CONFIG, tmp_path / "run", data=SERIES, tracker=tracker)
    assert error.value.subject == subject
    assert not (tmp_path / "run").exists()


def test_a_service_that_refuses_a_run(tmp_path):
    with (
        pytest.raises(InputError, match=r"^tracker json: no network; correct it"),
        Refusing(tmp_path),
    ):
        pytest.fail("a training")


def test_the_id_of_a_service(tmp_path):
    for resumed, found in ((False, "None+"), (True, "None++")):
        with Noting(tmp_path, resume=resumed):
            assert (tmp_path / "json.id").read_text() == found
    with (
        pytest.raises(InputError, match=r"^file .*json.id: of another training;"),
        Noting(tmp_path),
    ):
        pytest.fail("a training")


def test_a_run_with_a_tracker(tmp_path, monkeypatch):
    """The tracker of a run gets its config, each epoch, the final metrics, the figures
    and the files that `load` reads.
    """
    monkeypatch.setitem(SERVICES, "wandb", Noting)
    run = tmp_path / "run"
    result = forecast.train(CONFIG, run, data=SERIES, tracker=("wandb",))
    config, *epochs, (metrics, figures, files), status = Noting.calls
    assert (config["train"]["batch_size"], status) == (16, "finished")
    assert epochs == [(row["step"], row["train_loss"]) for row in result.rows]
    assert metrics["result/best_epoch"] == result.best_epoch
    assert figures == sorted((run / "figures").glob("*.png")) != []
    assert {run / "config.json", run / "checkpoints" / "best"} < set(files)
    assert run / "run.lock" not in files


def test_a_missing_package_on_the_command_line(ask, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert_error(
        ask(
            "train",
            "forecast",
            "--tracker",
            "jsonl",
            "wandb",
            "--run",
            tmp_path / "run",
        ),
        "error: tracker wandb: ",
        ".[wandb]",
    )
    assert not (tmp_path / "run").exists()


@pytest.fixture
def train(tmp_path):
    """Return a function that trains the run `tmp_path / "run"` with a tracker. The run
    is interrupted after the first epoch and resumed.
    """

    def call(tracker, resume):
        options: Any = {"data": SERIES, "tracker": (tracker,), "resume": resume}
        with contextlib.nullcontext() if resume else pytest.raises(Interrupted):
            return forecast.train(
                CONFIG,
                tmp_path / "run",
                **options,
                callbacks=[] if resume else [interrupt],
            )

    return call


def assert_loads(folder: Path, params: dict[str, np.ndarray]) -> None:
    loaded = forecast.load(folder)
    assert loaded.notes == ()
    assert loaded.params.keys() == params.keys()
    for name, array in loaded.params.items():
        np.testing.assert_array_equal(array, params[name])


def records(folder: Path) -> list[Any]:
    """Return the records of an offline run of wandb, whose file has the format of
    LevelDB's log.
    """
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportMissingImports]

    (file,) = folder.glob("*.wandb")
    content, at, parts, found = file.read_bytes(), 7, b"", []
    while at + 7 < len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
        size, kind = struct.unpack_from("<HB", content, at + 4)
        parts, at = parts + content[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(train, tmp_path, monkeypatch):
    """Both parts of the run have the same id. All rows, the config, the figures and a
    folder that can be loaded arrive.
    """
    pytest.importorskip(
        "wandb", reason="Weights & Biases is not installed: pip install '.[wandb]'"
    )
    for name, value in {
        "MODE": "offline",
        "DIR": str(tmp_path),
        "DATA_DIR": str(tmp_path),
        "SILENT": "true",
    }.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    train("wandb", False)
    (first,) = (tmp_path / "wandb").glob("offline-run-*")
    result, losses, codes, kinds = train("wandb", True), {}, [], set()
    (second,) = set((tmp_path / "wandb").glob("offline-run-*")) - {first}
    for record in (*records(first), *records(second)):
        kinds.add(kind := record.WhichOneof("record_type"))
        if kind == "run":
            assert (record.run.run_id, record.run.display_name) == (
                (tmp_path / "run" / "wandb.id").read_text(),
                "run",
            )
            config = {
                item.key: json.loads(item.value_json)
                for item in record.run.config.update
            }
            assert config["train"]["batch_size"] == 16
        elif kind == "history":
            row = {
                "/".join([item.key, *item.nested_key]).strip("/"): json.loads(
                    item.value_json
                )
                for item in record.history.item
            }
            losses |= {row["step"]: row["train_loss"]} if "step" in row else {}
        elif kind == "artifact":
            for entry in record.artifact.manifest.contents:
                path = tmp_path / "arrived" / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(Path(entry.local_path).read_bytes())
        elif kind == "exit":
            codes.append(record.exit.exit_code)
    assert losses == {row["step"]: row["train_loss"] for row in result.rows}
    assert codes == [255, 0]
    images = (second / "files" / "media" / "images" / "figures").iterdir()
    assert {path.read_bytes() for path in images} == {
        path.read_bytes() for path in (tmp_path / "run" / "figures").glob("*.png")
    }
    assert_loads(tmp_path / "arrived", result.params)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_file_store(train, tmp_path, monkeypatch):
    mlflow = pytest.importorskip(
        "mlflow", reason="MLflow is not installed: pip install '.[mlflow]'"
    )
    for name, value in {
        "TRACKING_URI": (tmp_path / "store").as_uri(),
        "DISABLE_TELEMETRY": "true",
        "ALLOW_FILE_STORE": "true",
    }.items():
        monkeypatch.setenv(f"MLFLOW_{name}", value)
    client = mlflow.MlflowClient()
    train("mlflow", False)
    number = (tmp_path / "run" / "mlflow.id").read_text()
    assert client.get_run(number).info.status == "KILLED"
    result = train("mlflow", True)
    found = client.get_run(number)
    assert (
        found.info.status,
        found.info.run_name,
        found.data.params["train.batch_size"],
    ) == ("FINISHED", "run", "16")
    history = client.get_metric_history(number, "train_loss")
    assert [(entry.step, entry.value) for entry in history] == [
        (row["step"], row["train_loss"]) for row in result.rows
    ]
    assert found.data.metrics["result/validation_loss"] == min(
        row["validation_loss"] for row in result.rows
    )
    arrived = Path(client.download_artifacts(number, "run"))
    for path in (tmp_path / "run" / "figures").glob("*.png"):
        assert (arrived / "figures" / path.name).read_bytes() == path.read_bytes()
    assert_loads(arrived, result.params)
