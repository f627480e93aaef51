"""Commands of the command line `lstm-jax`. Each command is a frozen dataclass whose
fields are its flags.

`COMMANDS` maps the name of each command to its class.
"""

from typing import Any

from lstm_jax.lab.commands.runs import AcceptRun, CompareRuns, ExportOnnx, Inspect, Runs
from lstm_jax.lab.commands.tools import (
    Backends,
    Completion,
    Demo,
    Launch,
    PrepareData,
    ShardReviews,
    ShardText,
)
from lstm_jax.lab.tasks import TASKS

COMMANDS: dict[str, Any] = {
    "demo": Demo,
    **{
        name: command
        for task in TASKS.values()
        for name, command in task.commands().items()
    },
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
