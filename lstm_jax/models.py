"""Models for sentiment classification, text generation and forecasting, and their conversion to pure functions of the parameters.

The models are `flax.nnx` modules.

B is the batch size, T the number of steps, E the number of embedding features, H the number of units and V the vocabulary size.
"""

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
from lstm_jax.packing import PackedPlaces
from lstm_jax.runtime import sharding
from lstm_jax.shapes import TokenIds, ValidSteps

EMBEDDING = "embedding/embedding"
"""Name of the embedding table in `Functional.params`."""


def _make_layer(kind: Callable, features: int, config: RecurrentConfig, **options) -> Any:
    """Return a recurrent layer with the settings of a model's config.

    Args:
        kind: function or class that makes the layer: `recurrent` or `Bidirectional`.
        features: number of input features of the layer.
        config: config of the model.
        options: further keyword arguments for `kind`.
    """
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
    """Binary classifier of texts, which maps word ids (B, T) to logits (B,). The probability of label 1 is sigmoid(logit).

    The layers are an embedding, recurrent layers, and a dense layer with one output. The dense layer reads the last output of the recurrent
    layers or, with pooling, their outputs pooled over time. With the default config the model has 2,691,713 parameters, as many as the
    Keras example imdb_lstm.
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
        packed: PackedPlaces | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | jax.Array | None = None,
    ) -> Float[Array, "B"] | Float[Array, "B M"]:
        """Return the logits of a batch: one for each row (B,), or one for each packed text (B, M).

        Args:
            ids: word ids (B, T), padded with 0.
            vectors: word vectors (T, B, E). If None, they are looked up in the embedding.
            summed: whether the caller sums the gradient with respect to `vectors` over all positions of a row that have the same word. If
                true, the gradient is computed faster. Only these sums are then correct: one position of the word may have the whole sum,
                and the other positions zeros.
            packed: positions of several texts that are packed in each row, or None if a row is one text. With packed texts the pooling must
                be "last", and the outputs of two directions must be merged by "concat".
            deterministic: whether to run without dropout. If None, the last call of `train()` or `eval()` decides.
            rngs: random streams or a key from which masks are drawn. If None, each layer draws from the streams that it was made with.
                Training with word dropout needs `rngs`.

        Raises:
            InputError: if `rngs` is None and the model is trained with word dropout.
        """
        steps_first = ids.T  # the recurrence runs over time, so the vectors are gathered with time as the first axis
        tokens = steps_first if not self.folded and (summed or vectors is None) else None
        if vectors is None:
            vectors = sharding.constrain(steps_first, 1) if self.folded else self.embedding(steps_first, 1)
        first = self.recurrent.layers[0]
        alone = first.forward if isinstance(first, Bidirectional) else first
        training = not (alone.deterministic if deterministic is None else deterministic)
        if self.word_dropout and training:
            kept = jax.random.bernoulli(self._key(rngs), 1 - self.word_dropout, (*steps_first.shape, 1))
            vectors = vectors * jnp.broadcast_to(kept, vectors.shape).astype(vectors.dtype)
            tokens = None if tokens is None else jnp.where(kept[..., 0], tokens, -1)  # all dropped words have equal vectors
        h: Any = self.recurrent(
            vectors,
            mask=self.embedding.mask(steps_first) if packed is None else None,
            segment_ids=None if packed is None else packed.segment_ids.T,
            return_sequences=None if packed is None else True,
            tokens=tokens,
            deterministic=deterministic,
            rngs=rngs,
            time_major=True,
        )
        if packed is not None:
            return self.head(self._last_of_each(h, packed))[..., 0]
        return self.head(h if self.pooling == "last" else self._pooled(h, steps_first))[:, 0]

    def _last_of_each(self, h: Float[Array, "T B D"], packed: PackedPlaces) -> Float[Array, "B M D"]:
        """Return the last output of each packed text: the output of the last recurrent layer when it has read the whole text.

        A backward layer reads in reverse, so that its last output is at the first step of the text.

        `packed` contains the first and the last step of each text in the outputs `h`.
        """
        rows = jnp.arange(h.shape[1])[:, None]
        last = h[packed.last, rows]
        layer = self.recurrent.layers[-1]
        if not isinstance(layer, Bidirectional):
            return last
        units = layer.forward.units
        return jnp.concatenate([last[..., :units], h[packed.first, rows][..., units:]], axis=-1)

    def _key(self, rngs: nnx.Rngs | jax.Array | None) -> jax.Array:
        if isinstance(rngs, jax.Array):
            return jax.random.fold_in(rngs, len(self.recurrent.layers))  # the layers fold in the smaller numbers
        if rngs is None:
            raise InputError("rngs", None, "word dropout draws from it: give rngs with a `dropout` stream, or deterministic=True")
        return rngs.dropout()

    def _pooled(self, h: Float[Array, "T B D"], ids: Int[Array, "T B"]) -> Float[Array, "B P"]:
        """Return the outputs pooled over the words of each row: the mean, the maximum, or both concatenated.

        For a row without words the result is zeros.

        Args:
            h: outputs (T, B, D) of the last recurrent layer, where D is the number of its output features.
            ids: word ids (T, B), padded with 0.

        Returns:
            The pooled outputs: (B, 2 D) if the pooling is "mean+max", else (B, D).
        """
        real = jnp.broadcast_to((ids != 0)[..., None], h.shape)
        mean = jnp.where(real, h, 0).sum(0) / jnp.maximum(real.sum(0), 1).astype(h.dtype)
        largest = jnp.where(real.any(0), jnp.where(real, h, -jnp.inf).max(0), 0)
        return {"mean": mean, "max": largest, "mean+max": jnp.concatenate([mean, largest], -1)}[self.pooling]

    def fold(self) -> "SentimentClassifier":
        """Multiply the embedding table into the kernels of the first layer, so that the projection of a word becomes one lookup.

        The table (V, E) is multiplied by a kernel (E, gates * H). The product (V, gates * H) replaces the kernel. Use the folded model
        without dropout, since input dropout would drop whole words instead of features. The model is changed in place and returned.
        """
        first = self.recurrent.layers[0]
        table = sharding.constrain(self.embedding.embedding[...], 0)
        for layer in (first.forward, first.backward) if isinstance(first, Bidirectional) else (first,):
            layer.kernel = nnx.Param(sharding.replicate(matmul(table, layer.kernel[...], layer.dtype)))
        self.folded = True
        return self


class CharGenerator(nnx.Module):
    """Character-level language model. It maps ids (B, T) to logits (B, T, V), which predict the next character after each step.

    The input is encoded one-hot or by an embedding. Recurrent layers and a dense layer with V outputs follow. With a vocabulary of 33
    characters and 128 units the model has 87,201 parameters, as many as the Keras example lstm_text_generation.
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
        """Return a list with the zero state of each recurrent layer.

        A state is a named tuple of (B, H) arrays, such as `LSTMState` with the output h and the cell state c.

        Args:
            batch: batch size B.
        """
        return [CELLS[self.cell].initial_state(batch, self.units) for _ in self.recurrent.layers]

    def hidden(
        self,
        ids: TokenIds,
        *,
        mask: ValidSteps | None = None,
        resets: jax.Array | None = None,
        state: list[Any] | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | jax.Array | None = None,
    ) -> tuple[Float[Array, "T B H"], list[Any]]:
        """Return the outputs (T, B, H) of the last recurrent layer after each character, and the final states of all layers.

        `resets`, bool (B, T), are True where the state is replaced by zeros before a character. The other arguments are described in
        `__call__`.
        """
        steps_first = ids.T
        x: jax.Array = sharding.constrain(steps_first, 1) if self.embedding is None else self.embedding(steps_first, 1)
        valid = None if mask is None else mask.T
        tokens = None if self.embedding is None else steps_first
        cuts = None if resets is None else resets.T
        options: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs, "time_major": True}
        return self.recurrent(x, mask=valid, resets=cuts, tokens=tokens, initial_state=state, **options)

    def logits(self, hidden: Float[Array, "... H"]) -> Float[Array, "... V"]:
        """Return the logits of the next character, given the outputs of the last recurrent layer."""
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
        """Return the logits of the next character, and the final states of all layers.

        Args:
            ids: character ids (B, T), where T is at least 1.
            mask: bool (B, T), False at steps to skip. If None, no step is skipped.
            state: initial states, one per recurrent layer. If None, they are zeros.
            last: whether to return only the logits after the last step.
            deterministic: whether to run without dropout. If None, the last call of `train()` or `eval()` decides.
            rngs: random streams or a key from which masks are drawn. If None, each layer draws from the streams that it was made with.

        Returns:
            Two values: the logits, and a list of the final states. The logits are those after every step, (B, T, V). If `last` is true,
            they are those after the last step, (B, V).
        """
        h, states = self.hidden(ids, mask=mask, state=state, deterministic=deterministic, rngs=rngs)
        return self.logits(states[-1].h) if last else jnp.swapaxes(self.logits(h), 0, 1), states


class Forecaster(nnx.Module):
    """Model of a time series that predicts the mean and the log standard deviation of each of the next K values.

    Recurrent layers read the past entries (B, T, F) of the series, where F is the number of features of an entry. Then a dense layer with
    2 K outputs reads the last output of the recurrent layers and, for each of the next K values, a number that encodes the time from the
    last past entry to this value. The predictions are for the difference between each of the K values and the last past value.
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
        """Return the means and the log standard deviations of the next K values, stacked on axis 1: (B, 2, K).

        Args:
            entries: past entries (B, T, F).
            ahead: (B, K) encoded time from the last past entry to each predicted value.
            deterministic: whether to run without dropout. If None, the last call of `train()` or `eval()` decides.
            rngs: random streams or a key from which masks are drawn. If None, each layer draws from the streams that it was made with.
        """
        h: Any = self.recurrent(entries, deterministic=deterministic, rngs=rngs)
        out = self.head(jnp.concatenate([h, ahead], axis=-1))
        return out.reshape(*ahead.shape[:1], 2, -1)


class Functional(NamedTuple):
    """Parameters of a model, and a pure function that rebuilds the model from parameters."""

    params: dict[str, jax.Array]
    """Dict from the name of each parameter, such as "recurrent/0/kernel", to its array. `lstm_jax.convert` uses the same names."""
    rebuild: Callable[[dict[str, jax.Array]], nnx.Module]
    """Function that takes a dict like `params` and returns a module with these parameters. It may be called inside or outside of jit."""


class Parts(NamedTuple):
    """Parameters and other variables of a module, and a pure function that rebuilds the module from them."""

    params: dict[str, jax.Array]
    """Dict from the name of each parameter, such as "recurrent/0/kernel", to its array."""
    variables: Any
    """State of all other variables, such as the keys and counts of random streams, or running means."""
    rebuild: Callable[[dict[str, jax.Array], Any], Any]
    """Function rebuild(params, variables) that returns the module. It may be called inside or outside of jit."""


def split_module(module: nnx.Module) -> Parts:
    """Split a Flax NNX module into its parameters, its other variables, and a function that rebuilds the module from both.

    The function `rebuild` raises `InputError` if a parameter is missing or unknown, or has another shape than in `module`.
    """
    graph, state, rest = nnx.split(module, nnx.Param, ...)
    paths = {"/".join(str(part) for part in path if part != "layers"): path for path, _ in nnx.to_flat_state(state)}
    variables = dict(nnx.to_flat_state(state))
    params = {name: variables[path][...] for name, path in paths.items()}
    shapes = {name: array.shape for name, array in params.items()}

    def rebuild(params: dict[str, jax.Array], rest: Any) -> nnx.Module:
        found = {name: array.shape for name, array in params.items()}
        if found != shapes:
            odd = sorted(set(found.items()) ^ set(shapes.items()))[0]
            raise InputError("parameters", f"{odd[0]} {odd[1]}", "give arrays of the model's own config")
        flat = [(path, variables[path].replace(params[name])) for name, path in paths.items()]
        # copies, since a variable can only be changed at the level of JAX transformations at which it was made
        return nnx.merge(graph, nnx.from_flat_state(flat), rest, copy=True)

    return Parts(params, rest, rebuild)


def functional(model: nnx.Module) -> Functional:
    """Split a model into its parameters and a function that rebuilds the model from parameters.

    The returned `rebuild` raises `InputError` if a parameter is missing or unknown, or has another shape than in `model`.
    """
    params, variables, rebuild = split_module(model)
    return Functional(params, lambda params: rebuild(params, variables))


def replaced(params: dict[str, jax.Array], others: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Return a copy of the parameters in which some arrays are replaced.

    Args:
        params: dict from the name of each parameter to its array.
        others: dict from the names of some parameters to new arrays, which are converted to the dtype of the old arrays.

    Raises:
        InputError: if a name in `others` is not in `params`, or if a new array has another shape than the old array.
    """
    for name, array in others.items():
        found = params.get(name)
        if found is None:
            raise InputError("parameter", name, f"the model has {', '.join(params)}")
        require(array.shape == found.shape, f"parameter {name}", array.shape, f"give shape {found.shape}")
    return params | {name: jnp.asarray(array, params[name].dtype) for name, array in others.items()}


def layer_rows(model: nnx.Module) -> list[dict[str, str]]:
    """Return a table of the layers of a model, similar to the table that Keras' `summary()` prints: a list with one dict per layer.

    A dict has the keys "layer" (the name), "type", "parameters" (their names and shapes) and "count" (number of scalars in the parameters).
    Layers without parameters of their own are left out.
    """
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
