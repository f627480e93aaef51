"""The function `make_train_step`, which returns a compiled training step of a user's
own model.

The model is a Flax NNX module, or the pytree of parameters of a model in another
library, such as Flax Linen, Haiku or Equinox. With an optimiser such as
`lstm_jax.adam`, a step updates only those rows of the largest embedding table that the
batch looks up.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh
from numpy import ndarray

from lstm_jax.base import sharding
from lstm_jax.base.errors import InputError, require
from lstm_jax.base.types import Ints
from lstm_jax.layers.recurrent import Recurrent
from lstm_jax.native.library import is_off
from lstm_jax.recurrence import check_32_bits
from lstm_jax.training.optimizers import try_update
from lstm_jax.training.parts import Parts, split_module
from lstm_jax.training.row_sparse import Optimizer, row_sparse
from lstm_jax.training.state import TrainState, create_state, over_runs
from lstm_jax.training.step import (
    CATCH_UP_INTERVAL,
    catch_up_if,
    lag_of,
    largest_table,
    take_step,
)


def split_model(model) -> Parts:
    """Split an nnx.Module or a pytree of parameters into parameters, other variables,
    and a function that rebuilds the model.

    A pytree has no other variables. `make_train_step` says which models raise an
    `InputError`.
    """
    if isinstance(model, nnx.Module):
        for path, layer in nnx.iter_modules(model):
            if isinstance(layer, Recurrent) and layer.stateful:
                name = "/".join(map(str, path)) or type(layer).__name__
                remedy = "call the model once on a batch, or reset_state"
                if layer.learned_state:
                    remedy = "call the model once on a batch"
                carries = layer.carried is not None
                subject = f"stateful layer {name}"
                require(carries, subject, "carries no state yet", remedy)
        parts = split_module(model)
        count = len(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    else:
        found, structure = jax.tree_util.tree_flatten_with_path(model)
        count = len(found)
        given = {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in found
        }

        def rebuild(params, variables):
            del variables
            return jax.tree.unflatten(structure, [params[name] for name in given])

        parts = Parts(given, (), rebuild)
    kind = type(model).__name__
    remedy = "it has no parameters: give an nnx.Module or a pytree of arrays"
    require(count > 0, "model", kind, remedy)
    remedy = "two parameters have the same path: rename one of them"
    require(len(parts.params) == count, "model", kind, remedy)
    remedy = "give a pytree of arrays of floats, or an nnx.Module"
    for name, leaf in parts.params.items():
        check_floats(f"parameter {name}", leaf, np.shape(leaf), remedy)
    return parts


def check_floats(name: str, value, shape: Ints, remedy: str) -> None:
    """Raise `InputError` if a value is not an array of floats of the given shape."""
    if not isinstance(value, Array | ndarray):
        raise InputError(name, type(value).__name__, remedy)
    fits = value.shape == shape and jnp.issubdtype(value.dtype, jnp.floating)
    require(fits, name, f"{value.dtype}{list(value.shape)}", remedy)


def check_functions(loss_fn, optimizer) -> None:
    """Check that a loss function can be called, and that an optimiser has `init`, and
    an `update` that does not need the loss.
    """
    remedy = "give a function of the model and a batch"
    require(callable(loss_fn), "loss_fn", repr(loss_fn), remedy)
    remedy = (
        "give an optimiser of this project or of optax, such as lstm_jax.adam(1e-3)"
    )
    for name in ("init", "update"):
        fits = callable(getattr(optimizer, name, None))
        require(fits, "optimizer", repr(optimizer), remedy)
    try:
        try_update(optimizer)
    # others, since it may suit only the user's own parameters
    except Exception as error:
        remedy = "give one whose update needs only gradients and parameters"
        fits = "required keyword-only argument" not in str(error)
        require(fits, "optimizer", error, remedy)


def checked_mesh(mesh: Mesh | None) -> Mesh:
    """Return the mesh, or a mesh of one device for None, after checking that its axis
    is that of `sharding.make_mesh`.
    """
    mesh = sharding.make_mesh(1) if mesh is None else mesh
    fits = (
        isinstance(mesh, Mesh)
        and mesh.axis_names == (sharding.DATA,)
        and mesh.axis_types == (AxisType.Auto,)
    )
    require(fits, "mesh", repr(mesh), "give lstm_jax.base.sharding.make_mesh()")
    return mesh


class TrainStep:
    """Compiled training step of a model; see `make_train_step`.

    The arguments of a step are a training state and a batch. The step returns a new
    state and the result of the loss function. The given state must not be used
    afterwards, because the step reuses its memory (donates it).

    To read the trained parameters, call the method `model` instead of reading them from
    a state. If updates are row-sparse, a step updates only those rows of the embedding
    table that the batch looks up. All other rows miss the step. The method `model`
    first lets all rows take the steps that they have missed. Call the method
    `caught_up` before you replace a part of a state, such as the optimiser's state.
    """

    def __init__(self, model, loss_fn: Callable, optimizer, has_aux: bool, mesh: Mesh):
        self._parts = split_model(model)
        self._loss_fn = loss_fn
        self._optimizer = optimizer
        self._has_aux = has_aux
        self._mesh = mesh
        self._table: str | None = None
        self._one = jax.jit(self._step, donate_argnums=0)
        self._several = jax.jit(partial(lax.scan, self._step), donate_argnums=0)
        self._catch_up = jax.jit(
            lambda state: catch_up_if(
                True, optimizer, lag_of(optimizer, state, state.step), state
            )._replace(behind={})
        )

    def init(self) -> TrainState:
        """Return the training state before the first step, with copies of the
        parameters of the model.
        """
        state, _ = create_state(self._parts.params, self._optimizer, (), self._mesh)
        variables = jax.tree.map(jnp.copy, self._parts.variables)
        return over_runs(
            state._replace(
                carry=sharding.put(variables, sharding.replicated(self._mesh))
            )
        )

    def __call__(self, state: TrainState, *batch) -> tuple:
        """Take one step.

        Args:
            state: training state before the step. It must not be used afterwards.
            batch: further arguments of the loss function, which are pytrees of arrays
                (B, ...). B is the batch size.

        Returns:
            A pair of the training state after the step, and the result of the loss
            function for the parameters before the step.

        Raises:
            InputError: if B is not a multiple of the number of devices, or if the
                result of `loss_fn` is not that which `make_train_step` describes.
        """
        return self._run(self._one, 0, state, batch)

    def many(self, state: TrainState, *batches) -> tuple[TrainState, Any]:
        """Take S steps in one compiled call.

        It is like S calls of `__call__`, but each array of `batches`, and of the
        results of the loss function, has a new first axis of size S.
        """
        return self._run(self._several, 1, state, batches)

    def model(self, state: TrainState) -> Any:
        """Return a model with the parameters and the other variables of a training
        state. The state is not changed and stays valid.

        If rows of the embedding table were left out of some updates (see `table`),
        these updates are applied in the returned model.
        """
        with sharding.on(self._mesh):
            state = self._caught_up(state)
        return self._parts.rebuild(*jax.tree.map(jnp.copy, (state.params, state.carry)))

    def caught_up(self, state: TrainState) -> TrainState:
        """Return the training state after all rows of the embedding table (see `table`)
        have taken the steps that they missed.

        The returned parameters are those that dense updates would give, apart from
        rounding. The given state is not changed and stays valid. An example that
        restarts the optimiser: `state = step.caught_up(state); state =
        state._replace(opt_state=optimizer.init(state.params))`.
        """
        with sharding.on(self._mesh):
            return (
                self._caught_up(state)
                if state.behind
                else jax.tree.map(jnp.copy, state)
            )

    @property
    def table(self) -> str:
        """Name of the embedding table that is updated row-sparsely: a step updates only
        those of its rows that the batch looks up.

        The name is "" before the first step or call of `lower`, and also afterwards if
        there is no such table.
        """
        return self._table or ""

    def lower(self, state: TrainState, *batch) -> jax.stages.Lowered:
        """Lower a step without compiling it, as the method `lower` of a jitted function
        does, and return the lowered program.

        It shows for example which data the devices exchange, or how much memory a step
        needs. The state stays valid.
        """
        return self._run(self._one.lower, 0, state, batch)

    def _run(
        self, function: Callable, axis: int, state: TrainState, batch: tuple
    ) -> Any:
        """Call a function with the training state and the batch, whose axis `axis` is
        sharded over the devices of the mesh.
        """
        concrete = isinstance(state.step, Array) and not isinstance(state.step, Tracer)
        remedy = "a step reuses its memory: give the state that the step returned"
        used = concrete and state.step.is_deleted()
        require(not used, "training state", "used again", remedy)
        size = self._mesh.size
        remedy = f"give a batch size that is a multiple of the mesh's {size} devices"
        for leaf in jax.tree.leaves(batch):
            check_32_bits("batch", leaf)
            fits = size == 1 or (np.ndim(leaf) > axis and leaf.shape[axis] % size == 0)
            require(fits, "batch", np.shape(leaf), remedy)
        with sharding.on(self._mesh):
            if self._mesh.size > 1:
                batch = jax.device_put(batch, sharding.rows(self._mesh, axis))
            if self._table is None and not is_off():

                def described(leaf):
                    dtype = jax.typeof(leaf).dtype
                    return jax.ShapeDtypeStruct(np.shape(leaf)[axis:], dtype)

                given = (jax.tree.map(described, batch), (), (), state.carry)
                self._table = largest_table(
                    self._objective, self._optimizer, state.params, *given
                )
            # compiled code can be turned off between two calls
            table = "" if is_off() else self.table
            # the state of a step that had another table, or none
            if table not in (state.behind or ("",)):
                state = self._caught_up(state)
            if table and not state.behind:
                zeros = {table: np.zeros(len(state.params[table]), np.int32)}
                zeros = jax.device_put(zeros, sharding.replicated(self._mesh))
                state = state._replace(behind=over_runs(zeros))
            return function(state, batch)

    def _objective(
        self, params, batch: tuple, weight, key, variables
    ) -> tuple[Array, Any]:
        del weight, key
        model = self._parts.rebuild(params, variables)
        result = self._loss_fn(model, *batch)
        is_pair = isinstance(result, tuple) and len(result) == 2
        remedy = "give has_aux=True if and only if it is (loss, results)"
        problem = "a pair" if is_pair else "no pair"
        require(is_pair == self._has_aux, "loss", problem, remedy)
        loss: Any = result[0] if self._has_aux else result
        remedy = "return a scalar of floats, such as the mean over the batch"
        check_floats("loss", loss, (), remedy)
        # without the variables that a call has created
        if isinstance(model, nnx.Module):
            found = dict(nnx.to_flat_state(split_module(model).variables))
            paths = [path for path, _ in nnx.to_flat_state(variables)]
            variables = nnx.from_flat_state([(path, found[path]) for path in paths])
        return loss, (result, variables)

    def _step(self, state: TrainState, batch: tuple) -> tuple:
        optimizer = self._optimizer
        lag = lag_of(optimizer, state, state.step) if state.behind else None
        given = (state, lag, batch, (), ())
        lag, state, result = take_step(self._objective, optimizer, *given)
        if lag:
            state = catch_up_if(lag.at == CATCH_UP_INTERVAL, optimizer, lag, state)
        return state, result

    def _caught_up(self, state: TrainState) -> TrainState:
        """Return the state after all rows of its embedding table have taken the steps
        that they missed in row-sparse updates.
        """
        for name in state.behind:
            remedy = "use the optimiser and the compiled code that it was made with"
            fits = row_sparse(name, self._optimizer, state.params)
            problem = f"rows of {name} have missed steps"
            require(fits, "training state", problem, remedy)
        return self._catch_up(state) if state.behind else state


def make_train_step(
    model,
    loss_fn: Callable,
    optimizer: Optimizer,
    *,
    has_aux: bool = False,
    mesh: Mesh | None = None,
) -> TrainStep:
    """Return a compiled training step of any Flax NNX module, or of any model that is a
    pytree of parameters.

        def loss(model, x, y):
            return cross_entropy(model(x), y).mean()

        step = make_train_step(model, loss, lstm_jax.adam(1e-3))
        state = step.init()
        for x, y in batches:
            state, loss = step(state, x, y)
        model = step.model(state)

    If the optimiser has a row-sparse update, and this update's C++ code can run, a step
    treats the largest embedding table specially: it computes the gradients of those
    rows that the batch looks up, and updates only these rows. The other rows take their
    missed steps later, at the latest when `step.model` is called. Apart from rounding,
    the result is the same as that of a dense update. `lstm_jax.adam` and
    `lstm_jax.keras_adam` have a row-sparse update, also with gradient clipping by
    `training.optimizers.clipped`.

    An embedding table is a large parameter that the loss uses only to look up rows; see
    `training.lookups`. The layer that has the table can be of any library, if the layer
    looks up rows by JAX's gather, as `lstm_jax.Embedding`, `flax.nnx.Embed` and
    `jnp.take(table, ids, axis=0)` do.

    Args:
        model: a module or a pytree of arrays of floats. It is not changed.
        loss_fn: function loss_fn(model, *batch) that returns the mean loss of a batch,
            a scalar. If the model is an NNX module, the function may change variables
            that are not parameters, such as the counts of random streams.
        optimizer: an optimiser of this project or of optax.
        has_aux: whether `loss_fn` returns a pair of the loss and a pytree of further
            results, such as metrics. If false, it returns the loss alone.
        mesh: devices that each batch is sharded over; see `base.sharding.make_mesh`.
            If None, one device is used.

    Raises:
        InputError: in one of these cases.

            - The model has no parameters, a parameter is not an array of floats, or two
              parameters have the same path.
            - A stateful layer carries no state yet.
            - `loss_fn` is not a function, or `optimizer` is not an optimiser.
            - `mesh` has another axis than one named "data" of the type
              `jax.sharding.AxisType.Auto`.
    """
    check_functions(loss_fn, optimizer)
    return TrainStep(model, loss_fn, optimizer, has_aux, checked_mesh(mesh))
