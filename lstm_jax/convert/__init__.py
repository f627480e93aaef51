"""Conversion of weights between lstm_jax and Keras, PyTorch and Flax, and of layers and
models from and to ONNX.

Keras, PyTorch and Flax are not imported. The package onnx is imported by the functions
that return or read an ONNX model.

The layout of weights in lstm_jax consists of dicts of NumPy arrays. V is the size of
the vocabulary, E the number of input features and H the number of units. The columns of
both kernels of an LSTM belong to the gates i, f, g, o, in this order.

- An LSTM is `{"kernel": (E, 4H), "recurrent_kernel": (H, 4H), "bias": (4H,)}`.
- A GRU is `{"kernel": (E, 3H), "recurrent_kernel": (H, 3H), "bias": (3H,),
  "recurrent_bias": (3H,)}` with the gates u, r, n (update, reset, new). The cell
  "gru_reset_before", which multiplies the state by the reset gate before the product
  with the recurrent kernel, has no recurrent_bias.
- A simple RNN is `{"kernel": (E, H), "recurrent_kernel": (H, H), "bias": (H,)}`.
- An LSTM with a recurrent projection to P outputs also has `"projection": (H, P)`, and
  its recurrent kernel is (P, 4H).
- A recurrent layer is the dict of its cell, for example that of an LSTM. If it is
  bidirectional, it is `{"forward": dict, "backward": dict}` with such a dict for each
  direction.
- An embedding is `{"embedding": (V, E)}`, and a dense layer is `{"kernel": (in, out),
  "bias": (out,)}`.
- A sentiment model is one flat dict. It has the keys `embedding/embedding`,
  `head/kernel` and `head/bias`, where the head is the dense output layer. The lowest
  recurrent layer has the keys `recurrent/0/kernel`, `recurrent/0/recurrent_kernel` and
  `recurrent/0/bias`. The keys of the layer above it begin with `recurrent/1/`, and so
  on. If the lowest layer is bidirectional, its keys are `recurrent/0/forward/kernel`,
  `recurrent/0/backward/kernel` and so on.
- A character model is also one flat dict with these keys. Its head has V outputs, and
  its layers are not bidirectional. If `embedding/embedding` is absent, the input is
  one-hot. If `head/kernel` is absent, the weights are tied: the kernel of the head is
  the transposed embedding table.

The function `load` sets the parameters of a layer or a model to such weights, after
checking that they fit. The functions that convert recurrent layers to another library
accept a layer object of lstm_jax in place of such weights. They also check options of
this object, and raise `InputError` if the other library does not support such an
option.

Each returned array is a copy and has the dtype of the array that was converted. Each
function raises `InputError` if its arguments do not have the layout that it expects.
"""

from lstm_jax.convert.flax import (
    lstm_from_linen,
    lstm_from_nnx,
    lstm_to_linen,
    lstm_to_nnx,
)
from lstm_jax.convert.keras import (
    bidirectional_from_keras,
    bidirectional_to_keras,
    cell_from_keras,
    cell_to_keras,
    dense_from_keras,
    dense_to_keras,
    embedding_from_keras,
    embedding_to_keras,
    generation_from_keras,
    generation_from_keras_file,
    generation_to_keras,
    lstm_from_keras,
    lstm_to_keras,
    read_keras_weights,
    sentiment_from_keras,
    sentiment_from_keras_file,
    sentiment_to_keras,
    write_keras_weights,
)
from lstm_jax.convert.loading import load
from lstm_jax.convert.onnx import generation_to_onnx, layers_to_onnx, sentiment_to_onnx
from lstm_jax.convert.onnx_files import from_onnx
from lstm_jax.convert.successors import (
    lru_from_memax,
    mlstm_from_xlstm,
    rg_lru_from_recurrentgemma,
    slstm_from_xlstm,
)
from lstm_jax.convert.torch import (
    cell_from_torch,
    cell_to_torch,
    generation_from_torch,
    generation_to_torch,
    layers_from_torch,
    layers_to_torch,
    lstm_from_torch,
    lstm_to_torch,
    read_torch_file,
    sentiment_from_torch,
    sentiment_to_torch,
)
