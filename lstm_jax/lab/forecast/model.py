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
    """Model that predicts the next K values of a time series, as the mean and the log
    standard deviation of their differences from the last past value.

    Recurrent layers read the past entries (B, T, F). Their last output is concatenated
    with K numbers, which encode the times of the next K values. A dense layer maps the
    result to 2 K outputs.
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

        `forecast.Part` describes the past entries (B, T, F), and `ahead` (B, K), which
        encodes the times from the last of them to each of the K values.
        """
        h: Any = self.recurrent(entries, deterministic=deterministic, rngs=rngs)
        out = self.head(jnp.concatenate([h, ahead], axis=-1))
        return out.reshape(*ahead.shape[:1], 2, -1)
