"""The recurrent layers of a task's model, its parameters and the table of its layers."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Int

from lstm_jax.base.errors import require
from lstm_jax.lab.config import RecurrentConfig
from lstm_jax.layers import Bidirectional, Recurrent, RecurrentStack, recurrent
from lstm_jax.training.parts import Params, parameter_name

TokenIds = Int[Array, "B T"]
ValidSteps = Bool[Array, "B T"]


def make_stack(
    config: RecurrentConfig,
    features: int,
    *,
    sequences: bool,
    rngs: nnx.Rngs,
    **options,
) -> RecurrentStack:
    """Return the recurrent layers of a model with the settings of its config, some of
    which only one task has.

    `features` is the number of input features of the first layer, `sequences` says
    whether the last layer returns the outputs of all steps, as all others do, and
    `options` are further arguments of each layer.
    """
    bidirectional = getattr(config, "bidirectional", False)
    if bidirectional:
        options |= {"merge_mode": getattr(config, "merge", "concat")}
    layers: list[Recurrent | Bidirectional] = []
    for number in range(config.layers):
        layer = (Bidirectional if bidirectional else recurrent)(
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
            return_sequences=sequences or number < config.layers - 1,
            rngs=rngs,
            **options,
        )
        layers.append(layer)
        features = layer.output_features
    return RecurrentStack(
        layers, dropout=getattr(config, "step_dropout", 0.0), rngs=rngs
    )


def replaced(params: Params, others: Mapping) -> Params:
    """Return a copy of the parameters in which some arrays are replaced by those in
    `others`, in the dtype of the old arrays.

    Raises:
        InputError: if a name in `others` is not in `params`, or if a new array has
            another shape than the old array.
    """
    for name, array in others.items():
        require(name in params, "parameter", name, f"the model has {', '.join(params)}")
        require(
            array.shape == params[name].shape,
            f"parameter {name}",
            array.shape,
            f"give shape {params[name].shape}",
        )
    return params | {
        name: jnp.asarray(array, params[name].dtype) for name, array in others.items()
    }


def layer_rows(model: nnx.Module) -> list[dict[str, str]]:
    """Return a table of the layers of a model, similar to the table that Keras'
    `summary()` prints: a list with one dict per layer.

    A dict has the keys "layer" (the name), "type", "parameters" (their names and
    shapes) and "count" (number of scalars in the parameters). Layers without parameters
    of their own are left out.
    """
    rows = []
    for path, module in nnx.iter_modules(model):
        own = sorted(
            (name, value)
            for name, value in vars(module).items()
            if isinstance(value, nnx.Param)
        )
        if own:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in own)
            count = sum(value.size for _, value in own)
            rows.append(
                {
                    "layer": parameter_name(path),
                    "type": type(module).__name__,
                    "parameters": shapes,
                    "count": f"{count:,}",
                }
            )
    order = {"embedding": 0, "recurrent": 1, "head": 2}
    return sorted(rows, key=lambda row: order.get(row["layer"].split("/")[0], 3))
