"""Models: config -> Module."""

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
    """A layer or `Bidirectional` as the config wants it."""
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
    """Embedding -> one or more recurrent layers, the last one's last output, or its outputs pooled -> Dense(1): ids (B, T) -> logits (B,).

    sigmoid(logit) is the probability of label 1. With the default config these are the 2,691,713 parameters of Keras' imdb_lstm example.
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
        """Logits of a batch; `deterministic` and `rngs` as in `Recurrent`. `vectors`, time first, stand in for the embedding's of `ids`; if
        `summed`, gradients by those of the same word are only used added up, and may come at one of its places, see `unroll`'s `tokens`."""
        steps_first = ids.T  # the recurrence runs over T first, so gather the vectors in that order
        tokens = steps_first if not self.folded and (summed or vectors is None) else None
        if vectors is None:
            vectors = sharding.constrain(steps_first, 1) if self.folded else self.embedding(steps_first)
        first = self.recurrent.layers[0]
        alone = first.forward if isinstance(first, Bidirectional) else first
        training = not (alone.deterministic if deterministic is None else deterministic)
        if self.word_dropout and training:
            kept = jax.random.bernoulli(self._key(rngs), 1 - self.word_dropout, (*steps_first.shape, 1))
            vectors = vectors * jnp.broadcast_to(kept, vectors.shape).astype(vectors.dtype)
            tokens = None if tokens is None else jnp.where(kept[..., 0], tokens, -1)  # words that are dropped are alike
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
            return jax.random.fold_in(rngs, len(self.recurrent.layers))  # the layers have the numbers before
        if rngs is None:
            raise InputError("rngs", None, "word dropout draws from it: give rngs with a `dropout` stream, or deterministic=True")
        return rngs.dropout()

    def _pooled(self, h: Float[Array, "T B D"], ids: Int[Array, "T B"]) -> Float[Array, "B P"]:
        """Over the words of each row; zeros where it has none."""
        real = jnp.broadcast_to((ids != 0)[..., None], h.shape)
        mean = jnp.where(real, h, 0).sum(0) / jnp.maximum(real.sum(0), 1).astype(h.dtype)
        largest = jnp.where(real.any(0), jnp.where(real, h, -jnp.inf).max(0), 0)
        return {"mean": mean, "max": largest, "mean+max": jnp.concatenate([mean, largest], -1)}[self.pooling]

    def fold(self) -> "SentimentClassifier":
        """Multiply the table into the first layer's kernels, once for all words: (V, E) (E, G H), so that a word's projection is a row that
        is looked up. For use without dropout: input dropout would drop words then, not features."""
        first = self.recurrent.layers[0]
        table = sharding.constrain(self.embedding.embedding[...], 0)
        for layer in (first.forward, first.backward) if isinstance(first, Bidirectional) else (first,):
            layer.kernel = nnx.Param(sharding.replicate(matmul(table, layer.kernel[...], layer.dtype)))
        self.folded = True
        return self


class CharGenerator(nnx.Module):
    """One-hot characters, or an embedding -> recurrent layers -> Dense(V): ids (B, T) -> logits of the next character.

    With the source's config (33 characters, 128 units) these are the 87,201 parameters of Keras' lstm_text_generation example.
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
        """Zeros, a state of (B, H) arrays a layer, an `LSTMState` for LSTMs."""
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
        """The last layer's output after each character, time first, and the layers' states; arguments as in `__call__`."""
        steps_first = ids.T
        x: jax.Array = sharding.constrain(steps_first, 1) if self.embedding is None else self.embedding(steps_first)
        valid = None if mask is None else mask.T
        tokens = None if self.embedding is None else steps_first
        return self.recurrent(x, mask=valid, tokens=tokens, initial_state=state, deterministic=deterministic, rngs=rngs, time_major=True)

    def logits(self, hidden: Float[Array, "... H"]) -> Float[Array, "... V"]:
        """Logits of the next character from what `hidden` gives."""
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
        """Logits of each step's next character (B, T, V), or of the last step's (B, V) with `last`; and the layers' states.

        Args:
            ids: characters (B, T), T at least 1.
            mask: False where a step is to be passed over.
            state: states to start from; zeros if None.
        """
        h, states = self.hidden(ids, mask=mask, state=state, deterministic=deterministic, rngs=rngs)
        return self.logits(states[-1].h) if last else jnp.swapaxes(self.logits(h), 0, 1), states


class Forecaster(nnx.Module):
    """Recurrent layers -> Dense(2 K): entries read (B, T, F) and times ahead (B, K) -> mean and log of the spread of each entry ahead.

    The means are distances from the last entry read, in the units of `entries`' values. The times ahead join the last output.
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
        """Means and logs of spreads; `deterministic` and `rngs` as in `Recurrent`."""
        h: Any = self.recurrent(entries, deterministic=deterministic, rngs=rngs)
        out = self.head(jnp.concatenate([h, ahead], axis=-1))
        return out.reshape(*ahead.shape[:1], 2, -1)


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


def replaced(params: dict[str, jax.Array], others: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The parameters with these in the place of those of the same name.

    Raises:
        InputError: if one has another name or shape.
    """
    for name, array in others.items():
        found = params.get(name)
        if found is None:
            raise InputError("parameter", name, f"the model has {', '.join(params)}")
        require(array.shape == found.shape, f"parameter {name}", array.shape, f"give shape {found.shape}")
    return params | {name: jnp.asarray(array, params[name].dtype) for name, array in others.items()}


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
