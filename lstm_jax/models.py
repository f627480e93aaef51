"""Models of the tasks as `flax.nnx` modules, and as pure functions of their parameters."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lstm_jax.cells import CELLS
from lstm_jax.cells.products import matmul
from lstm_jax.config import ForecastModelConfig, GenerationModelConfig, RecurrentConfig, SentimentModelConfig
from lstm_jax.errors import InputError, require
from lstm_jax.layers import Bidirectional, ClassifierHead, Embedding, Recurrent, RecurrentStack, TiedHead, recurrent
from lstm_jax.runtime import sharding
from lstm_jax.shapes import TokenIds, ValidSteps

EMBEDDING = "embedding/embedding"
"""Name of the embedding table among the parameters of a model, see `Functional.params`."""


def _make_layer(kind: Callable, features: int, config: RecurrentConfig, **options) -> Any:
    """Return a layer or `Bidirectional` of the config."""
    return kind(
        features,
        config.units,
        cell=config.cell,
        weight_drop=config.weight_drop,
        zoneout=config.zoneout,
        zoneout_cell=config.zoneout_cell,
        dropout=config.dropout,
        recurrent_dropout=config.recurrent_dropout,
        dropout_masks=config.dropout_masks,
        dtype=None if config.dtype == "float32" else jnp.dtype(config.dtype),
        backend=None if config.backend == "auto" else config.backend,
        remat=None if config.remat == "none" else config.remat,
        **options,
    )


class SentimentClassifier(nnx.Module):
    """Embedding -> recurrent layers -> last output, or pooled outputs -> Dense(1): ids (B, T) -> logits (B,).

    sigmoid(logit) is the probability of label 1. The default config has the 2,691,713 parameters of the Keras example imdb_lstm.
    """

    def __init__(self, config: SentimentModelConfig, vocabulary: int, *, rngs: nnx.Rngs):
        self.embedding = Embedding(vocabulary, config.embed, mask_zero=config.mask_zero, rngs=rngs)
        self.folded = False
        self.pooling, self.word_dropout = config.pooling, config.word_dropout
        layers: list[Recurrent | Bidirectional] = []
        features = config.embed
        for n in range(config.layers):
            inner = n < config.layers - 1 or config.pooling != "last"
            if config.bidirectional:
                layer = _make_layer(Bidirectional, features, config, merge_mode=config.merge, return_sequences=inner, rngs=rngs)
                features = layer.output_features
            else:
                layer = _make_layer(recurrent, features, config, return_sequences=inner, rngs=rngs)
                features = config.units
            layers.append(layer)
        self.recurrent = RecurrentStack(layers)
        self.head = ClassifierHead(features * (1 + (config.pooling == "mean+max")), 1, rngs=rngs)

    def __call__(
        self,
        ids: TokenIds,
        *,
        vectors: Float[Array, "T B E"] | None = None,
        summed: bool = False,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | jax.Array | None = None,
    ) -> Float[Array, "B"]:
        """Return the logits of a batch.

        Args:
            ids: words, padded with 0.
            vectors: word vectors, time first, that replace those of the embedding.
            summed: only the sum of the gradients by the vectors of a word is used, so it may come at any of its positions; see `tokens` of
                `unroll`.
            deterministic: as in `Recurrent`.
            rngs: as in `Recurrent`.
        """
        steps_first = ids.T  # the recurrence runs over time, so the vectors are gathered time first
        tokens = steps_first if not self.folded and (summed or vectors is None) else None
        if vectors is None:
            vectors = sharding.constrain(steps_first, 1) if self.folded else self.embedding(steps_first)
        first = self.recurrent.layers[0]
        alone = first.forward if isinstance(first, Bidirectional) else first
        training = not (alone.deterministic if deterministic is None else deterministic)
        if self.word_dropout and training:
            kept = jax.random.bernoulli(self._key(rngs), 1 - self.word_dropout, (*steps_first.shape, 1))
            vectors = vectors * jnp.broadcast_to(kept, vectors.shape).astype(vectors.dtype)
            tokens = None if tokens is None else jnp.where(kept[..., 0], tokens, -1)  # dropped words are equal
        h: Any = self.recurrent(
            vectors,
            mask=self.embedding.mask(steps_first),
            tokens=tokens,
            deterministic=deterministic,
            rngs=rngs,
            time_major=True,
        )
        return self.head(h if self.pooling == "last" else self._pooled(h, steps_first))[:, 0]

    def _key(self, rngs: nnx.Rngs | jax.Array | None) -> jax.Array:
        if isinstance(rngs, jax.Array):
            return jax.random.fold_in(rngs, len(self.recurrent.layers))  # the layers use the numbers before
        if rngs is None:
            raise InputError("rngs", None, "word dropout draws from it: give rngs with a `dropout` stream, or deterministic=True")
        return rngs.dropout()

    def _pooled(self, h: Float[Array, "T B D"], ids: Int[Array, "T B"]) -> Float[Array, "B P"]:
        """Return mean, maximum or both over the words of each row; zeros for a row without words."""
        real = jnp.broadcast_to((ids != 0)[..., None], h.shape)
        mean = jnp.where(real, h, 0).sum(0) / jnp.maximum(real.sum(0), 1).astype(h.dtype)
        largest = jnp.where(real.any(0), jnp.where(real, h, -jnp.inf).max(0), 0)
        return {"mean": mean, "max": largest, "mean+max": jnp.concatenate([mean, largest], -1)}[self.pooling]

    def fold(self) -> "SentimentClassifier":
        """Multiply the embedding table into the kernels of the first layer: (V, E) (E, G H), so that the projection of a word is a lookup.

        For use without dropout: input dropout would then drop words, not features.
        """
        first = self.recurrent.layers[0]
        table = sharding.constrain(self.embedding.embedding[...], 0)
        for layer in (first.forward, first.backward) if isinstance(first, Bidirectional) else (first,):
            layer.kernel = nnx.Param(sharding.replicate(matmul(table, layer.kernel[...], layer.dtype)))
        self.folded = True
        return self


class CharGenerator(nnx.Module):
    """One-hot characters, or an embedding -> recurrent layers -> Dense(V): ids (B, T) -> logits of the next character.

    With 33 characters and 128 units it has the 87,201 parameters of the Keras example lstm_text_generation.
    """

    def __init__(self, config: GenerationModelConfig, vocabulary: int, *, rngs: nnx.Rngs):
        self.units, self.cell = config.units, config.cell
        self.embedding = Embedding(vocabulary, config.embed, rngs=rngs) if config.embed else None
        layers: list[Recurrent | Bidirectional] = []
        for n in range(config.layers):
            features = config.units if n else config.embed or vocabulary
            layers.append(_make_layer(recurrent, features, config, return_sequences=True, return_state=True, rngs=rngs))
        self.recurrent = RecurrentStack(layers)
        self.head: ClassifierHead | TiedHead = (
            TiedHead(vocabulary, rngs=rngs) if config.tied else ClassifierHead(config.units, vocabulary, rngs=rngs)
        )

    def initial_state(self, batch: int) -> list[Any]:
        """Return zero states, one per layer, of (B, H) arrays; an `LSTMState` for LSTMs."""
        return [CELLS[self.cell].initial_state(batch, self.units) for _ in self.recurrent.layers]

    def hidden(
        self,
        ids: TokenIds,
        *,
        mask: ValidSteps | None = None,
        state: list[Any] | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | jax.Array | None = None,
    ) -> tuple[Float[Array, "T B H"], list[Any]]:
        """Return the output of the last layer after each character, time first, and the states of the layers; arguments as `__call__`."""
        steps_first = ids.T
        x: jax.Array = sharding.constrain(steps_first, 1) if self.embedding is None else self.embedding(steps_first)
        valid = None if mask is None else mask.T
        tokens = None if self.embedding is None else steps_first
        return self.recurrent(x, mask=valid, tokens=tokens, initial_state=state, deterministic=deterministic, rngs=rngs, time_major=True)

    def logits(self, hidden: Float[Array, "... H"]) -> Float[Array, "... V"]:
        """Return the logits of the next character from the output of `hidden`."""
        if isinstance(self.head, TiedHead) and self.embedding is not None:
            return self.head(hidden, self.embedding.embedding[...])
        assert isinstance(self.head, ClassifierHead)
        return self.head(hidden)

    def __call__(
        self,
        ids: TokenIds,
        *,
        mask: ValidSteps | None = None,
        state: list[Any] | None = None,
        last: bool = False,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | jax.Array | None = None,
    ) -> tuple[Float[Array, "..."], list[Any]]:
        """Return the logits of the next character of each step (B, T, V), or with `last` of the last step (B, V), and the states.

        Args:
            ids: characters (B, T), T at least 1.
            mask: False for steps to skip.
            state: initial states; zeros if None.
            last: return the logits of the last step only.
            deterministic: as in `Recurrent`.
            rngs: as in `Recurrent`.
        """
        h, states = self.hidden(ids, mask=mask, state=state, deterministic=deterministic, rngs=rngs)
        return self.logits(states[-1].h) if last else jnp.swapaxes(self.logits(h), 0, 1), states


class Forecaster(nnx.Module):
    """Recurrent layers -> Dense(2 K): entries (B, T, F) and times ahead (B, K) -> mean and log standard deviation of each entry ahead.

    Means are differences from the last entry read, in the units of `entries`. The times ahead are appended to the last output.
    """

    def __init__(self, config: ForecastModelConfig, features: int, horizon: int, *, rngs: nnx.Rngs):
        layers: list[Recurrent | Bidirectional] = []
        for n in range(config.layers):
            size = config.units if n else features
            layers.append(_make_layer(recurrent, size, config, return_sequences=n < config.layers - 1, rngs=rngs))
        self.recurrent = RecurrentStack(layers)
        self.head = ClassifierHead(config.units + horizon, 2 * horizon, rngs=rngs)

    def __call__(
        self,
        entries: Float[Array, "B T F"],
        ahead: Float[Array, "B K"],
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | jax.Array | None = None,
    ) -> Float[Array, "B 2 K"]:
        """Return means and logs of standard deviations; `deterministic` and `rngs` as in `Recurrent`."""
        h: Any = self.recurrent(entries, deterministic=deterministic, rngs=rngs)
        out = self.head(jnp.concatenate([h, ahead], axis=-1))
        return out.reshape(*ahead.shape[:1], 2, -1)


class Functional(NamedTuple):
    """A model as a pure function of its parameters."""

    params: dict[str, jax.Array]
    """Flat dict of arrays, named as in `lstm_jax.convert` ("recurrent/0/kernel")."""
    rebuild: Callable[[dict[str, jax.Array]], nnx.Module]
    """rebuild(params) -> the module with these parameters, inside or outside of jit."""


def functional(model: nnx.Module) -> Functional:
    """Split a model into parameters under flat names and a function that rebuilds it.

    `rebuild` raises InputError if a name is missing or unknown, or a shape differs.
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


def replaced(params: dict[str, jax.Array], others: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Return the parameters with those in `others` replaced.

    Raises:
        InputError: if a name is unknown or a shape differs.
    """
    for name, array in others.items():
        found = params.get(name)
        if found is None:
            raise InputError("parameter", name, f"the model has {', '.join(params)}")
        require(array.shape == found.shape, f"parameter {name}", array.shape, f"give shape {found.shape}")
    return params | {name: jnp.asarray(array, params[name].dtype) for name, array in others.items()}


def layer_rows(model: nnx.Module) -> list[dict[str, str]]:
    """Return one row per layer that owns parameters: name, type, shapes, count; for a table as Keras' `summary()` prints."""
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
