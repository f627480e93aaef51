"""Layers as `flax.nnx` modules. A layer stores its parameters, and the computation is
done by pure functions of this library.
"""

from lstm_jax.layers.bidirectional import Bidirectional
from lstm_jax.layers.embedding import Embedding
from lstm_jax.layers.heads import ClassifierHead, TiedHead
from lstm_jax.layers.recurrent import (
    GRU,
    LSTM,
    CarriedState,
    Recurrent,
    SimpleRNN,
    recurrent,
)
from lstm_jax.layers.stack import RecurrentStack
from lstm_jax.layers.stepper import make_stepper
