"""Parallel scans over time for linear recurrences whose matrices are block diagonal.

All arrays have time as their first axis, with T steps. Vectors are stored as an array (T, ..., n), and the diagonal blocks of the matrices
as an array (T, ..., n, n). Each index along the middle axes belongs to one diagonal block, that is, to a separate recurrence with n
components.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_SMALL = 4
"""Largest n for which products are computed elementwise, which XLA computes faster than a batched matrix product."""


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the matrix products a @ b, both (..., n, n)."""
    if a.shape[-1] > _SMALL:
        return a @ b
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def apply(a: jax.Array, v: jax.Array) -> jax.Array:
    """Return the matrix-vector products (..., n) of the matrices `a` (..., n, n) and the vectors `v` (..., n)."""
    return (a * v[..., None, :]).sum(-1)


def transposed(a: jax.Array) -> jax.Array:
    """Return the transposes of matrices (..., n, n)."""
    return jnp.swapaxes(a, -1, -2)


def _eye(like: jax.Array) -> jax.Array:
    """Return identity matrices with the shape and dtype of `like` (..., n, n)."""
    return jnp.broadcast_to(jnp.eye(like.shape[-1], dtype=like.dtype), like.shape)


def _inverse(a: jax.Array) -> jax.Array:
    """Return the inverses of matrices (..., n, n)."""
    if a.shape[-1] == 1:
        return 1 / a
    if a.shape[-1] == 2:
        p, q, r, s = a[..., 0, 0], a[..., 0, 1], a[..., 1, 0], a[..., 1, 1]
        adjugate = jnp.stack([jnp.stack([s, -q], -1), jnp.stack([-r, p], -1)], -2)
        return adjugate / (p * s - q * r)[..., None, None]
    return jnp.linalg.inv(a)


def linear(a: jax.Array, b: jax.Array, reverse: bool = False) -> jax.Array:
    """Return the solution v (T, ..., n) of the linear recurrence v[t] = a[t] v[t - 1] + b[t], where v before the first step is 0.

    There is a separate recurrence for each index into the middle axes (written as "..."), and its vectors have n components.

    Args:
        a: matrices (T, ..., n, n). The first one has no effect.
        b: vectors (T, ..., n).
        reverse: whether the recurrence runs backwards: v[t] = a[t] v[t + 1] + b[t], where v after the last step is 0. The last matrix has
            no effect then.
    """

    def compose(first, second):
        return dot(second[0], first[0]), apply(second[0], first[1]) + second[1]

    return lax.associative_scan(compose, (a, b), reverse=reverse)[1]


class _Filtered(NamedTuple):
    """Summary of some consecutive steps in the parallel Kalman filter of Särkkä & García-Fernández (2021).

    Let s be the state before these steps. Given s and the observations in these steps, the state after them has the mean a s + b and the
    covariance c. The likelihood of the observations, given s, is proportional to exp(eta^T s - s^T j s / 2). `a`, `c` and `j` are matrices,
    and `b` and `eta` are vectors.
    """

    a: jax.Array
    b: jax.Array
    c: jax.Array
    eta: jax.Array
    j: jax.Array


def _compose(first: _Filtered, second: _Filtered) -> _Filtered:
    """Return the summary of the steps of `first` and the following steps of `second` (Särkkä & García-Fernández 2021, lemma 8)."""
    gain = _inverse(_eye(first.c) + dot(first.c, second.j))
    forward, back = dot(second.a, gain), transposed(dot(gain, first.a))
    return _Filtered(
        dot(forward, first.a),
        apply(forward, first.b + apply(first.c, second.eta)) + second.b,
        dot(dot(forward, first.c), transposed(second.a)) + second.c,
        apply(back, second.eta - apply(second.j, first.b)) + first.eta,
        dot(dot(back, second.j), first.a) + first.j,
    )


def damped(a: jax.Array, b: jax.Array, damping: float) -> jax.Array:
    """Return vectors v (T, ..., n) that are small and approximately satisfy a linear recurrence.

    The recurrence is v[t] = a[t] v[t - 1] + b[t], as in `linear`. The vectors minimise the sum over t of |v[t] - a[t] v[t - 1] - b[t]|^2 +
    damping |v[t]|^2, where v before the first step is 0. Each iteration of the Levenberg-Marquardt method minimises such a sum. The vectors
    that minimise it are the means of a Kalman smoother (Gonzalez et al. 2024, "Towards scalable and stable parallelization of nonlinear
    RNNs"). They are computed by parallel scans (Särkkä & García-Fernández 2021, "Temporal parallelization of Bayesian smoothers").

    Args:
        a: matrices (T, ..., n, n). The first one has no effect.
        b: vectors (T, ..., n).
        damping: positive weight of the size of v.
    """
    a = a.at[0].set(0)
    gain = damping / (1 + damping)  # of a Kalman filter that observes v[t] = 0 with variance 1 / damping, where each step adds variance 1
    eye = _eye(a)
    back = transposed(a) * gain
    elements = _Filtered((1 - gain) * a, (1 - gain) * b, (1 - gain) * eye, -apply(back, b), dot(back, a))
    filtered = lax.associative_scan(_compose, elements)
    mean, covariance = filtered.b, filtered.c
    after = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
    b_after = jnp.concatenate([b[1:], jnp.zeros_like(b[:1])])
    cross = dot(covariance, transposed(after))
    smoothing = dot(cross, _inverse(dot(after, cross) + eye))
    return linear(smoothing, mean - apply(smoothing, apply(after, mean) + b_after), reverse=True)
