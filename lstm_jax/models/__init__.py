"""Models for sentiment classification, language modelling, text generation and
forecasting.

The models are `flax.nnx` modules. The function `functional` converts a model to a pure
function of its parameters.
"""

from lstm_jax.models.forecaster import Forecaster
from lstm_jax.models.generator import CharGenerator
from lstm_jax.models.language_model import WordLanguageModel
from lstm_jax.models.parts import (
    Functional,
    Parts,
    check_products,
    functional,
    layer_rows,
    make_stack,
    replaced,
    set_products,
    split_module,
)
from lstm_jax.models.sentiment import EMBEDDING, SentimentClassifier
