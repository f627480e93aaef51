"""Config of a run: the parts that all tasks share, and reading and writing as JSON.

The traits of the cells that Keras also has are stored here, so that a config with one of
them is made without an import of JAX.
"""

import dataclasses
import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from lstm_jax.base.checks import (
    MOST,
    Bounds,
    Checked,
    Count,
    CountOrNone,
    Layers,
    Share,
    frozen,
)
from lstm_jax.base.errors import InputError, check_choice, parsing, require
from lstm_jax.base.types import Texts, Values
from lstm_jax.lab.files.reading import decode_utf8, read_input
from lstm_jax.training.config import TrainConfig


def config_values(config) -> Values:
    """Return the values of a config as a dict, without the later added fields that have
    their default values.
    """
    values = dataclasses.asdict(config)
    for own in dataclasses.fields(config):
        value = getattr(config, own.name)
        if own.metadata.get("added") and value == default(own):
            del values[own.name]
        elif dataclasses.is_dataclass(value):
            values[own.name] = config_values(value)
    return values


def default(field: dataclasses.Field) -> Any:
    """Return the default value of a dataclass field, or `dataclasses.MISSING` if it has
    neither a default value nor a default factory.
    """
    # cloudpickle copies MISSING with a class, so that `is` would not find it
    return field.default_factory() if callable(field.default_factory) else field.default


def flatten(values: Mapping, prefix: str = "") -> Values:
    """Return a nested mapping as a flat dict: {"model": {"units": 8}} becomes
    {"model.units": 8}. `prefix` is put before each key.
    """
    flat: Values = {}
    for name, value in values.items():
        flat |= (
            flatten(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {prefix + name: value}
        )
    return flat


ProcessIndex = Annotated[int, Bounds(-1, 2**16, "give 0 or more, or -1 to find it")]
Trackers = tuple[Literal["tensorboard", "jsonl", "wandb", "mlflow"], ...]


_SEGMENTS = Bounds(1, MOST, "give none, sqrt, or 1 or more segments")
_REMEDY = "name the folder of a finished or interrupted run"
AUTO = "auto"
"""Backend name in a config that lets `lstm_jax.recurrence.resolve_backend` choose the
backend."""
KERAS_CELLS = ("lstm", "gru", "gru_reset_before", "simple_rnn")
"""Names of the cells that Keras also has."""


def check_backend(name) -> None:
    """Check that a backend name in a config is valid."""
    if name != AUTO:
        from lstm_jax.recurrence import BACKENDS  # not above: it imports JAX

        check_choice("backend", name, (AUTO, *BACKENDS))


@frozen
class CellTraits:
    """Properties of a recurrent cell that configs check, as in `lstm_jax.cells.Cell`.

    Attributes:
        has_recurrent_kernel: whether the cell multiplies its previous output h by a
            recurrent kernel.
        has_cell_state: whether the state of the cell contains an array c in addition to
            the output h.
    """

    has_recurrent_kernel: bool
    has_cell_state: bool


def cell_traits(cell: str) -> CellTraits:
    """Return the traits of a cell, which are the properties that configs check (see
    `CellTraits`).
    """
    if cell in KERAS_CELLS:
        return CellTraits(has_recurrent_kernel=True, has_cell_state=cell == "lstm")
    from lstm_jax.cells import find_cell  # not above: it imports JAX

    row = find_cell(cell)
    return CellTraits(row.has_recurrent_kernel, row.has_cell_state)


@frozen
class RecurrentConfig(Checked):
    """Config of the recurrent layers of a model. The config of each task's model is a
    subclass.
    """

    units: Count = 128
    """Number of units of each recurrent layer."""
    layers: Layers = 1
    """Number of stacked recurrent layers."""
    dropout: Share = 0.0
    """Dropout rate of the input features of each recurrent layer. The same features are
    dropped at every step."""
    recurrent_dropout: Share = 0.0
    """Dropout rate of the units of the recurrent state. The same units are dropped at
    every step."""
    dropout_masks: Literal["keras", "per_gate", "variational"] = "keras"
    """Kind of the dropout masks. 'variational' draws one mask for all gates (Gal &
    Ghahramani 2016). 'per_gate' draws one mask per gate. 'keras' draws one mask per
    gate if there is recurrent dropout, and one mask for all gates if there is not."""
    weight_drop: Share = 0.0
    """Dropout rate of the entries of each recurrent kernel. The same entries are
    dropped at every step of a batch (DropConnect; Merity et al. 2018)."""
    zoneout: Share = 0.0
    """Share of the units that keep their previous h in a step. The units are drawn anew
    at each step (Krueger et al. 2017)."""
    zoneout_cell: Share = 0.0
    """Share of the units that keep their previous cell state c in a step. Only an LSTM
    has a cell state."""
    cell: str = "lstm"
    """Name of the recurrent cell: lstm, gru, simple_rnn, min_gru or another cell in
    `lstm_jax.cells`, or a cell that a module named in $LSTM_JAX_CELLS registers."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the matrix products. Parameters and state stay float32."""
    backend: str = AUTO
    """Backend that computes the recurrence. 'auto' chooses one. `lstm-jax backends`
    describes compiled, hoisted, reference and others."""
    remat: Literal["none", "sqrt"] | int = "none"
    """Number of segments into which the sequence is divided to save memory: the
    backward pass computes the states within a segment again instead of storing them.
    'sqrt' uses the square root of the number of steps, which needs the least memory.
    'none' stores all states."""

    def __post_init__(self):
        super().__post_init__()
        traits = cell_traits(self.cell)
        check_backend(self.backend)
        if not (isinstance(self.remat, str) and self.remat in ("none", "sqrt")):
            object.__setattr__(self, "remat", _SEGMENTS.check("remat", self.remat, int))
        # some cells have no recurrent kernel
        for name in ("recurrent_dropout", "weight_drop"):
            have, rate = traits.has_recurrent_kernel, getattr(self, name)
            require(
                have or not rate,
                name,
                rate,
                f"the cell {self.cell} multiplies no state by a kernel: give 0",
            )
        require(
            traits.has_cell_state or not self.zoneout_cell,
            "zoneout_cell",
            self.zoneout_cell,
            f"the cell {self.cell} has no c: give 0",
        )
        zoned = self.zoneout or self.zoneout_cell
        require(
            self.remat == "none" or not zoned,
            "remat",
            self.remat,
            "segments have no zoneout: give none, or no zoneout",
        )


@frozen
class RunConfig:
    """Config of one training run: its data, its model and its training. Each task has a
    subclass.
    """

    task: ClassVar[str]
    """Name of the task, which is written to config.json and shown in error messages."""
    commands: ClassVar[str]
    """Names of the commands that use a trained run of this task, for error messages."""
    files: ClassVar[Texts] = ()
    """Names of the task's own files in the folder of a run, such as "vocabulary.json";
    see `Task.files`."""
    data: Any
    model: RecurrentConfig
    train: TrainConfig


@frozen
class Processes(Checked):
    """Settings of one process in a run of several processes, which are no part of the
    run's config.json.
    """

    coordinator: str = ""
    """Address HOST:PORT of process 0 in a run of several processes. If empty, it is
    $JAX_COORDINATOR_ADDRESS."""
    processes: CountOrNone = 0
    """Number of processes of the run. 0 means the number that $JAX_NUM_PROCESSES names,
    else 1."""
    process: ProcessIndex = -1
    """Index of this process, counted from 0. -1 means the index that $JAX_PROCESS_ID
    names."""

    def completed(self) -> "Processes":
        """Return a copy with missing fields from the environment variables of JAX."""

        def number(given: int, missing: int, name: str) -> int:
            text = os.environ.get(name, "")
            if given != missing or not text:
                return given
            require(text.isdecimal(), f"${name}", text, "give a number")
            return int(text)

        return Processes(
            self.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", ""),
            number(self.processes, 0, "JAX_NUM_PROCESSES"),
            number(self.process, -1, "JAX_PROCESS_ID"),
        )


C = TypeVar("C", bound=RunConfig)


def to_json(config: RunConfig) -> str:
    """Return a config, together with the name of its task, as indented JSON."""
    return json.dumps({"task": config.task} | config_values(config), indent=2) + "\n"


Changes = dict[str, tuple[Any, Any]]
"""Dict from the name of a field, such as "train.epochs", to the pair of the old value
and the new value."""


def config_changes(old, new) -> Changes:
    """Return the fields in which two configs, as parsed JSON, differ. If their tasks
    differ, only the task is compared.
    """
    before, after = _flat(old), _flat(new)
    changes = {
        name: (before.get(name), after.get(name))
        for name in after | before
        if before.get(name) != after.get(name)
    }
    return {"task": changes["task"]} if "task" in changes else changes


def shown_changes(changes: Changes) -> str:
    """Return the result of `config_changes` as text, such as "epochs: 2 in the run, 4
    given".
    """

    def cut(value):
        shown = repr(value)
        return shown if len(shown) <= 40 else shown[:37] + "..."

    return "; ".join(
        f"{name.rpartition('.')[2]}: {cut(old)} in the run, {cut(new)} given"
        for name, (old, new) in changes.items()
    )


@cache
def _defaults(task: str) -> Values:
    from lstm_jax.lab.tasks import TASKS

    if task not in TASKS:
        return {}
    default = TASKS[task].config()  # pyright: ignore[reportCallIssue]
    return json.loads(json.dumps(dataclasses.asdict(default)))


def _flat(raw) -> Values:
    if not isinstance(raw, dict):
        return {"": raw}
    return flatten(_defaults(str(raw.get("task")))) | flatten(raw)


def read_config(path: Path, kind: type[C]) -> C:
    """Read a config of the class `kind` from a JSON file that was written with
    `to_json`.

    Raises:
        InputError: if the file cannot be read, or contains no valid config of this
            class.
    """
    from lstm_jax.lab.tasks import TASKS

    raw = _read_json(path)
    task = raw.pop("task")
    require(
        task == kind.task,
        f"run {path.parent}",
        task,
        f"use {TASKS[task].config.commands}, or name a run of {kind.task}",
    )
    parts: Values = {}
    try:
        for section in dataclasses.fields(kind):
            if section.name in raw or not section.metadata.get("added"):
                values = _with_tuples(raw[section.name])
                parts[section.name] = section.type(**values)  # pyright: ignore[reportCallIssue]
        return kind(**parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"config {path}", error, _REMEDY) from error


def read_fields(path: Path) -> tuple[Values, list[str]]:
    """Return the task and the fields in the config.json of a run, and the names of
    those that this version does not know. A field that the file lacks has its default
    value; no value is checked.

    Raises:
        InputError: if the file cannot be read, or lacks the task or a section.
    """
    raw = _parsed(path, _REMEDY)
    sections = [raw.get(name) for name in ("data", "model", "train")]
    known = "task" in raw and all(isinstance(part, dict) for part in sections)
    require(known, f"config {path}", "not of a run", _REMEDY)
    fields, known = _flat(raw), _flat({"task": raw["task"]})
    return fields, [name for name in fields if name not in known]


def with_file(config: C, path: Path) -> C:
    """Return a copy of a config with the values of a file: a run's config.json, or TOML
    (.toml), which may have only some of the fields.

    Raises:
        InputError: if the file cannot be read, is for another task, or has an unknown
            field or a value that the config refuses.
    """
    subject = f"config {path}"
    raw = _parsed(path, "give the config.json of a run, or a .toml file")
    task = raw.pop("task", config.task)
    require(
        task == config.task, subject, f"task {task}", f"give a config of {config.task}"
    )
    known = flatten(dataclasses.asdict(config))
    for name in flatten(raw):
        if name not in known:
            (nearest,) = difflib.get_close_matches(name, known, 1, 0)
            raise InputError(
                subject, f"unknown field {name}", f"did you mean {nearest}?"
            )
    sections = {}
    for section, part in raw.items():
        try:
            sections[section] = dataclasses.replace(
                getattr(config, section), **_with_tuples(part)
            )
        except InputError as error:
            raise InputError(
                subject, f"{section}.{error.subject}: {error.value}", error.remedy
            ) from error
    return dataclasses.replace(config, **sections)


def _with_tuples(section: Values) -> Values:
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in section.items()
    }


def _parsed(path: Path, remedy: str) -> Values:
    subject = f"config {path}"
    content = decode_utf8(read_input(path, subject, remedy), path, remedy)
    with parsing(subject, remedy):
        raw = tomllib.loads(content) if path.suffix == ".toml" else json.loads(content)
    require(isinstance(raw, dict), subject, type(raw).__name__, remedy)
    return raw


def read_task(path: Path) -> str:
    """Return the name of the task of a config that was written as JSON with `to_json`.

    Raises:
        InputError: if the file does not exist, is not JSON, or is no config of a task.
    """
    return _read_json(path)["task"]


def _read_json(path: Path) -> Values:
    from lstm_jax.lab.tasks import TASKS

    raw = _parsed(path, _REMEDY)
    task = raw.get("task")
    require(
        isinstance(task, str) and task in TASKS,
        f"config {path}",
        f"task {task}",
        _REMEDY,
    )
    return raw
