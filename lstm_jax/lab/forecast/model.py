"""Model of a time series, which predicts the distribution of its next values.

B is the batch size, T the number of past entries (time steps), F the number of features
of an entry and K the number of predicted values.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lstm_jax.lab.forecast.config import ForecastModelConfig
from lstm_jax.lab.model import make_stack
from lstm_jax.layers import ClassifierHead
from lstm_jax.layers.base import Source


class Forecaster(nnx.Module):
    """Model that predicts the next K values of a time series, as differences from the
    last past value.

    For each difference, it predicts the mean and the log standard deviation. Recurrent
    layers read the past entries (B, T, F) of the series, where F is the number of
    features of an entry. Their last output is concatenated with K numbers, which encode
    the times from the last past entry to each of the next K values. A dense layer maps
    the result to 2 K outputs.

    Args:
        config: settings of the recurrent layers, such as their number and their number
            of units.
        features: number of features F.
        horizon: number of predicted values K.
        rngs: random streams; weights are drawn from the stream `params`, and masks from
            the stream `dropout`.
    """

    def __init__(
        self,
        config: ForecastModelConfig,
        features: int,
        horizon: int,
        *,
        rngs: nnx.Rngs,
    ):
        self.recurrent = make_stack(config, features, sequences=False, rngs=rngs)
        self.head = ClassifierHead(
            self.recurrent.layers[-1].output_features + horizon, 2 * horizon, rngs=rngs
        )

    def __call__(
        self,
        entries: Float[Array, "B T F"],
        ahead: Float[Array, "B K"],
        *,
        deterministic: bool | None = None,
        rngs: Source = None,
    ) -> Float[Array, "B 2 K"]:
        """Return the means and the log standard deviations of the predicted
        differences, stacked on axis 1: (B, 2, K).

        Difference k is the k-th of the next K values minus the last past value, in the
        units of the values in `entries`.

        `forecast.Part` describes the past entries (B, T, F), and `ahead` (B, K), which
        encodes the times from the last of them to each of the K values. `deterministic`
        and `rngs` are those of `Recurrent.__call__`.
        """
        h: Any = self.recurrent(entries, deterministic=deterministic, rngs=rngs)
        out = self.head(jnp.concatenate([h, ahead], axis=-1))
        return out.reshape(*ahead.shape[:1], 2, -1)
