"""Arguments that layers of Keras, PyTorch and Flax have and the layers of this project
do not, and decorators that refuse them.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from flax import nnx

from lstm_jax.base.errors import InputError, require

_PENALTY = (
    "add the penalty to the loss, such as 1e-4 * jnp.sum(layer.kernel[...] ** 2), "
    "or let the weights decay by optax.adamw"
)
_CONSTRAINT = (
    "constrain the parameters after an update, for example by "
    "optax.keep_params_nonnegative"
)
_TRAINING = (
    "call train() or eval() of the model, or give deterministic=False or True to "
    "the call"
)
FOREIGN = {
    "cell": "the layer has its own: use Recurrent(features, units, cell=...)",
    "kernel_regularizer": _PENALTY,
    "recurrent_regularizer": _PENALTY,
    "bias_regularizer": _PENALTY,
    "activity_regularizer": "add the penalty of the outputs to the loss",
    "kernel_constraint": _CONSTRAINT,
    "recurrent_constraint": _CONSTRAINT,
    "bias_constraint": _CONSTRAINT,
    "training": _TRAINING,
    "deterministic": _TRAINING,
    "seed": "give rngs=nnx.Rngs(seed)",
    "implementation": "leave it out: the backend is chosen by itself, or by backend=",
    "unroll": "leave it out: the backend is chosen by itself, or by backend=",
    "use_cudnn": "it is called backend here: see `lstm-jax backends`",
    "layer": (
        "Bidirectional makes both layers: give Bidirectional(features, units, "
        "cell='lstm', rngs=nnx.Rngs(0))"
    ),
    "batch_first": "inputs are (B, T, E): for (T, B, E) give time_major=True to the call",
    "time_major": "give it to the call",
    "num_layers": "give RecurrentStack a list of as many layers",
    "bidirectional": "use Bidirectional",
    "input_size": "it is called features here",
    "in_features": "it is called features here",
    "hidden_size": "it is called units here",
    "hidden_features": "it is called units here",
    "proj_size": "it is called projection here",
    "bias": "it is called use_bias here",
    "nonlinearity": "it is called activation here",
    "input_dim": (
        "it is called vocabulary in an Embedding here, and features in another layer"
    ),
    "output_dim": "it is called features here",
}
"""Dict from arguments of layers in Keras, PyTorch and Flax that the layers of this
project do not have to what to do instead."""
_Method = TypeVar("_Method", bound=Callable)


def _refuse_foreign(method: Callable, options: Mapping) -> None:
    for name in (
        options.keys() - inspect.signature(method).parameters.keys() & FOREIGN.keys()
    ):
        raise InputError(name, options[name], FOREIGN[name]) from None


def constructor(init: _Method) -> _Method:
    """Decorate the method `__init__` of a layer: arguments that do not fit its
    signature raise an `InputError` that says what does.
    """
    signature = inspect.signature(init)
    needed = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.default is parameter.empty and name != "options"
    ][1:]

    @functools.wraps(init)
    def checked(*args, **options):
        inner = [
            type(layer).__name__ for layer in args[1:2] if isinstance(layer, nnx.Module)
        ]
        _refuse_foreign(init, options | ({"layer": inner[0]} if inner else {}))
        try:
            signature.bind(*args, **options)
        except TypeError as error:
            title = type(args[0]).__name__
            raise InputError(
                title,
                error,
                f"give {title}({', '.join(needed)}, ...)".replace(
                    "rngs", "rngs=nnx.Rngs(0)"
                ),
            ) from error
        if "rngs" in needed:
            require(
                hasattr(options["rngs"], "params"),
                "rngs",
                options["rngs"],
                "give nnx.Rngs(0), or other Rngs with a stream `params`",
            )
        init(*args, **options)

    return cast(Any, checked)


def checked_call(method: _Method) -> _Method:
    """Decorate `__call__` of a layer: arguments that Keras, PyTorch or Flax name
    otherwise raise an `InputError` that says how.
    """

    @functools.wraps(method)
    def checked(*args, **options):
        try:
            return method(*args, **options)
        except TypeError:
            _refuse_foreign(method, options)
            raise

    return cast(Any, checked)
