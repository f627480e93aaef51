"""Models as pure functions: their parameters as a dict, and the list of their layers."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from lstm_jax.base.errors import InputError, require

Params = dict[str, Array]
"""Dict from the name of each parameter, such as "recurrent/0/kernel", to its array."""


class Functional(NamedTuple):
    """Parameters of a model, and a pure function that rebuilds the model from
    parameters.
    """

    params: Params
    """Dict from the name of each parameter, such as "recurrent/0/kernel", to its array.
    `lstm_jax.convert` uses the same names."""
    rebuild: Callable[[Params], nnx.Module]
    """Function that takes a dict like `params` and returns a module with these
    parameters. It may be called inside or outside of jit."""


class Parts(NamedTuple):
    """Parameters and other variables of a module, and a pure function that rebuilds the
    module from them.
    """

    params: Params
    """Dict from the name of each parameter, such as "recurrent/0/kernel", to its array.
    """
    variables: Any
    """`nnx.State` of all variables that are not parameters, such as the keys and counts
    of random streams, or running means."""
    rebuild: Callable[[Params, Any], Any]
    """Function rebuild(params, variables) that returns the module. It may be called
    inside or outside of jit."""


def _name(path: tuple) -> str:
    return "/".join(str(part) for part in path if part != "layers")


def split_module(module: nnx.Module) -> Parts:
    """Split a Flax NNX module into its parameters, its other variables, and a function
    that rebuilds the module from both.

    The returned function, `rebuild`, raises `InputError` if a parameter is missing or
    unknown, or has another shape than in `module`.
    """
    graph, state, rest = nnx.split(module, nnx.Param, ...)
    named = {
        _name(path): (path, variable) for path, variable in nnx.to_flat_state(state)
    }
    params = {name: variable[...] for name, (_, variable) in named.items()}
    shapes = {name: array.shape for name, array in params.items()}

    def rebuild(params: Params, rest):
        found = {name: array.shape for name, array in params.items()}
        if found != shapes:
            odd = sorted(set(found.items()) ^ set(shapes.items()))[0]
            raise InputError(
                "parameters",
                f"{odd[0]} {odd[1]}",
                "give arrays of the model's own config",
            )
        flat = [
            (path, variable.replace(params[name]))
            for name, (path, variable) in named.items()
        ]
        # copies, since a variable can only be changed at the level of JAX
        # transformations at which it was made
        return nnx.merge(graph, nnx.from_flat_state(flat), rest, copy=True)

    return Parts(params, rest, rebuild)


def functional(model: nnx.Module) -> Functional:
    """Split a model into its parameters and a function that rebuilds the model from
    parameters.

    The variables of `model` that are not parameters, such as the keys and counts of
    random streams, are stored at this call, and every rebuilt model gets the stored
    values. A rebuilt model that draws dropout masks from its own random streams
    therefore draws the same masks after each `rebuild`. To get new masks, give `rngs`
    to the call of the model, or use `split_module`.

    The returned `rebuild` raises `InputError` if a parameter is missing or unknown, or
    has another shape than in `model`.
    """
    params, variables, rebuild = split_module(model)
    return Functional(params, lambda params: rebuild(params, variables))


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
                    "layer": _name(path),
                    "type": type(module).__name__,
                    "parameters": shapes,
                    "count": f"{count:,}",
                }
            )
    order = {"embedding": 0, "recurrent": 1, "head": 2}
    return sorted(rows, key=lambda row: order.get(row["layer"].split("/")[0], 3))
