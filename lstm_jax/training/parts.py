"""Models as pure functions of their parameters, which are a dict."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array

from lstm_jax.base.errors import InputError

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


def parameter_name(path: tuple) -> str:
    """Return the name of a parameter or a layer, such as "recurrent/0", from its path
    in an NNX module.
    """
    return "/".join(str(part) for part in path if part != "layers")


def split_module(module: nnx.Module) -> Parts:
    """Split a Flax NNX module into its parameters, its other variables, and a function
    that rebuilds the module from both.

    The returned function, `rebuild`, raises `InputError` if a parameter is missing or
    unknown, or has another shape than in `module`.
    """
    graph, state, rest = nnx.split(module, nnx.Param, ...)
    named = {}
    for path, variable in nnx.to_flat_state(state):
        named[parameter_name(path)] = (path, variable)
    params = {name: variable[...] for name, (_, variable) in named.items()}
    shapes = {name: array.shape for name, array in params.items()}

    def rebuild(params: Params, rest):
        found = {name: array.shape for name, array in params.items()}
        for name, shape in sorted(set(found.items()) ^ set(shapes.items())):
            remedy = "give arrays of the model's own config"
            raise InputError("parameters", f"{name} {shape}", remedy)
        flat = []
        for name, (path, variable) in named.items():
            flat.append((path, variable.replace(params[name])))
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
