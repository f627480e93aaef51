"""Commands of the command line `lstm-jax`. Each command is a frozen dataclass whose
fields are its flags.

`COMMANDS` maps the name of each command to its class. The commands of a task are in the
module `lstm_jax.commands.TASK`, where TASK is the name of the task. The dict `COMMANDS`
of that module is merged into the `COMMANDS` of this package.
"""

from importlib import import_module
from typing import Any

from lstm_jax.commands.launch import Launch
from lstm_jax.commands.runs import AcceptRun, CompareRuns, ExportOnnx, Inspect, Runs
from lstm_jax.commands.tools import (
    Backends,
    Completion,
    Demo,
    PrepareData,
    ShardReviews,
    ShardText,
)
from lstm_jax.config import CONFIGS

COMMANDS: dict[str, Any] = {"demo": Demo}
for _task in CONFIGS:
    COMMANDS |= import_module(f"lstm_jax.commands.{_task}").COMMANDS
COMMANDS |= {
    "inspect": Inspect,
    "export onnx": ExportOnnx,
    "launch": Launch,
    "data prepare": PrepareData,
    "data shard": ShardText,
    "data shard-reviews": ShardReviews,
    "run accept": AcceptRun,
    "runs": Runs,
    "runs compare": CompareRuns,
    "backends": Backends,
    "completion": Completion,
}

__all__ = ["COMMANDS"]
