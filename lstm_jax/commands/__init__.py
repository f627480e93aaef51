"""Commands of the command line `lstm-jax`. Each command is a frozen dataclass whose fields are its flags.

`COMMANDS` maps the name of each command to its class.
"""

from collections.abc import Callable

from lstm_jax.commands.completion import Completion
from lstm_jax.commands.export import ExportOnnx
from lstm_jax.commands.forecast import Forecast, TrainForecast
from lstm_jax.commands.generation import Generate, Score, TrainGeneration, Units
from lstm_jax.commands.inspect import Inspect
from lstm_jax.commands.launch import Launch
from lstm_jax.commands.sentiment import Evaluate, ExportEmbedding, Neighbours, PlotEmbedding, Predict, TrainSentiment
from lstm_jax.commands.tools import AcceptRun, Backends, Demo, PrepareData, ShardReviews, ShardText

COMMANDS: dict[str, Callable] = {
    "demo": Demo,
    "train sentiment": TrainSentiment,
    "evaluate": Evaluate,
    "predict": Predict,
    "embedding neighbours": Neighbours,
    "embedding plot": PlotEmbedding,
    "embedding export": ExportEmbedding,
    "train generation": TrainGeneration,
    "generate": Generate,
    "score": Score,
    "units": Units,
    "train forecast": TrainForecast,
    "forecast": Forecast,
    "inspect": Inspect,
    "export onnx": ExportOnnx,
    "launch": Launch,
    "data prepare": PrepareData,
    "data shard": ShardText,
    "data shard-reviews": ShardReviews,
    "run accept": AcceptRun,
    "backends": Backends,
    "completion": Completion,
}

__all__ = ["COMMANDS"]
