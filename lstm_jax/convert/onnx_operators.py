"""The table `OPERATORS` of the ONNX operators that `OnnxModel` runs, except the
recurrent ones and If; see ONNX's Operators.md.

Each is a function f(xp, *inputs, **attributes) that returns one array or several.
Others can be added. `xp` is NumPy if all inputs are small known arrays, such as shapes,
and else `jax.numpy`. An input that is left out is None. What has become an input in
later versions, such as `axes`, may also be an attribute.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial, reduce
from itertools import repeat

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lstm_jax.base.types import Ints
from lstm_jax.convert.onnx import import_onnx
from lstm_jax.convert.onnx_files import float32_of

FOLDED = 1024
"""Largest number of values that NumPy computes while JAX traces the model."""
_ZERO = np.zeros(1, np.float32)


def _ints(given) -> Ints:
    return () if given is None else tuple(int(number) for number in np.ravel(given))


def _per_axis(x, axes, values: Iterable, default) -> list:
    found = {
        axis % x.ndim: value
        for axis, value in zip(_ints(axes) or range(x.ndim), values, strict=False)
    }
    return [found.get(axis, default) for axis in range(x.ndim)]


def _broadcast(xp, x, shape):
    shape = np.broadcast_shapes(x.shape, _ints(shape))
    return (xp if math.prod(shape) <= FOLDED else jnp).broadcast_to(x, shape)


def _cast(xp, x, to: int, **_):
    dtype = float32_of(import_onnx().helper.tensor_dtype_to_np_dtype(to))
    return x.astype(dtype if xp is np else jax.dtypes.canonicalize_dtype(dtype))


def _divide(xp, x, y):
    # ints are rounded towards zero
    return (x - xp.fmod(x, y)) // y if x.dtype.kind in "iu" else x / y


def _slice(xp, x, starts, ends, axes=None, steps=None):
    cuts = map(slice, _ints(starts), _ints(ends), _ints(steps) or repeat(None))
    return x[tuple(_per_axis(x, axes, cuts, slice(None)))]


def _split(xp, x, split=None, *, axis=0, num_outputs: int):
    sizes = _ints(split) or (-(-x.shape[axis] // num_outputs),) * num_outputs
    return xp.split(x, np.cumsum(sizes)[:-1].tolist(), axis)


def _reshape(xp, x, shape, allowzero=0):
    return xp.reshape(
        x,
        [
            size or (0 if allowzero else x.shape[axis])
            for axis, size in enumerate(_ints(shape))
        ],
    )


def _pairs(pads) -> list:
    return np.reshape(pads, (2, -1)).T.tolist()


def _pad(xp, x, pads, value=None, axes=None, mode="constant"):
    widths = _per_axis(x, axes, _pairs(_ints(pads)), (0, 0))
    if mode != "constant":
        if (np.max(widths, axis=1) > x.shape).any():
            # JAX would add it in a loop
            raise ValueError("padding wider than the array")
        return jnp.pad(x, widths, mode)
    return lax.pad(
        x,
        jnp.reshape(jnp.asarray(0 if value is None else value, x.dtype), ()),
        [(*width, 0) for width in widths],
    )


def _softmax(function: Callable, xp, x, axis=None, *, opset: int):
    if opset < 13:
        return function(x, tuple(range((1 if axis is None else axis) % x.ndim, x.ndim)))
    return function(x, -1 if axis is None else axis)


def _layer_norm(xp, x, scale, bias=None, axis=-1, epsilon=1e-5, **_):
    axes = tuple(range(axis % x.ndim, x.ndim))
    y = (
        jax.nn.standardize(x - x.mean(axes, keepdims=True), axes, epsilon=epsilon)
        * scale
    )
    return y if bias is None else y + bias


def _conv(
    xp,
    x,
    kernel,
    bias=None,
    strides=None,
    pads=None,
    dilations=None,
    group=1,
    auto_pad="NOTSET",
    **_,
):
    rank = x.ndim - 2
    padding = (
        _pairs(pads or [0, 0] * rank)
        if auto_pad == "NOTSET"
        else auto_pad.replace("_UPPER", "")
    )
    y = lax.conv_general_dilated(
        x,
        kernel,
        strides or [1] * rank,
        padding,
        rhs_dilation=dilations,
        feature_group_count=group,
    )
    return y if bias is None else y + jnp.reshape(bias, (-1, *[1] * rank))


def _max_pool(
    xp,
    x,
    kernel_shape,
    strides=None,
    pads=None,
    ceil_mode=0,
    dilations=None,
    storage_order=0,
):
    rank = x.ndim - 2
    strides, pairs = strides or [1] * rank, _pairs(pads or [0, 0] * rank)
    padding = [
        (low, high + ceil_mode * (stride - 1))
        for (low, high), stride in zip(pairs, strides, strict=True)
    ]
    options = {
        "window_strides": [1, 1, *strides],
        "window_dilation": [1, 1, *(dilations or [1] * rank)],
    }
    return lax.reduce_window(
        x,
        np.float32(-np.inf),
        lax.max,
        [1, 1, *kernel_shape],
        padding=[(0, 0), (0, 0), *padding],
        **options,
    )


def _gemm(xp, x, y, bias=0, alpha=1, beta=1, transA=0, transB=0):
    return alpha * ((x.T if transA else x) @ (y.T if transB else y)) + (
        0 if bias is None else beta * bias
    )


def _quantize(xp, x):
    low, high = xp.minimum(x.min(), 0), xp.maximum(x.max(), 0)
    scale = xp.where(high > low, (high - low) / np.float32(255), np.float32(1))
    zero = xp.clip(xp.round(-low / scale), 0, 255)
    return (
        xp.clip(xp.round(x / scale) + zero, 0, 255).astype(np.uint8),
        scale,
        zero.astype(np.uint8),
    )


def _dequantize(xp, x, scale, zero=0, axis=1, **_):
    shape = (
        [-1 if number == axis % x.ndim else 1 for number in range(x.ndim)]
        if scale.ndim
        else ()
    )
    return (x.astype(np.float32) - _float(xp, zero).reshape(shape)) * scale.reshape(
        shape
    )


def _float(xp, x):
    return xp.asarray(0 if x is None else x, np.float32)


def _of_ints(function: Callable, xp, x, y, x_zero=None, y_zero=None, **options):
    # in float32, whose products are fast; sums of more than 2^24 are rounded
    x, y = (
        _float(jnp, array) - _float(jnp, zero)
        for array, zero in ((x, x_zero), (y, y_zero))
    )
    return jnp.round(function(jnp, x, y, **options)).astype(np.int32)


def _arg_max(xp, x, axis=0, keepdims=1, select_last_index=0):
    if select_last_index:
        return (
            x.shape[axis]
            - 1
            - xp.argmax(xp.flip(x, axis), axis, keepdims=bool(keepdims))
        )
    return xp.argmax(x, axis, keepdims=bool(keepdims))


def _batch_norm(xp, x, scale, bias, mean, variance, epsilon=1e-5, **_):
    scale, bias, mean, variance = (
        xp.reshape(array, (-1, *[1] * (x.ndim - 2)))
        for array in (scale, bias, mean, variance)
    )
    return (x - mean) * (scale / xp.sqrt(variance + np.float32(epsilon))) + bias


def _one_hot(xp, ids, depth, values, axis=-1):
    (size,) = _ints(depth)
    return jnp.asarray(values)[
        jax.nn.one_hot(jnp.where(ids < 0, ids + size, ids), size, axis=axis, dtype=int)
    ]


def _reduced(function: str, xp, x, axes=None, keepdims=1, noop_with_empty_axes=0):
    axes = _ints(axes)
    same = noop_with_empty_axes and not axes
    return (
        x
        if same
        else getattr(xp, function)(x, axis=axes or None, keepdims=bool(keepdims))
    )


ACTIVATIONS: dict[str, tuple[Callable, dict[str, float]]] = {
    "Sigmoid": (jax.nn.sigmoid, {}),
    "Tanh": (jnp.tanh, {}),
    "Relu": (jax.nn.relu, {}),
    "Softsign": (jax.nn.soft_sign, {}),
    "Softplus": (jax.nn.softplus, {}),
    "LeakyRelu": (lambda x, alpha: jnp.where(x > 0, x, alpha * x), {"alpha": 0.01}),
    "Elu": (jax.nn.elu, {"alpha": 1.0}),
    "HardSigmoid": (
        lambda x, alpha, beta: jnp.clip(alpha * x + beta, 0, 1),
        {"alpha": 0.2, "beta": 0.5},
    ),
}
"""Dict from an activation, also of a recurrent node, to its function and the defaults
of its parameters."""
_SAME = """
Abs:abs Add:add And:logical_and Ceil:ceil Cos:cos Equal:equal Exp:exp Floor:floor
Greater:greater GreaterOrEqual:greater_equal Less:less LessOrEqual:less_equal Log:log
MatMul:matmul Mul:multiply Neg:negative Not:logical_not Or:logical_or Pow:power
Reciprocal:reciprocal Round:round Sign:sign Sin:sin Sqrt:sqrt Sub:subtract Where:where
Xor:logical_xor
"""
"""Operators, each with the function of NumPy and `jax.numpy` that computes it."""

OPERATORS: dict[str, Callable] = {
    **{
        name: lambda xp, *x, f=f: getattr(xp, f)(*x)
        for name, f in (pair.split(":") for pair in _SAME.split())
    },
    **{
        name: lambda xp, x, f=f, known=known, **given: f(x, **known | given)
        for name, (f, known) in ACTIVATIONS.items()
    },
    **{
        f"Reduce{name}": partial(_reduced, name.lower())
        for name in ("Sum", "Mean", "Max", "Min", "Prod")
    },
    "ArgMax": _arg_max,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": lambda xp, x, min=None, max=None: xp.clip(x, min, max),
    "Concat": lambda xp, *x, axis: xp.concatenate(x, axis),
    "Constant": lambda xp, **given: (array := np.asarray(*given.values())).astype(
        float32_of(array.dtype)
    ),
    "ConstantOfShape": lambda xp, shape, value=_ZERO: _broadcast(xp, value[0], shape),
    "Conv": _conv,
    "ConvInteger": partial(_of_ints, _conv),
    "DequantizeLinear": _dequantize,
    "Div": _divide,
    "DynamicQuantizeLinear": _quantize,
    "Erf": lambda xp, x: lax.erf(x),
    "Expand": _broadcast,
    "Flatten": lambda xp, x, axis=1: xp.reshape(x, (math.prod(x.shape[:axis]), -1)),
    "Gather": lambda xp, x, ids, axis=0: xp.take(x, ids, axis),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda xp, x: x.mean(tuple(range(2, x.ndim)), keepdims=True),
    "Identity": lambda xp, x: x,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": partial(_softmax, jax.nn.log_softmax),
    "Max": lambda xp, *x: reduce(xp.maximum, x),
    "MatMulInteger": partial(_of_ints, lambda xp, x, y: x @ y),
    "MaxPool": _max_pool,
    "Min": lambda xp, *x: reduce(xp.minimum, x),
    "OneHot": _one_hot,
    "Pad": _pad,
    "Reshape": _reshape,
    "Shape": lambda xp, x, start=0, end=None: np.array(x.shape, np.int64)[start:end],
    "Size": lambda xp, x: np.array(x.size),
    "Slice": _slice,
    "Softmax": partial(_softmax, jax.nn.softmax),
    "Split": _split,
    "Squeeze": lambda xp, x, axes=None: xp.squeeze(x, _ints(axes) or None),
    "Transpose": lambda xp, x, perm=None: xp.transpose(x, perm),
    "Unsqueeze": lambda xp, x, axes: xp.expand_dims(x, _ints(axes)),
}
