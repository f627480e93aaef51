"""Commands of the command line `lstm-jax`. Each command is a frozen dataclass whose
fields are its flags.

`COMMANDS` maps the name of each command to its class. The commands of a task are in the
module `command` of its folder.
"""

from typing import Any

from lstm_jax.lab.commands.launch import Launch
from lstm_jax.lab.commands.runs import AcceptRun, CompareRuns, ExportOnnx, Inspect, Runs
from lstm_jax.lab.commands.tools import (
    Backends,
    Completion,
    Demo,
    PrepareData,
    ShardReviews,
    ShardText,
)
from lstm_jax.lab.forecast import command as forecast
from lstm_jax.lab.generation import command as generation
from lstm_jax.lab.sentiment import command as sentiment

COMMANDS: dict[str, Any] = {
    "demo": Demo,
    **sentiment.COMMANDS,
    **generation.COMMANDS,
    **forecast.COMMANDS,
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
