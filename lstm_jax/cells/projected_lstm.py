"""The LSTM with a recurrent projection (LSTMP, Sak, Senior & Beaufays 2014), equal to
`torch.nn.LSTM(proj_size=P)`.

    z = x W + h U + b, split into i, f, g, o
    c' = sigmoid(f) c + sigmoid(i) tanh(g)
    h' = (sigmoid(o) tanh(c')) R

The paper also describes a second, non-recurrent projection. As in PyTorch, this
projection is left out.

B is the batch size, E the number of input features, H the number of units and P the
number of outputs.
"""

from functools import cache
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, random

from lstm_jax.base.errors import require
from lstm_jax.base.types import GATES
from lstm_jax.cells import initializers, lstm
from lstm_jax.cells.cell import Cell, made_by
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.cells.products import Gates, Mask, check_sizes, matmul, zeros

NAME = "lstm_projected"
"""Name of the cell, whatever its number of outputs."""


class ProjectedParams(NamedTuple):
    """Parameters of the LSTM with a recurrent projection: kernel W (E, 4H),
    recurrent_kernel U (P, 4H), bias (4H,) and projection R (H, P).

    An axis of size 4H contains the gates i, f, g, o, in this order.
    """

    kernel: Array
    recurrent_kernel: Array
    bias: Array
    projection: Array


def step(
    params: ProjectedParams,
    state: LSTMState,
    z: Gates,
    mask: Mask = None,
    compute_dtype=None,
) -> LSTMState:
    """Run one step of the LSTM with a recurrent projection, and return the new state:
    the output h (B, P) and the cell state c (B, H).
    """
    new = lstm.step(LSTMParams(*params[:3]), state, z, mask, compute_dtype)
    h = matmul(new.h, params.projection, compute_dtype)  # (B, P)
    return new._replace(h=h)


@cache
def projected_lstm(outputs: int) -> Cell:
    """Return the cell of the LSTM with a recurrent projection to `outputs` outputs, the
    same object for each number.

    The initial kernel and projection are glorot uniform, the recurrent kernel is
    orthogonal, and the bias is that of an LSTM.

    Raises:
        InputError: if `outputs` is below 1.
    """
    require(outputs >= 1, "outputs", outputs, "give 1 or more")

    def init(key, features, units, dtype=jnp.float32):
        check_sizes(features, units)
        kernel_key, recurrent_key, projection_key = random.split(key, 3)
        return ProjectedParams(
            initializers.glorot_uniform(kernel_key, (features, GATES * units), dtype),
            initializers.orthogonal(recurrent_key, (outputs, GATES * units), dtype),
            initializers.lstm_bias(units, dtype),
            initializers.glorot_uniform(projection_key, (units, outputs), dtype),
        )

    def initial_state(batch, units, dtype=jnp.float32):
        return LSTMState(zeros(batch, outputs, dtype), zeros(batch, units, dtype))

    cell = Cell(
        NAME,
        GATES,
        ProjectedParams,
        init,
        lstm.bias,
        initial_state,
        step,
        outputs=outputs,
    )
    return made_by(cell, projected_lstm, outputs)
