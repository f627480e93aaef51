"""Recurrent layers with Keras' arguments and semantics: thin modules that own parameters and call `recurrence.unroll`."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lstm_jax.cells import BUILT_IN, Cell, find_cell, with_activations
from lstm_jax.cells.activations import Activation
from lstm_jax.cells.cell import reads_mask
from lstm_jax.dropout import DropoutMasks, MaskKind, check_mask_kind, check_rate, draw_mask, draw_masks, draw_zoneout, mean_zoneout
from lstm_jax.errors import InputError, require
from lstm_jax.layers.carried import carry, check_batch, check_stateful, clear, keep
from lstm_jax.layers.initial import Initial, Initials, initial_params
from lstm_jax.recurrence import Remat, check_remat, check_zoneout, unroll

Shape = tuple[int | None, ...]


class Recurrent(nnx.Module):
    """A layer of any cell of `lstm_jax.cells.CELLS`; `LSTM`, `GRU` and `SimpleRNN` are its subclasses with a fixed cell.

    Args:
        features: E, size of the input's last axis.
        units: H.
        cell: a name in `CELLS`, or a user's `Cell`; see docs/own_cell.md.
        activation: the function for tanh, by its name in `keras.activations` or as a function; None is "linear". Only the cells lstm, gru,
            gru_reset_before and simple_rnn have a choice; other functions than the defaults run on the backend `reference`.
        recurrent_activation: the function for sigmoid, as `activation`.
        dropout: rate of dropped input features, the same ones at every step of a call.
        recurrent_dropout: rate of dropped units of h in the gates' products, the same ones at every step of a call.
        dropout_masks: "keras", "per_gate" or "variational"; see `lstm_jax.dropout`.
        weight_drop: rate of dropped entries of the recurrent kernel, the same ones at every step of a call and for all rows (DropConnect on
            the recurrent weights, Merity et al. 2018).
        zoneout: rate of units whose h a step keeps, drawn anew at each step; in evaluation h is the mean of both values, with this weight
            (Krueger et al. 2017).
        zoneout_cell: like `zoneout` for c, if the cell has it.
        return_sequences: return the outputs of all steps (B, T, H), else the last one (B, H).
        return_state: return (outputs, the cell's state) instead of outputs.
        go_backwards: read the reversed sequence; outputs come in processing order.
        stateful: start each call from the state at the end of the last one; the first call, and a call after `reset_state`, from zeros.
        unit_forget_bias: initialise the forget gate's bias to 1, if the cell has one.
        use_bias: whether there is a bias parameter.
        zero_output_for_mask: outputs of masked steps are zeros instead of the previous output.
        kernel_initializer: a name in `keras.initializers`, or a function (key, shape, dtype); None for glorot uniform, or, for a user's
            cell, its `init`.
        recurrent_initializer: as `kernel_initializer`; None for orthogonal.
        bias_initializer: as `kernel_initializer`; None for zeros.
        dtype: dtype of the matrix products, e.g. jnp.bfloat16; None for that of the parameters. State and sums keep the parameters' dtype.
        param_dtype: dtype of the parameters.
        backend: name of a recurrence backend; None to choose.
        remat: "sqrt" or a number of segments: less memory for long sequences, for the time of a second forward pass; see `unroll`.
        rngs: the streams `params` for the weights and `dropout` for masks.

    Raises:
        InputError: if features, units or remat is below 1, a rate is outside [0, 1), a cell, activation or initialiser is unknown, or an
            argument concerns a part that the cell does not have.
    """

    kernel: nnx.Param[jax.Array]

    def __init__(
        self,
        features: int,
        units: int,
        *,
        cell: str | Cell = "lstm",
        activation: str | Activation | None = "tanh",
        recurrent_activation: str | Activation | None = "sigmoid",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        dropout_masks: MaskKind = "keras",
        weight_drop: float = 0.0,
        zoneout: float = 0.0,
        zoneout_cell: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unit_forget_bias: bool = True,
        use_bias: bool = True,
        zero_output_for_mask: bool = False,
        kernel_initializer: Initial | None = None,
        recurrent_initializer: Initial | None = None,
        bias_initializer: Initial | None = None,
        dtype=None,
        param_dtype=jnp.float32,
        backend: str | None = None,
        remat: Remat = None,
        rngs: nnx.Rngs,
    ):
        require(features >= 1, "features", features, "give 1 or more")
        require(units >= 1, "units", units, "give 1 or more")
        base = find_cell(cell)
        self.row = with_activations(base, activation, recurrent_activation)
        self.features, self.units, self.cell = features, units, self.row.name
        self.dropout = check_rate("dropout", dropout)
        self.recurrent_dropout = check_rate("recurrent_dropout", recurrent_dropout)
        self.weight_drop = check_rate("weight_drop", weight_drop)
        self.dropout_masks: MaskKind = check_mask_kind(dropout_masks)
        self.zoneout = {"h": check_rate("zoneout", zoneout), "c": check_rate("zoneout_cell", zoneout_cell)}
        self._check_cell(base)
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.stateful = go_backwards, stateful
        self.zero_output_for_mask = zero_output_for_mask
        self.dtype, self.backend = dtype, backend
        self.remat: Remat = check_remat(remat)
        self.deterministic = False
        how = Initials(kernel_initializer, recurrent_initializer, bias_initializer, use_bias, unit_forget_bias)
        for name, array in initial_params(self.row, base, features, units, how, param_dtype, rngs).items():
            setattr(self, name, None if array is None else nnx.Param(array))
        draws = self.dropout or self.recurrent_dropout or self.weight_drop or any(self.zoneout.values())
        stream = getattr(rngs, "dropout", None) if draws else None
        self.rngs = None if stream is None else stream.fork()
        self.carried = nnx.data(None)

    def _check_cell(self, base: Cell) -> None:
        """Check that the cell has the parts to which rates apply; `base` is the row of `CELLS` of the layer's cell."""
        for part, rate in self.zoneout.items():
            if rate:
                check_zoneout(self.row, part, rate)
        for name, rate in (("recurrent_dropout", self.recurrent_dropout), ("weight_drop", self.weight_drop)):
            fits = self.row.has_recurrent_kernel or not rate
            require(fits, name, rate, f"the cell {self.cell} multiplies no state by a kernel: give 0")
        ignored = self.recurrent_dropout and base not in BUILT_IN and not reads_mask(base)
        remedy = f"the step of cell {self.cell} ignores its mask: see docs/own_cell.md"
        require(not ignored, "recurrent_dropout", self.recurrent_dropout, remedy)

    def cell_params(self) -> Any:
        """Return the cell's parameters as plain arrays, with a bias of zeros if the layer has none."""
        kernel = self.kernel[...]
        arrays = [getattr(self, name) for name in self.row.params._fields]
        return self.row.params(*(jnp.zeros(kernel.shape[1:], kernel.dtype) if a is None else a[...] for a in arrays))

    def count_params(self) -> int:
        """Return the number of trainable entries, as in Keras."""
        return count_params(self)

    def compute_output_shape(self, shape: Shape) -> Any:
        """Return the shapes of the results of a call.

        Args:
            shape: shape (B, T, E) of x; unknown sizes are None.

        Returns:
            (B, H), or (B, T, H) with `return_sequences`; with `return_state` a pair of this and the state's shapes.

        Raises:
            InputError: if it is not the shape of an input of this layer.
        """
        features = self.kernel.shape[0]
        fits = len(shape) == 3 and shape[2] in (features, None)
        require(fits, "shape", shape, f"give (batch, steps, {features})")
        outputs = (shape[0], shape[1], self.units) if self.return_sequences else (shape[0], self.units)
        state = jax.eval_shape(lambda: self.row.initial_state(1, self.units))
        return (outputs, type(state)(*((shape[0], *part.shape[1:]) for part in state))) if self.return_state else outputs

    def reset_state(self, batch: int | None = None) -> None:
        """Set the carried state of a `stateful` layer to zeros, for calls with `batch` rows; None keeps the number of rows.

        Before the first call this does nothing: that call starts from zeros.

        Raises:
            InputError: if the layer is not `stateful`.
        """
        check_stateful(self.stateful)
        if batch is None:
            clear(self.carried)
        else:
            self.carried = carry(self.row.initial_state(batch, self.units, self.kernel[...].dtype))

    def draw_masks(self, batch: int, rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None, steps: int = 0) -> DropoutMasks:
        """Return the masks of one call.

        Args:
            batch: B.
            rngs: a key, a stream or Rngs with `dropout`; None for the layer's own stream.
            steps: T, for zoneout.

        Raises:
            InputError: if the layer has dropout and there is no stream to draw from.
        """
        has_zoneout = any(self.zoneout.values())
        if not (self.dropout or self.recurrent_dropout or has_zoneout):
            return DropoutMasks()
        rates, gates = (self.dropout, self.recurrent_dropout), self.row.gates
        dtype, key = self.kernel[...].dtype, self._key(rngs)
        masks = draw_masks(key, batch, self.features, self.units, *rates, self.dropout_masks, dtype, gates)
        if not has_zoneout:
            return masks
        require(steps >= 1, "steps", steps, "zoneout draws for each step: give 1 or more")
        return masks._replace(zoneout=draw_zoneout(jax.random.fold_in(key, 2), self.zoneout, steps, batch, self.units))

    def _key(self, rngs: nnx.Rngs | nnx.RngStream | jax.Array | None) -> jax.Array:
        source = self.rngs if rngs is None else rngs
        if source is None:
            raise InputError("rngs", None, "dropout draws from it: give rngs with a `dropout` stream, or deterministic=True")
        return source.dropout() if isinstance(source, nnx.Rngs) else source() if isinstance(source, nnx.RngStream) else source

    def __call__(
        self,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        lengths: jax.Array | None = None,
        initial_state: Any = None,
        dropout: DropoutMasks | None = None,
        tokens: jax.Array | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        time_major: bool = False,
    ):
        """Run the layer.

        Args:
            x: (B, T, E), or (T, B, E) if `time_major`; or int ids that stand for one-hot rows, see `unroll`.
            mask: bool (B, T), False for padding.
            lengths: int (B,), instead of `mask`: the number of valid steps of each row.
            initial_state: the cell's state of (B, H) arrays, or a tuple or list of them; if None the carried state, or zeros.
            dropout: masks to use instead of drawn ones.
            tokens: int (B, T), equal where a row's x comes from the same row of a table, see `unroll`.
            deterministic: whether there is no dropout; None for the attribute that `train()` and `eval()` set.
            rngs: see `draw_masks`.
            time_major: whether time is the first axis of x, mask, tokens and outputs.

        Returns:
            outputs, or (outputs, state) with `return_state`; see the class.

        Raises:
            InputError: if an argument does not fit, see `unroll`, or there is no stream to draw masks from.
        """
        shape = np.shape(x)
        require(len(shape) >= 2, "x", shape, "give floats (B, T, E), or int ids (B, T)")
        batch, steps = (shape[1], shape[0]) if time_major else shape[:2]
        training = not (self.deterministic if deterministic is None else deterministic)
        params, dropout = self._drop(batch, steps, dropout, rngs, training)
        outputs, state = unroll(
            self.row,
            params,
            x,
            self._start(batch, initial_state),
            mask=mask,
            lengths=lengths,
            dropout=dropout,
            tokens=tokens,
            backwards=self.go_backwards,
            return_sequences=self.return_sequences,
            zero_output_for_mask=self.zero_output_for_mask,
            time_major=time_major,
            compute_dtype=self.dtype,
            backend=self.backend,
            remat=self.remat,
        )
        self._carry(state)
        return (outputs, state) if self.return_state else outputs

    def _drop(self, batch: int, steps: int, dropout: DropoutMasks | None, rngs: Any, training: bool) -> tuple[Any, DropoutMasks | None]:
        """Return the cell's parameters, some of which `weight_drop` sets to 0 in training, and the masks of one call."""
        params = self.cell_params()
        if self.weight_drop and training:
            key = self._key(rngs)
            rngs = jax.random.fold_in(key, 0) if dropout is None else rngs
            kernel = params.recurrent_kernel
            factors = draw_mask(jax.random.fold_in(key, 1), self.weight_drop, kernel.shape, kernel.dtype)
            params = params._replace(recurrent_kernel=kernel * factors)
        if dropout is None and training:
            dropout = self.draw_masks(batch, rngs, steps)
        if dropout is None and any(self.zoneout.values()):
            dropout = DropoutMasks(zoneout=mean_zoneout(self.zoneout, params.kernel.dtype))
        return params, dropout

    def _start(self, batch: int, initial_state: Any) -> Any:
        """Return the state at the start of a call: the given one, else the carried one, else None."""
        if self.carried is None:
            return initial_state
        check_batch(self.carried, batch)
        if initial_state is not None:
            return initial_state
        like = jax.eval_shape(lambda: self.row.initial_state(1, 1))
        return type(like)(*(v[...] for v in self.carried))

    def _carry(self, state: Any) -> None:
        """Keep the state at the end of a call if the layer is stateful."""
        if self.stateful and self.carried is None:
            self.carried = carry(state)
        elif self.stateful:
            keep(self.carried, state)


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000), equal to `keras.layers.LSTM`.

        z = x W + h U + b, split i, f, g, o;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c')

    Arguments and errors are those of `Recurrent`, without `cell`; the state is an `LSTMState`.
    """

    def __init__(self, features: int, units: int, *, rngs: nnx.Rngs, **options):
        _refuse_cell("LSTM", options)
        super().__init__(features, units, cell="lstm", rngs=rngs, **options)


class GRU(Recurrent):
    """The gated recurrent unit (Cho et al. 2014), equal to `keras.layers.GRU`; equations in `lstm_jax.cells.gru`.

    The state is a `HiddenState`.

    Args:
        features: E.
        units: H.
        reset_after: whether the reset gate acts on the product h U (Keras, PyTorch, cuDNN), or on h before it (the paper).
        rngs: as in `Recurrent`.
        options: further arguments of `Recurrent`, except `cell`.

    Raises:
        InputError: as `Recurrent`, and if `cell` is given.
    """

    def __init__(self, features: int, units: int, *, reset_after: bool = True, rngs: nnx.Rngs, **options):
        _refuse_cell("GRU", options)
        super().__init__(features, units, cell="gru" if reset_after else "gru_reset_before", rngs=rngs, **options)


class SimpleRNN(Recurrent):
    """The simple recurrent network (Elman 1990), h' = tanh(x W + h U + b), equal to `keras.layers.SimpleRNN`.

    Arguments and errors are those of `Recurrent`, without `cell` and `recurrent_activation`; the state is a `HiddenState`.
    """

    def __init__(self, features: int, units: int, *, rngs: nnx.Rngs, **options):
        _refuse_cell("SimpleRNN", options)
        super().__init__(features, units, cell="simple_rnn", rngs=rngs, **options)


def _refuse_cell(layer: str, options: dict[str, Any]) -> None:
    cell = options.get("cell")
    require("cell" not in options, "cell", getattr(cell, "name", cell), f"{layer} has its own: use Recurrent(features, units, cell=...)")


def count_params(module: nnx.Module) -> int:
    """Return the number of entries of a module's parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def recurrent(features: int, units: int, *, cell: str | Cell = "lstm", **options) -> Recurrent:
    """Return a layer of that cell: an `LSTM` for the cell "lstm", else a `Recurrent`."""
    return LSTM(features, units, **options) if cell == "lstm" else Recurrent(features, units, cell=cell, **options)
