"""Benchmark of training loops that users of this project's LSTM layer can write
themselves, without the project's command line.

The model is a Flax NNX module that contains this project's `LSTM`. If the layer gets
the word ids as its argument `tokens`, it can use the fact that steps with equal ids
have equal inputs. The option `backend` names the training loop:

- "nnx" (the default): `nnx.jit`, `nnx.Optimizer` and `optax.adam`, as the documentation
  of Flax shows.
- "donated": like "nnx", but with donation, that is, `nnx.jit` reuses the memory of the
  model and of the optimizer. The layer gets the word ids as `tokens`.
- "functions": a pure function under `jax.jit`, with `optax.adam` and with donation. It
  takes and returns the parameters.
- "train_step": `lstm_jax.make_train_step` with `lstm_jax.adam`. The layer gets the word
  ids as `tokens`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lstm_jax
from bench.peers.base import Built, Options, training
from bench.peers.jax_step import batches_of, carried, mean_loss
from bench.workloads import Arrays, Workload
from lstm_jax.base.errors import require
from lstm_jax.training.parts import functional


class Net(nnx.Module):
    """Flax NNX model as a user of this project could write it: embedding (for word
    ids), this project's LSTM, and dense output layer.
    """

    def __init__(self, work: Workload, options: Options):
        rngs, self.shares = nnx.Rngs(0), options.backend in ("donated", "train_step")
        self.embedding = (
            nnx.Embed(work.vocabulary, work.features, rngs=rngs) if work.words else None
        )
        rates: dict[str, Any] = {
            "dropout": options.dropout,
            "recurrent_dropout": options.recurrent_dropout,
        }
        self.lstm = lstm_jax.LSTM(work.features, work.units, **rates, rngs=rngs)
        self.head = nnx.Linear(work.units, work.classes, rngs=rngs)

    def __call__(self, x):
        if self.embedding is None:
            return self.head(self.lstm(x))
        return self.head(
            self.lstm(self.embedding(x), tokens=x if self.shares else None)
        )


def _loss(net: Net, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    return mean_loss(net(inputs), targets)


Step = Callable[[jax.Array, jax.Array], jax.Array]
"""Function step(inputs, targets) that takes one training step, and returns the loss,
computed before the parameters change."""
Loop = tuple[Step, Callable[[], Net]]
"""Function that trains the model, and function without arguments that returns the
trained model."""


ADAM = optax.adam(1e-3, eps=1e-7)


def _nnx(net: Net, donate: tuple[int, ...] = ()) -> Loop:
    state = nnx.Optimizer(net, ADAM, wrt=nnx.Param)

    @nnx.jit(donate_argnums=donate)
    def step(net, state, inputs, targets):
        value, gradient = nnx.value_and_grad(_loss)(net, inputs, targets)
        state.update(net, gradient)
        return value

    return lambda inputs, targets: step(net, state, inputs, targets), lambda: net


def _functions(net: Net) -> Loop:
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    state = jax.tree.map(jnp.copy, (params, ADAM.init(params), rest))

    @partial(jax.jit, donate_argnums=0)
    def compiled(state, inputs, targets):
        params, opt_state, rest = state

        def loss(params):
            net = nnx.merge(graph, params, rest, copy=True)
            return _loss(net, inputs, targets), nnx.split(net, nnx.Param, ...)[2]

        (value, rest), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = ADAM.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, rest), value

    return carried(compiled, state, lambda state: nnx.merge(graph, state[0], state[2]))


def _train_step(net: Net) -> Loop:
    compiled = lstm_jax.make_train_step(net, _loss, lstm_jax.adam(1e-3, eps=1e-7))
    return carried(compiled, compiled.init(), compiled.model)


LOOPS: dict[str, Callable[[Net], Loop]] = {
    "nnx": _nnx,
    "donated": partial(_nnx, donate=(0, 1)),
    "functions": _functions,
    "train_step": _train_step,
}
"""Dict from the name of a training loop to a function that takes a model and returns
the loop."""


def build(work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload; see `base.Built`."""
    kind = options.backend or "nnx"
    require(kind in LOOPS, "own_loop: backend", kind, f"give one of {', '.join(LOOPS)}")

    def make(options):
        given = {
            name.replace("recurrent/0", "lstm"): jnp.asarray(array)
            for name, array in arrays.weights.items()
        }
        rebuilt: Any = functional(Net(work, options)).rebuild(given)
        return rebuilt

    plain = Options(options.backend)

    def start(dropout):
        step, trained = LOOPS[kind](make(options if dropout else plain))

        def weights():
            params = functional(trained()).params
            return {
                name: np.asarray(params[name.replace("recurrent/0", "lstm")])
                for name in arrays.weights
            }

        return step, weights

    def predict(inputs):
        return np.asarray(nnx.jit(lambda net, x: net(x))(make(plain), inputs))

    return training(
        work,
        batches_of(work, arrays),
        start,
        predict,
        jax.block_until_ready,
        devices=[str(jax.devices()[0])],
        backend=kind,
    )
