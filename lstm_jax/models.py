"""Models: config -> Module."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lstm_jax.config import SentimentModelConfig
from lstm_jax.errors import InputError
from lstm_jax.layers import LSTM, Bidirectional, ClassifierHead, Embedding, RecurrentStack
from lstm_jax.shapes import TokenIds


class SentimentClassifier(nnx.Module):
    """Embedding -> one or more LSTMs, the last one's last output -> Dense(1): ids (B, T) -> logits (B,).

    sigmoid(logit) is the probability of label 1. With the default config these are the 2,691,713 parameters of Keras' imdb_lstm example.
    """

    def __init__(self, config: SentimentModelConfig, vocabulary: int, *, rngs: nnx.Rngs):
        self.embedding = Embedding(vocabulary, config.embed, mask_zero=config.mask_zero, rngs=rngs)
        layers: list[LSTM | Bidirectional] = []
        features = config.embed
        for n in range(config.layers):
            options = {
                "dropout": config.dropout,
                "recurrent_dropout": config.recurrent_dropout,
                "dropout_masks": config.dropout_masks,
                "return_sequences": n < config.layers - 1,
                "dtype": None if config.dtype == "float32" else jnp.dtype(config.dtype),
                "backend": None if config.backend == "auto" else config.backend,
            }
            if config.bidirectional:
                layer = Bidirectional(features, config.units, merge_mode=config.merge, rngs=rngs, **options)
                features = layer.output_features
            else:
                layer = LSTM(features, config.units, rngs=rngs, **options)
                features = config.units
            layers.append(layer)
        self.recurrent = RecurrentStack(layers)
        self.head = ClassifierHead(features, 1, rngs=rngs)

    def __call__(self, ids: TokenIds, *, deterministic: bool | None = None, rngs: nnx.Rngs | jax.Array | None = None) -> Float[Array, "B"]:
        """Logits of a batch; `deterministic` and `rngs` as in `LSTM`."""
        steps_first = ids.T  # the recurrence runs over T first, so gather the vectors in that order
        last = self.recurrent(
            self.embedding(steps_first),
            mask=self.embedding.mask(steps_first),
            deterministic=deterministic,
            rngs=rngs,
            time_major=True,
        )
        return self.head(last)[:, 0]


class Functional(NamedTuple):
    """A model as a pure function and its arrays.

    params: flat dict of arrays, named as `lstm_jax.convert` names them ("recurrent/0/kernel");
    rebuild(params) -> the Module with those arrays, for use inside or outside of jit.
    """

    params: dict[str, jax.Array]
    rebuild: Callable[[dict[str, jax.Array]], nnx.Module]


def functional(model: nnx.Module) -> Functional:
    """Take a model apart: `nnx.split` with parameters under flat names.

    `rebuild` raises InputError if a name is missing or new, or a shape is another.
    """
    graph, state, rest = nnx.split(model, nnx.Param, ...)
    paths = {"/".join(str(part) for part in path if part != "layers"): path for path, _ in nnx.to_flat_state(state)}
    variables = dict(nnx.to_flat_state(state))
    params = {name: variables[path][...] for name, path in paths.items()}
    shapes = {name: array.shape for name, array in params.items()}

    def rebuild(params: dict[str, jax.Array]) -> nnx.Module:
        found = {name: array.shape for name, array in params.items()}
        if found != shapes:
            odd = sorted(set(found.items()) ^ set(shapes.items()))[0]
            raise InputError("parameters", f"{odd[0]} {odd[1]}", "give arrays of the model's own config")
        flat = [(path, variables[path].replace(params[name])) for name, path in paths.items()]
        return nnx.merge(graph, nnx.from_flat_state(flat), rest)

    return Functional(params, rebuild)


def layer_rows(model: nnx.Module) -> list[dict[str, str]]:
    """A row a layer that owns parameters: name, type, shapes, count; for a table as Keras' `summary()` prints."""
    rows = []
    for path, module in nnx.iter_modules(model):
        own = {name: value for name, value in vars(module).items() if isinstance(value, nnx.Param)}
        if own:
            name = "/".join(str(part) for part in path if part != "layers")
            shapes = ", ".join(f"{n} {tuple(v.shape)}" for n, v in sorted(own.items()))
            count = sum(v[...].size for v in own.values())
            rows.append({"layer": name, "type": type(module).__name__, "parameters": shapes, "count": f"{count:,}"})
    return sorted(rows, key=lambda row: _ORDER.index(row["layer"].split("/")[0]) if row["layer"].split("/")[0] in _ORDER else 99)


_ORDER = ("embedding", "recurrent", "head")
