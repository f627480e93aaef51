"""The dtype in which the recurrent layers of a model multiply matrices."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from lstm_jax.base.errors import check_choice
from lstm_jax.layers import Recurrent
from lstm_jax.recurrence import BACKENDS, Request, lacks

M = TypeVar("M", bound=nnx.Module)
PRODUCTS = ("float32", "bfloat16", "int8")


def check_products(dtype: str) -> None:
    """Raise an `InputError` unless `dtype`, in which a model is to multiply matrices,
    is one of `PRODUCTS`.
    """
    check_choice("dtype", dtype, PRODUCTS)


def set_products(model: M, dtype: str) -> M:
    """Set the dtype in which all recurrent layers of a model multiply matrices, and
    return the model.

    The model is changed in place. If the attribute `backend` of a layer names a backend
    that cannot compute the layer in this dtype on this machine, the attribute is set to
    None, so that a backend is chosen automatically. A later call with another dtype
    does not restore the name.

    Args:
        model: a module with recurrent layers of this package, whose parameters are
            float32.
        dtype: one of `PRODUCTS`. With "int8", `cells.products.int8_matmul` computes
            each product, and the model cannot be trained.

    Raises:
        InputError: if `dtype` is not one of `PRODUCTS`.
    """
    check_products(dtype)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Recurrent):
            module.dtype = None if dtype == "float32" else jnp.dtype(dtype)
            # an unknown name is an error of the call
            named = BACKENDS.get(module.backend or "")
            if named and lacks(
                named,
                Request(module.definition, compute_dtype=dtype),
                jax.default_backend(),
            ):
                module.backend = None
    return model
