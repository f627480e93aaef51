"""Recurrent layers with the arguments and the semantics of Keras. They store parameters
and call the function `recurrence.unroll`.

B is the batch size, T the number of steps, E the number of input features and H the
number of units. The outputs and h have H columns, or P columns if the layer has a
recurrent projection to P outputs.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.core import FrozenDict
from jaxtyping import Array

from lstm_jax.base.checks import check_number, checked
from lstm_jax.base.errors import require
from lstm_jax.cells import (
    BUILT_IN,
    DRAWN_AS_IN_KERAS,
    Cell,
    find_cell,
    shown_name,
    with_activations,
    with_projection,
)
from lstm_jax.cells.activations import Activation
from lstm_jax.cells.cell import reads_mask
from lstm_jax.cells.products import is_ids
from lstm_jax.layers.base import (
    DropoutLayer,
    Source,
    dropout_key,
    expanded,
    is_single,
    is_training,
    read_input,
    with_row,
)
from lstm_jax.layers.initial import Initial, Projection, check_size, initial_params
from lstm_jax.layers.refusals import checked_call, constructor
from lstm_jax.recurrence import (
    REAL,
    Remat,
    check_remat,
    check_zoneout,
    of_kinds,
    unroll,
)
from lstm_jax.recurrence.dropout import (
    DropoutMasks,
    MaskKind,
    check_rate,
    draw_mask,
    draw_masks,
)

Shape = tuple[int | None, ...]


INITIAL = "initial_"
"""Prefix of the names of the parameters of a learned initial state, as in `initial_h`.
"""


class CarriedState(nnx.Variable):
    """Variable that holds one array of the state that a stateful layer carries between
    calls, such as h (B, H) of an LSTM.
    """


class Recurrent(DropoutLayer):
    """Recurrent layer that runs any recurrent cell over a sequence, with the arguments
    and the semantics of Keras.

    The subclasses `LSTM`, `GRU` and `SimpleRNN` have a fixed cell.

    Args:
        features: number of input features E, the size of the input's last axis.
        units: number of units H.
        cell: name of a cell in `lstm_jax.cells.CELLS`, or a user's `Cell`; see
            docs/contributing/own_cell.md.
        activation: function that is used in place of tanh, or its name in
            `keras.activations`, except glu, threshold and sparsemax. None means the
            identity. docs/concepts/cells.md lists the cells that accept a function
            other than tanh. A layer with such a function runs on the backend
            `reference`.
        recurrent_activation: function that is used in place of sigmoid, or its name,
            with the same rules as for `activation`.
        projection: number of outputs P of an LSTM with a recurrent projection (Sak et
            al. 2014), as `proj_size` of `torch.nn.LSTM`. P must be below `units`. The
            output of a step is then h' = (sigmoid(o) tanh(c')) R, where R (H, P) is the
            parameter `projection`, and the recurrent kernel is (P, 4H). 0 means no
            projection. A layer with a projection runs on the backend `reference`.
        dropout: dropout rate of the input features. The mask of a row is the same at
            all steps of a call.
        recurrent_dropout: dropout rate of the output h of the previous step, before it
            is multiplied by the recurrent kernel. The mask of a row is the same at all
            steps of a call.
        dropout_masks: kind of the masks: "keras", "per_gate" or "variational"; see
            `lstm_jax.recurrence.dropout`.
        weight_drop: dropout rate of the entries of the recurrent kernel (DropConnect,
            Merity et al. 2018). The mask is the same for all steps and all rows of a
            call.
        zoneout: probability that a unit keeps its previous h at a step (Krueger et al.
            2017). In evaluation h is instead zoneout * previous h + (1 - zoneout) * new
            h.
        zoneout_cell: probability that a unit keeps its previous cell state c at a step.
            It must be 0 for a cell without a cell state.
        return_sequences: whether to return the outputs of all steps (B, T, H) instead
            of the last output (B, H).
        return_state: whether to return (outputs, final state of the cell) instead of
            the outputs alone.
        go_backwards: whether to read the sequence in reverse. The outputs are in the
            order in which the steps are processed, unless `keep_order` is true.
        keep_order: whether the outputs of a layer with `go_backwards` are in the order
            of time, as in `flax.nnx.RNN`.
        learned_state: whether the initial state is learned, with one parameter for each
            array of the state: `initial_h` (H,) and, for an LSTM, `initial_c` (H,).
            Before training these parameters are zeros. A call starts from the learned
            state if no other state is given or carried. The state after a reset is also
            the learned state, unless the call gets a `reset_state`.
        stateful: whether each call starts from the final state of the previous call.
            The first call, and the first call after the method `reset_state` was
            called, start from the initial state.
        unit_forget_bias: whether the bias of the forget gate, if the cell has one, is
            initialised to 1.
        use_bias: whether the layer has bias parameters.
        zero_output_for_mask: whether the outputs of padded steps are zeros instead of
            the previous output.
        kernel_initializer: initialiser of the kernel: a name in `keras.initializers`,
            or a function (key, shape, dtype) -> array. None means glorot uniform or,
            here and below, the function `init` of a user's cell.
        recurrent_initializer: initialiser of the recurrent kernel, given in the same
            way. None means orthogonal.
        bias_initializer: initialiser of the bias, given in the same way. None means
            zeros.
        dtype: dtype to which the operands of matrix products are converted, for example
            `jnp.bfloat16`. The products and the state keep the dtype of the parameters.
            None means no conversion. With "int8" the layer cannot be trained, and its
            cell must be built in, with the default activations and no projection.
        param_dtype: dtype of the parameters.
        backend: name of a recurrence backend; None to choose one automatically.
        remat: number of segments for rematerialisation, or "sqrt", or None for no
            rematerialisation; see `unroll`. Rematerialisation saves memory for long
            sequences and costs the time of a second forward pass.
        rngs: random streams; weights are drawn from the stream `params`, and masks from
            the stream `dropout`.

    Raises:
        InputError: if a size, a rate or `remat` is out of its range, a cell, kind of
            dropout masks, activation or initialiser is unknown, or if an argument does
            not apply to the cell, such as `zoneout_cell` to a cell without a cell
            state. Also if an activation is a Flax module, or a parameter of a user's
            cell has the name of another attribute of the layer.
    """

    kernel: nnx.Param[Array]

    @constructor
    def __init__(
        self,
        features: int,
        units: int,
        *,
        cell: str | Cell = "lstm",
        activation: str | Activation | None = "tanh",
        recurrent_activation: str | Activation | None = "sigmoid",
        projection: int = 0,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        dropout_masks: MaskKind = "keras",
        weight_drop: float = 0.0,
        zoneout: float = 0.0,
        zoneout_cell: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        keep_order: bool = False,
        learned_state: bool = False,
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
        features, units = check_size("features", features), check_size("units", units)
        projection = check_number("projection", projection, Projection)
        base = find_cell(cell)
        chosen = with_activations(base, activation, recurrent_activation)
        self.definition = with_projection(chosen, projection, units)
        self.features, self.units = features, units
        self.cell = shown_name(self.definition, base)

        self.dropout = check_rate("dropout", dropout)
        self.recurrent_dropout = check_rate("recurrent_dropout", recurrent_dropout)
        self.weight_drop = check_rate("weight_drop", weight_drop)
        self.dropout_masks: MaskKind = checked("dropout_masks", dropout_masks, MaskKind)
        zoned = {
            "h": check_rate("zoneout", zoneout),
            "c": check_rate("zoneout_cell", zoneout_cell),
        }
        self.zoneout: Any = FrozenDict(zoned)  # nnx.GraphDef needs a hash
        self._check_dropout(base)

        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.keep_order = go_backwards, keep_order
        self.zero_output_for_mask = zero_output_for_mask
        self.learned_state, self.stateful = learned_state, stateful
        self.carried: Any = nnx.data(None)
        self.dtype, self.backend = dtype, backend
        self.remat: Remat = check_remat(remat)

        params = initial_params(
            self.definition,
            base in DRAWN_AS_IN_KERAS,
            features,
            units,
            {
                "kernel": kernel_initializer,
                "recurrent_kernel": recurrent_initializer,
                "bias": bias_initializer,
            },
            param_dtype,
            rngs,
            use_bias,
            unit_forget_bias,
        )
        # after the parameters, which may come from the same stream
        draws = dropout or recurrent_dropout or weight_drop or zoneout or zoneout_cell
        super().__init__(rngs, bool(draws))
        if learned_state:
            start = self.definition.initial_state(1, units, param_dtype)
            for name, array in start._asdict().items():
                params[INITIAL + name] = array[0]
        for name, array in params.items():
            subject = f"params of cell {self.definition.name}"
            remedy = "a layer has an attribute of this name: rename the field"
            require(not hasattr(self, name), subject, name, remedy)
            setattr(self, name, None if array is None else nnx.Param(array))

    def _check_dropout(self, base: Cell) -> None:
        for part, rate in self.zoneout.items():
            if rate:
                check_zoneout(self.definition, part, rate)
        for name in ("recurrent_dropout", "weight_drop"):
            rate = getattr(self, name)
            fits = self.definition.has_recurrent_kernel or not rate
            remedy = f"the cell {self.cell} multiplies no state by a kernel: give 0"
            require(fits, name, rate, remedy)
        rate = self.recurrent_dropout
        ignored = rate and base not in BUILT_IN and not reads_mask(base)
        remedy = (
            f"the step of cell {self.cell} ignores its mask: see "
            "docs/contributing/own_cell.md"
        )
        require(not ignored, "recurrent_dropout", rate, remedy)

    @property
    def directions(self) -> "tuple[Recurrent, ...]":
        """The layers that read the sequence, one for each direction: this layer alone."""
        return (self,)

    @property
    def reverses(self) -> bool:
        """Whether the outputs of all steps are in the reverse order of time."""
        return self.go_backwards and not self.keep_order

    @property
    def output_features(self) -> int:
        """Number of output features: the number of units or, if the layer has a
        recurrent projection, its number of outputs.
        """
        return self.definition.output_size(self.units)

    def initial_state(self, batch: int | None, dtype=None) -> Any:
        """Return the initial state of the layer for a batch of `batch` rows, or without
        a batch axis if `batch` is None.
        """
        dtype = self.kernel[...].dtype if dtype is None else dtype
        rows = 1 if batch is None else batch
        state = self.definition.initial_state(rows, self.units, dtype)

        def repeated(part, like):
            return jnp.broadcast_to(part.astype(like.dtype)[None], like.shape)

        if self.learned_state:
            state = jax.tree.map(repeated, self._reset_state(None), state)
        return jax.tree.map(lambda part: part[0], state) if batch is None else state

    def reset_state(self, batch: int | None = None) -> None:
        """Reset the state that a stateful layer carries between calls.

        `batch` is the number of rows in the following calls, or None to keep the
        number.

        Raises:
            InputError: if the layer was not created with `stateful=True`.
        """
        remedy = "make the layer with stateful=True to carry state"
        require(self.stateful, "stateful", self.stateful, remedy)
        rows = batch
        if batch is None and self.carried is not None:
            rows = self.carried[0].shape[0]
        if self.learned_state or batch is not None:
            # also without a batch, since a copy of the learned state would get no
            # gradient
            self.carried = nnx.data(None)
        if rows is not None and not self.learned_state:
            self._carry(self._initial_state(rows))

    def _reset_state(self, given) -> Any:
        """Return the state that replaces the state of the layer at a reset, or None if
        the initial state of the cell replaces it.
        """
        if given is not None or not self.learned_state:
            return given
        like = self.definition.state_like()
        return type(like)(
            *(getattr(self, INITIAL + name)[...] for name in like._fields)
        )

    def _carry(self, state) -> None:
        if self.carried is None:
            self.carried = nnx.data(tuple(CarriedState(part) for part in state))
        else:
            for variable, value in zip(self.carried, state, strict=True):
                variable[...] = value

    def cell_params(self) -> Any:
        """Return a NamedTuple of arrays: the parameters of the layer, with zeros in
        place of a bias that the layer does not have.
        """
        kernel = self.kernel[...]
        arrays = []
        for name in self.definition.params._fields:
            param = getattr(self, name)
            if param is None:
                arrays.append(jnp.zeros(kernel.shape[1:], kernel.dtype))
            else:
                arrays.append(param[...])
        return self.definition.params(*arrays)

    def compute_output_shape(self, shape: Shape) -> Any:
        """Return the shape of the outputs for an input of the given shape (B, T, E), in
        which an unknown size is None.

        It is (B, T, H) if `return_sequences` is true, else (B, H). If `return_state` is
        true, the result is a pair: the shape of the outputs, and a state that contains
        shapes in place of arrays.

        Raises:
            InputError: if `shape` does not have three entries, or its last entry is
                neither None nor E.
        """
        fits = len(shape) == 3 and shape[2] in (self.features, None)
        require(fits, "shape", shape, f"give (batch, steps, {self.features})")
        outputs = (shape[0], self.output_features)
        if self.return_sequences:
            outputs = (*shape[:2], self.output_features)
        if not self.return_state:
            return outputs
        state = self.definition.state_like(self.units)
        return outputs, type(state)(*((shape[0], *part.shape[1:]) for part in state))

    def draw_masks(
        self, batch: int, rngs: Source = None, steps: int = 0
    ) -> DropoutMasks:
        """Draw the dropout and zoneout masks for one call of the layer on `batch` rows,
        and return them.

        `rngs` is a source of random numbers: a key, a random stream, or `Rngs` with a
        stream `dropout`. None means the layer's own stream. The number of steps is
        needed only if the layer has zoneout.

        Raises:
            InputError: if the layer has dropout or zoneout and there is no source of
                random numbers, or zoneout and `steps` is below 1.
        """
        kept = {name: rate for name, rate in self.zoneout.items() if rate}
        if not (self.dropout or self.recurrent_dropout or kept):
            return DropoutMasks()
        key = dropout_key(self.rngs, rngs)
        masks = draw_masks(
            key,
            batch,
            self.features,
            self.output_features,
            self.dropout,
            self.recurrent_dropout,
            self.dropout_masks,
            self.kernel[...].dtype,
            self.definition.gates,
        )
        if not kept:
            return masks

        remedy = "zoneout draws for each step: give 1 or more"
        require(steps >= 1, "steps", steps, remedy)
        state = self.definition.state_like(self.units)
        keys = jax.random.split(jax.random.fold_in(key, 2), len(self.zoneout))
        zoneout = {}
        for name, key in zip(self.zoneout, keys, strict=True):
            if name in kept:
                shape = (steps, batch, getattr(state, name).shape[1])
                zoneout[name] = jax.random.bernoulli(key, kept[name], shape)
        return masks._replace(zoneout=zoneout)

    # a call uses no public methods, so that `nnx.tabulate`, which wraps them, shows
    # layers alone
    _initial_state, _cell_params, _draw_masks = initial_state, cell_params, draw_masks

    @checked_call
    def __call__(
        self,
        x,
        *,
        mask=None,
        lengths=None,
        resets=None,
        reset_state=None,
        segment_ids=None,
        initial_state=None,
        dropout: DropoutMasks | None = None,
        tokens=None,
        deterministic: bool | None = None,
        rngs: Source = None,
        time_major: bool = False,
        return_sequences: bool | None = None,
        zero_output_for_mask: bool | None = None,
    ):
        """Run the layer on a batch of sequences, and return its outputs.

        `unroll` describes `mask`, `lengths`, `resets`, `segment_ids`, `tokens` and
        `time_major`.

        Args:
            x: input (B, T, E). Int ids (B, T) stand for one-hot vectors of E features.
                Floats with two axes are a single sequence (T, E), as in
                `torch.nn.LSTM`, and not one step of a batch, for which there is `step`.
                Then, and with int ids (T,), the other arguments but the masks of
                `dropout`, and the results, have no batch axis either.
            mask: bool (B, T), False at padded steps.
            lengths: int (B,), the number of valid steps of each row, in place of
                `mask`.
            resets: bool (B, T), True at the first step of a new sequence within a row.
            reset_state: state after a reset: a state, or a tuple or list of arrays (B,
                H) or (H,). None means the learned initial state if the layer has one,
                else the initial state of the cell.
            segment_ids: int (B, T), the number of the packed sequence of each step, in
                place of `mask`, `lengths` and `resets`.
            initial_state: initial state of the cell: a state, or a tuple or list of (B,
                H) arrays in its order, (h, c) for an LSTM (the carry of Flax' cells is
                (c, h)). None means the state carried from the previous call or, if
                there is none, the state after a reset (see `reset_state`).
            dropout: dropout masks to use. If None and the layer is in training mode,
                new masks are drawn.
            tokens: int (B, T), equal only where the inputs of a row are equal.
            deterministic: whether to run without dropout. If None, the last call of
                `train()` or `eval()` decides.
            rngs: source of random numbers for the dropout masks, as in `draw_masks`.
            time_major: whether time is the first axis.
            return_sequences: whether to return the outputs of all steps. None means the
                value with which the layer was created.
            zero_output_for_mask: whether the outputs of padded steps are zeros. None
                means the value with which the layer was created.

        Returns:
            the outputs (B, T, H) of all steps if `return_sequences` is true, else the
            last output (B, H). If `return_state` is true, (outputs, final state).

        Raises:
            InputError: if `unroll` does not accept an argument, or if masks must be
                drawn and there is no source of random numbers.
        """
        sequences, zeros = return_sequences, zero_output_for_mask
        sequences = self.return_sequences if sequences is None else sequences
        zeros = self.zero_output_for_mask if zeros is None else zeros
        x = read_input(x)
        batch_axis = int(time_major)
        per_step = {
            "x": x,
            "mask": mask,
            "resets": resets,
            "segment_ids": segment_ids,
            "tokens": tokens,
        }
        if single := is_single(x):
            per_step = {
                name: expanded(name, value, batch_axis)
                for name, value in per_step.items()
            }
            lengths = expanded("lengths", lengths, 0)
            reset_state = with_row("reset_state", reset_state)
            initial_state = with_row("initial_state", initial_state)
        shape = per_step["x"].shape
        steps, batch = shape[:2] if time_major else shape[1::-1]

        if self.carried is not None:
            rows = self.carried[0].shape[0]
            remedy = f"give as many, or call reset_state({batch})"
            remedy = f"the carried state has {rows} rows: {remedy}"
            require(rows == batch, "batch size", batch, remedy)
            if initial_state is None:
                initial_state = tuple(part[...] for part in self.carried)
        elif self.learned_state and initial_state is None and reset_state is None:
            initial_state = self._initial_state(batch)
        if resets is not None or segment_ids is not None:
            reset_state = self._reset_state(reset_state)

        training = is_training(self, deterministic)
        params, dropout = self._drop(batch, steps, dropout, rngs, training)
        outputs, state = unroll(
            self.definition,
            params,
            initial_state=initial_state,
            lengths=lengths,
            reset_state=reset_state,
            dropout=dropout,
            **per_step,
            backwards=self.go_backwards,
            return_sequences=sequences,
            zero_output_for_mask=zeros,
            time_major=time_major,
            compute_dtype=self.dtype,
            backend=self.backend,
            remat=self.remat,
        )
        if self.stateful:
            self._carry(jax.tree.map(jnp.copy, state))

        if sequences and self.go_backwards and self.keep_order:
            outputs = jnp.flip(outputs, 1 - batch_axis)
        if single:
            outputs = jnp.squeeze(outputs, batch_axis if sequences else 0)
            state = jax.tree.map(lambda part: part[0], state)
        return (outputs, state) if self.return_state else outputs

    def _drop(
        self, batch: int, steps: int, dropout: DropoutMasks | None, rngs, training: bool
    ) -> tuple[Any, DropoutMasks | None]:
        """Return the parameters of the cell and the dropout masks for one call of the
        layer.
        """
        params = self._cell_params()
        if self.weight_drop and training:
            key = dropout_key(self.rngs, rngs)
            rngs = jax.random.fold_in(key, 0)
            key = jax.random.fold_in(key, 1)
            kernel = params.recurrent_kernel
            kept = draw_mask(key, self.weight_drop, kernel.shape, kernel.dtype)
            params = params._replace(recurrent_kernel=kernel * kept)
        if dropout is None and training:
            dropout = self._draw_masks(batch, rngs, steps)
        # the expected values of the masks
        rates = {name: rate for name, rate in self.zoneout.items() if rate}
        if dropout is None and rates:
            dtype = params.kernel.dtype
            means = {name: jnp.asarray(rate, dtype) for name, rate in rates.items()}
            dropout = DropoutMasks(zoneout=means)
        return params, dropout

    def step(
        self, x, state, *, reset=None, dropout: DropoutMasks | None = None
    ) -> tuple[Array, Any]:
        """Run one step of the layer. T calls of `step` give, up to rounding, the same
        results as one call of the layer on T steps.

        The layer runs without dropout unless masks are given. A state carried by a
        stateful layer is neither read nor changed.

        Args:
            x: input of the step (B, E); int ids (B,); or, without a batch axis, (E,) or
                an int (). Then the other arguments but the masks of `dropout`, and the
                results, have no batch axis either.
            state: state before the step, for example the one that the method
                `initial_state` returns.
            reset: bool (B,). Rows with True start a new sequence: before the step their
                state is replaced by the initial state.
            dropout: masks, for example from `draw_masks`. All steps of a sequence share
                its dropout masks, while the zoneout masks (1, B, H) are for this step
                alone. None means no dropout, and zoneout as in evaluation.

        Returns:
            (output (B, H), state after the step).

        Raises:
            InputError: if an argument has a wrong shape or dtype, or if the layer reads
                sequences in reverse.
        """
        remedy = "a step has no reverse order: call the layer on the whole sequence"
        require(not self.go_backwards, "go_backwards", True, remedy)
        remedy = "give floats (B, E) or int ids (B,), or one row without the axis B"
        x = of_kinds("x", x, REAL, remedy)
        axes = x.ndim + is_ids(x)
        require(axes in (1, 2), "x", x.shape, remedy)
        if reset is not None:
            reset = of_kinds("reset", reset, (jnp.bool_,), "give bools")
            shape = x.shape[: axes - 1]
            require(reset.shape == shape, "reset", reset.shape, f"give shape {shape}")

        if axes == 1:
            rows = self.step(
                x[None],
                with_row("state", state),
                reset=expanded("reset", reset, 0),
                dropout=dropout,
            )
            return jax.tree.map(lambda part: part[0], rows)
        params, dropout = self._drop(x.shape[0], 1, dropout, None, training=False)
        return unroll(
            self.definition,
            params,
            expanded("x", x, 1),
            state,
            resets=expanded("reset", reset, 1),
            reset_state=None if reset is None else self._reset_state(None),
            dropout=dropout,
            return_sequences=False,
            compute_dtype=self.dtype,
            backend=self.backend,
        )


class LSTM(Recurrent):
    """LSTM layer (Hochreiter & Schmidhuber 1997) with a forget gate (Gers et al. 2000),
    equal to `keras.layers.LSTM`.

        z = x W + h U + b, split into i, f, g, o
        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')

    Here h and c are the state before a step, and h' and c' are the state after it. The
    state is an `LSTMState`.

    The arguments and errors are those of `Recurrent`, except that there is no argument
    `cell`. `Recurrent.__call__` lists the arguments of a call, such as `mask`,
    `lengths` and `resets`. With the argument `projection` the layer equals
    `torch.nn.LSTM` with `proj_size`; see `lstm_jax.cells.projected_lstm`.
    """

    @constructor
    def __init__(self, features: int, units: int, *, rngs: nnx.Rngs, **options):
        super().__init__(features, units, cell="lstm", rngs=rngs, **options)


class GRU(Recurrent):
    """GRU layer (gated recurrent unit, Cho et al. 2014), equal to `keras.layers.GRU`.

    The docstring of `lstm_jax.cells.gru` contains the equations. The state is a
    `HiddenState`.

    The arguments and errors are those of `Recurrent`, except that there is no argument
    `cell`.

    Args:
        reset_after: whether the reset gate multiplies the product of h and the
            recurrent kernel, as in Keras, PyTorch and cuDNN. If false, the reset gate
            multiplies h before the product, as in the paper.
    """

    @constructor
    def __init__(
        self,
        features: int,
        units: int,
        *,
        reset_after: bool = True,
        rngs: nnx.Rngs,
        **options,
    ):
        super().__init__(
            features,
            units,
            cell="gru" if reset_after else "gru_reset_before",
            rngs=rngs,
            **options,
        )


class SimpleRNN(Recurrent):
    """Simple recurrent layer h' = tanh(x W + h U + b) (Elman 1990), equal to
    `keras.layers.SimpleRNN`.

    Here h is the output before a step and h' the output after it. The state is a
    `HiddenState`. The arguments and errors are those of `Recurrent`, except that there
    are no arguments `cell` and `recurrent_activation`.
    """

    @constructor
    def __init__(self, features: int, units: int, *, rngs: nnx.Rngs, **options):
        super().__init__(features, units, cell="simple_rnn", rngs=rngs, **options)


def recurrent(
    features: int, units: int, *, cell: str | Cell = "lstm", **options
) -> Recurrent:
    """Return a recurrent layer with the given cell. It is an `LSTM` if `cell` is
    "lstm", else a `Recurrent`.

    The arguments are those of `Recurrent`.
    """
    if cell == "lstm":
        return LSTM(features, units, **options)
    return Recurrent(features, units, cell=cell, **options)
