"""Recurrent layers with a fixed cell: `LSTM`, `GRU` and `SimpleRNN`."""

from typing import Any

from flax import nnx

from lstm_jax.cells import Cell
from lstm_jax.errors import require
from lstm_jax.layers.initial import constructor
from lstm_jax.layers.recurrent import Recurrent


class LSTM(Recurrent):
    """LSTM layer (Hochreiter & Schmidhuber 1997) with a forget gate (Gers et al. 2000), equal to `keras.layers.LSTM`.

        z = x W + h U + b, split into i, f, g, o;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c')

    Here h and c are the state before a step, and h' and c' are the state after it. The state is an `LSTMState`.

    The arguments and errors are those of `Recurrent`, except that there is no argument `cell`. `Recurrent.__call__` lists the arguments of
    a call, such as `mask`, `lengths` and `resets`. With the argument `projection` the layer equals `torch.nn.LSTM` with `proj_size`; see
    `lstm_jax.cells.projected_lstm`.
    """

    @constructor
    def __init__(self, features: int, units: int, *, rngs: nnx.Rngs, **options):
        _refuse_cell("LSTM", options)
        super().__init__(features, units, cell="lstm", rngs=rngs, **options)


class GRU(Recurrent):
    """GRU layer (gated recurrent unit, Cho et al. 2014), equal to `keras.layers.GRU`.

    The docstring of `lstm_jax.cells.gru` contains the equations. The state is a `HiddenState`.

    Args:
        features: number of input features E.
        units: number of units H.
        reset_after: whether the reset gate multiplies the product of h and the recurrent kernel, as in Keras, PyTorch and cuDNN. If false,
            the reset gate multiplies h before the product, as in the paper.
        rngs: random streams; weights are drawn from the stream `params`, and masks from the stream `dropout`.
        options: further arguments of `Recurrent`, except `cell`.

    Raises:
        InputError: if `cell` is given, or `Recurrent` raises an `InputError` for the other arguments.
    """

    @constructor
    def __init__(self, features: int, units: int, *, reset_after: bool = True, rngs: nnx.Rngs, **options):
        _refuse_cell("GRU", options)
        super().__init__(features, units, cell="gru" if reset_after else "gru_reset_before", rngs=rngs, **options)


class SimpleRNN(Recurrent):
    """Simple recurrent layer h' = tanh(x W + h U + b) (Elman 1990), equal to `keras.layers.SimpleRNN`.

    Here h is the output before a step and h' the output after it. The state is a `HiddenState`. The arguments and errors are those of
    `Recurrent`, except that there are no arguments `cell` and `recurrent_activation`.
    """

    @constructor
    def __init__(self, features: int, units: int, *, rngs: nnx.Rngs, **options):
        _refuse_cell("SimpleRNN", options)
        super().__init__(features, units, cell="simple_rnn", rngs=rngs, **options)


def _refuse_cell(layer: str, options: dict[str, Any]) -> None:
    cell = options.get("cell")
    require("cell" not in options, "cell", getattr(cell, "name", cell), f"{layer} has its own: use Recurrent(features, units, cell=...)")


def recurrent(features: int, units: int, *, cell: str | Cell = "lstm", **options) -> Recurrent:
    """Return a recurrent layer with the given cell. It is an `LSTM` if `cell` is "lstm", else a `Recurrent`.

    The arguments are those of `Recurrent`.
    """
    return LSTM(features, units, **options) if cell == "lstm" else Recurrent(features, units, cell=cell, **options)
