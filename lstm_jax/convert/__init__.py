"""Conversion of weights between our layout and those of Keras, PyTorch and Flax: arrays only, no peer is imported.

Our layout has the gates i, f, g, o side by side:

- an LSTM is `{"kernel": (E, 4H), "recurrent_kernel": (H, 4H), "bias": (4H,)}`, a GRU or simple RNN likewise, see `cell_from_keras`;
- a layer is an LSTM, or `{"forward": LSTM, "backward": LSTM}`;
- an embedding is `{"embedding": (V, E)}`, a dense layer `{"kernel": (in, out), "bias": (out,)}`;
- a sentiment model is one flat dict with the keys `embedding/embedding`, `recurrent/0/kernel`, `recurrent/0/recurrent_kernel`,
  `recurrent/0/bias` (bidirectional: `recurrent/0/forward/kernel` and so on), `recurrent/1/...`, `head/kernel`, `head/bias`;
- a character model is such a dict too, with a head of V outputs and no bidirectional layer: without `embedding/embedding` its input is
  one-hot, without `head/kernel` the embedding's table is the head's kernel as well (tied).

Each returned array is a copy with its own memory, in the dtype of the input. Input that does not fit raises `InputError`.
"""

from lstm_jax.convert.cells import cell_from_keras, cell_from_torch, cell_to_keras, cell_to_torch
from lstm_jax.convert.flax import lstm_from_linen, lstm_from_nnx, lstm_to_linen, lstm_to_nnx
from lstm_jax.convert.keras import (
    bidirectional_from_keras,
    bidirectional_to_keras,
    dense_from_keras,
    dense_to_keras,
    embedding_from_keras,
    embedding_to_keras,
    generation_from_keras,
    generation_to_keras,
    lstm_from_keras,
    lstm_to_keras,
    sentiment_from_keras,
    sentiment_to_keras,
)
from lstm_jax.convert.keras_files import generation_from_keras_file, read_keras_weights, sentiment_from_keras_file, write_keras_weights
from lstm_jax.convert.torch import (
    generation_from_torch,
    generation_to_torch,
    lstm_from_torch,
    lstm_to_torch,
    read_torch_file,
    sentiment_from_torch,
    sentiment_to_torch,
)

__all__ = [
    "bidirectional_from_keras",
    "bidirectional_to_keras",
    "cell_from_keras",
    "cell_from_torch",
    "cell_to_keras",
    "cell_to_torch",
    "dense_from_keras",
    "dense_to_keras",
    "embedding_from_keras",
    "embedding_to_keras",
    "generation_from_keras",
    "generation_from_keras_file",
    "generation_from_torch",
    "generation_to_keras",
    "generation_to_torch",
    "lstm_from_keras",
    "lstm_from_linen",
    "lstm_from_nnx",
    "lstm_from_torch",
    "lstm_to_keras",
    "lstm_to_linen",
    "lstm_to_nnx",
    "lstm_to_torch",
    "read_keras_weights",
    "read_torch_file",
    "sentiment_from_keras",
    "sentiment_from_keras_file",
    "sentiment_from_torch",
    "sentiment_to_keras",
    "sentiment_to_torch",
    "write_keras_weights",
]
