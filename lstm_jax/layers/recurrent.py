"""Recurrent layers with Keras' arguments and semantics: thin modules that own parameters and call `recurrence.unroll`."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from lstm_jax import initializers
from lstm_jax.cells import CELLS
from lstm_jax.dropout import DropoutMasks, MaskKind, check_rate, draw_mask, draw_masks, draw_zoneout, mean_zoneout
from lstm_jax.errors import InputError, require
from lstm_jax.recurrence import Remat, check_remat, check_zoneout, unroll


class CarriedState(nnx.Variable):
    """State that a layer with `stateful=True` carries from call to call."""


class Recurrent(nnx.Module):
    """A layer of any cell of `lstm_jax.cells.CELLS`; `LSTM`, `GRU` and `SimpleRNN` are this with a cell of their own.

    Args:
        features: E, size of the input's last axis.
        units: H.
        cell: a name in `CELLS`.
        dropout: share of the input features dropped, the same at every step of a call.
        recurrent_dropout: share of the state h dropped on its way into the gates, likewise.
        dropout_masks: "keras", "per_gate" or "variational"; see `lstm_jax.dropout`.
        weight_drop: share of the recurrent kernel's entries dropped, the same at every step of a call and for all rows (DropConnect on
            the weights from hidden to hidden, Merity et al. 2018).
        zoneout: share of the units whose state h a step leaves as it was, drawn anew at each step; in evaluation a step's h is the mean of
            the two (Krueger et al. 2017). zoneout_cell: likewise of c, where the cell has it.
        return_sequences: give the outputs of all steps (B, T, H), else the last (B, H).
        return_state: give (outputs, the cell's state) instead of outputs.
        go_backwards: read the reversed sequence; outputs come in processing order.
        stateful: start each call where the last one ended, after `reset_state(batch)`.
        unit_forget_bias: the forget gate's bias starts at 1, where the cell has one.
        use_bias: without, there is no bias parameter.
        zero_output_for_mask: outputs of masked steps are zeros instead of the previous output.
        dtype: type of the matrix products, e.g. jnp.bfloat16; None for that of the parameters. State and sums keep the parameters' type.
        backend: name of a recurrence backend; None chooses.
        remat: "sqrt" or a number of segments: less memory for long sequences, for the time of a second forward pass; see `unroll`.
        rngs: `params` for the weights, `dropout` for masks.

    Raises:
        InputError: if features, units or remat is below 1, a rate is outside [0, 1), the cell is unknown, or something is to be dropped
            that the cell does not have.
    """

    def __init__(
        self,
        features: int,
        units: int,
        *,
        cell: str = "lstm",
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
        kernel_initializer: initializers.Initializer = initializers.glorot_uniform,
        recurrent_initializer: initializers.Initializer = initializers.orthogonal,
        bias_initializer: initializers.Initializer | None = None,
        dtype=None,
        param_dtype=jnp.float32,
        backend: str | None = None,
        remat: Remat = None,
        rngs: nnx.Rngs,
    ):
        require(features >= 1, "features", features, "give 1 or more")
        require(units >= 1, "units", units, "give 1 or more")
        require(cell in CELLS, "cell", cell, f"give one of {', '.join(CELLS)}")
        require(
            dropout_masks in ("keras", "per_gate", "variational"), "dropout_masks", dropout_masks, "give keras, per_gate or variational"
        )
        self.features, self.units, self.cell = features, units, cell
        self.dropout = check_rate("dropout", dropout)
        self.recurrent_dropout = check_rate("recurrent_dropout", recurrent_dropout)
        self.weight_drop = check_rate("weight_drop", weight_drop)
        self.dropout_masks: MaskKind = dropout_masks
        self.zoneout = {"h": check_rate("zoneout", zoneout), "c": check_rate("zoneout_cell", zoneout_cell)}
        for part, rate in self.zoneout.items():
            if rate:
                check_zoneout(CELLS[cell], part, rate)
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.stateful = go_backwards, stateful
        self.zero_output_for_mask = zero_output_for_mask
        self.dtype, self.backend = dtype, backend
        self.remat: Remat = check_remat(remat)
        self.deterministic = False
        row = CELLS[cell]
        of_h = "recurrent_kernel" in row.params._fields
        for name, rate in (("recurrent_dropout", recurrent_dropout), ("weight_drop", weight_drop)):
            require(of_h or not rate, name, rate, f"the cell {cell} multiplies no state by a kernel: give 0")
        self.kernel = nnx.Param(kernel_initializer(rngs.params(), (features, row.gates * units), param_dtype))
        if of_h:
            self.recurrent_kernel = nnx.Param(recurrent_initializer(rngs.params(), (units, row.gates * units), param_dtype))
        self.bias = nnx.Param(self._initial_bias(bias_initializer, unit_forget_bias, param_dtype, rngs)) if use_bias else None
        more = [name for name in row.params._fields if name not in ("kernel", "recurrent_kernel", "bias")]
        if more:
            drawn = row.init(rngs.params(), features, units, param_dtype)
            for name in more:
                missing = name == "recurrent_bias" and not use_bias
                setattr(self, name, None if missing else nnx.Param(getattr(drawn, name)))
        chance = dropout or recurrent_dropout or weight_drop or zoneout or zoneout_cell
        stream = getattr(rngs, "dropout", None) if chance else None
        self.rngs = None if stream is None else stream.fork()
        self.carried = nnx.data(None)

    def _initial_bias(self, initializer: initializers.Initializer | None, unit_forget_bias: bool, dtype, rngs: nnx.Rngs) -> jax.Array:
        row = CELLS[self.cell]
        usual = row.bias(self.units, dtype)
        forget = usual == 1
        if initializer is None:
            return usual if unit_forget_bias else jnp.zeros_like(usual)
        bias = initializer(rngs.params(), usual.shape, dtype)
        return jnp.where(forget, usual, bias) if unit_forget_bias else bias

    def cell_params(self) -> Any:
        """The cell's parameters as plain arrays; a bias of zeros where the layer has none."""
        kernel = self.kernel[...]
        arrays = [getattr(self, name) for name in CELLS[self.cell].params._fields]
        return CELLS[self.cell].params(*(jnp.zeros(kernel.shape[1:], kernel.dtype) if a is None else a[...] for a in arrays))

    def reset_state(self, batch: int) -> None:
        """Set the carried state of a `stateful` layer to zeros, for calls with `batch` rows."""
        require(self.stateful, "stateful", self.stateful, "make the layer with stateful=True to carry state")
        state = CELLS[self.cell].initial_state(batch, self.units, self.kernel[...].dtype)
        self.carried = nnx.data(tuple(CarriedState(part) for part in state))

    def draw_masks(self, batch: int, rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None, steps: int = 0) -> DropoutMasks:
        """Masks for one call (for zoneout: of so many steps), from `rngs` (a key, a stream or Rngs with `dropout`), or the layer's own.

        Raises:
            InputError: if the layer has dropout and there is no stream to draw from.
        """
        zoned = any(self.zoneout.values())
        if not (self.dropout or self.recurrent_dropout or zoned):
            return DropoutMasks()
        rates, gates = (self.dropout, self.recurrent_dropout), CELLS[self.cell].gates
        dtype, key = self.kernel[...].dtype, self._key(rngs)
        masks = draw_masks(key, batch, self.features, self.units, *rates, self.dropout_masks, dtype, gates)
        if not zoned:
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
            mask: bool (B, T), False for padding; or `lengths`: int (B,).
            initial_state: the cell's state of (B, H) arrays; zeros, or the carried state, if None.
            dropout: masks to use instead of drawn ones.
            tokens: int (B, T): equal where a row's x was looked up in the same place of a table, see `unroll`.
            deterministic: no dropout; None takes the attribute that `train()` and `eval()` set.
            rngs: see `draw_masks`.

        Returns:
            outputs, or (outputs, state) with `return_state`; see the class.
        """
        batch, steps = (x.shape[1], x.shape[0]) if time_major else x.shape[:2]
        deterministic = self.deterministic if deterministic is None else deterministic
        params = self.cell_params()
        if self.weight_drop and not deterministic:
            key = self._key(rngs)
            rngs = jax.random.fold_in(key, 0) if dropout is None else rngs
            kernel = params.recurrent_kernel
            kept = draw_mask(jax.random.fold_in(key, 1), self.weight_drop, kernel.shape, kernel.dtype)
            params = params._replace(recurrent_kernel=kernel * kept)
        if dropout is None and not deterministic:
            dropout = self.draw_masks(batch, rngs, steps)
        if dropout is None and any(self.zoneout.values()):
            dropout = DropoutMasks(zoneout=mean_zoneout(self.zoneout, params.kernel.dtype))
        if initial_state is None and self.stateful:
            if self.carried is None:
                raise InputError("stateful", "no state yet", "call reset_state(batch) before the first call")
            like = CELLS[self.cell].initial_state(1, 1)
            initial_state = type(like)(*(v[...] for v in self.carried))
        outputs, state = unroll(
            CELLS[self.cell],
            params,
            x,
            initial_state,
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
        if self.stateful and self.carried is not None:
            for variable, value in zip(self.carried, state, strict=True):
                variable[...] = value
        return (outputs, state) if self.return_state else outputs


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000), as `keras.layers.LSTM`.

        z = x W + h U + b, split i, f, g, o;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c')

    Arguments and errors are those of `Recurrent`; the state is an `LSTMState`.
    """


class GRU(Recurrent):
    """The gated recurrent unit (Cho et al. 2014), as `keras.layers.GRU`; equations in `lstm_jax.cells.gru`.

    Args:
        reset_after: whether the reset gate acts on the product h U (Keras, PyTorch, cuDNN), or on h before it (the paper).

    The others, and errors, are those of `Recurrent`; the state is a `HiddenState`.
    """

    def __init__(self, features: int, units: int, *, reset_after: bool = True, rngs: nnx.Rngs, **options):
        super().__init__(features, units, cell="gru" if reset_after else "gru_reset_before", rngs=rngs, **options)


class SimpleRNN(Recurrent):
    """The simple recurrent network (Elman 1990), h' = tanh(x W + h U + b), as `keras.layers.SimpleRNN`.

    Arguments and errors are those of `Recurrent`; the state is a `HiddenState`.
    """

    def __init__(self, features: int, units: int, *, rngs: nnx.Rngs, **options):
        super().__init__(features, units, cell="simple_rnn", rngs=rngs, **options)


def recurrent(features: int, units: int, *, cell: str = "lstm", **options) -> Recurrent:
    """A layer of that cell: an `LSTM` where it is one, else a `Recurrent`."""
    return LSTM(features, units, **options) if cell == "lstm" else Recurrent(features, units, cell=cell, **options)


class Bidirectional(nnx.Module):
    """Two recurrent layers over the sequence and its reverse (Schuster & Paliwal 1997), as `keras.layers.Bidirectional(LSTM(...))`.

    Args:
        features, units, options: of each, as for `Recurrent`: an LSTM unless `cell` says otherwise. `go_backwards` and `stateful` are not
            for it.
        merge_mode: "concat", "sum", "ave", "mul", or None for both outputs as a tuple.

    As Keras does, with `return_sequences` the outputs of masked steps are zeros, and the backward outputs are turned back into the order
    of time.
    With `return_state` it gives (outputs, (forward state, backward state)).
    """

    def __init__(
        self,
        features: int,
        units: int,
        *,
        merge_mode: Literal["concat", "sum", "ave", "mul"] | None = "concat",
        return_sequences: bool = False,
        return_state: bool = False,
        rngs: nnx.Rngs,
        **options,
    ):
        require(merge_mode in ("concat", "sum", "ave", "mul", None), "merge_mode", merge_mode, "give concat, sum, ave, mul or None")
        for name in ("go_backwards", "stateful"):
            require(not options.get(name), name, options.get(name), "Bidirectional has both directions and carries no state")
        self.merge_mode, self.return_sequences, self.return_state = merge_mode, return_sequences, return_state
        both: dict[str, Any] = options | {"return_sequences": return_sequences, "return_state": True}
        both["zero_output_for_mask"] = return_sequences
        self.forward = recurrent(features, units, rngs=rngs, **both)
        self.backward = recurrent(features, units, rngs=rngs, go_backwards=True, **both)

    @property
    def output_features(self) -> int:
        """Size of the output's last axis."""
        return self.forward.units * (2 if self.merge_mode == "concat" else 1)

    def __call__(
        self,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        lengths: jax.Array | None = None,
        initial_state: tuple[Any, Any] | None = None,
        dropout: tuple[DropoutMasks, DropoutMasks] | None = None,
        tokens: jax.Array | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        time_major: bool = False,
    ):
        """As `Recurrent.__call__`; `initial_state` and `dropout` are pairs, forward and backward."""
        keys = (rngs, rngs) if rngs is None or isinstance(rngs, (nnx.Rngs, nnx.RngStream)) else jax.random.split(rngs)
        results = [
            layer(
                x,
                mask=mask,
                lengths=lengths,
                initial_state=None if initial_state is None else initial_state[n],
                dropout=None if dropout is None else dropout[n],
                tokens=tokens,
                deterministic=deterministic,
                rngs=keys[n],
                time_major=time_major,
            )
            for n, layer in enumerate((self.forward, self.backward))
        ]
        (ahead, ahead_state), (back, back_state) = results
        if self.return_sequences:
            back = jnp.flip(back, 0 if time_major else 1)
        outputs = _merge(self.merge_mode, ahead, back)
        return (outputs, (ahead_state, back_state)) if self.return_state else outputs


def _merge(mode: str | None, ahead: jax.Array, back: jax.Array):
    match mode:
        case "concat":
            return jnp.concatenate([ahead, back], axis=-1)
        case "sum":
            return ahead + back
        case "ave":
            return (ahead + back) / 2
        case "mul":
            return ahead * back
        case _:
            return ahead, back


class RecurrentStack(nnx.Module):
    """Recurrent layers one behind the other, with the same mask for each.

    Args:
        layers: `Recurrent` or `Bidirectional` modules; all but the last return sequences. States are returned by all, the last or none.

    It gives what its last layer gives; where all layers return their state, (outputs, [state of each layer]).

    Raises:
        InputError: if there is no layer, or they do not fit so.
    """

    def __init__(self, layers: Sequence[Recurrent | Bidirectional]):
        require(len(layers) >= 1, "layers", len(layers), "give 1 or more")
        for n, layer in enumerate(layers[:-1]):
            require(layer.return_sequences, f"layer {n}", "returns its last output", "set return_sequences=True")
            alike = layer.return_state == layers[0].return_state and layers[-1].return_state >= layer.return_state
            require(alike, f"layer {n}", f"return_state={layer.return_state}", "return states from all layers, the last or none")
        self.layers = nnx.List(layers)
        self.all_states = layers[0].return_state

    def __call__(
        self,
        x: jax.Array,
        *,
        tokens: jax.Array | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        **options,
    ):
        """As `Recurrent.__call__`, except `initial_state` and `dropout`, which are lists with an entry a layer; `tokens` are of `x`."""
        per_layer = {name: options.pop(name) for name in ("initial_state", "dropout") if options.get(name) is not None}
        y: Any = x
        states = []
        for n, layer in enumerate(self.layers):
            own = {name: values[n] for name, values in per_layer.items()}
            key = jax.random.fold_in(rngs, n) if isinstance(rngs, jax.Array) else rngs
            y = layer(y, rngs=key, tokens=tokens if n == 0 else None, **(options | own))
            if self.all_states:
                y, state = y
                states.append(state)
        return (y, states) if self.all_states else y
