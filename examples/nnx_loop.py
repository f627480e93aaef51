"""Flax NNX program in which `lstm_jax.LSTM` replaces `nnx.RNN`, with the same weights.

    python examples/nnx_loop.py

The program trains the model with `nnx.RNN` and with `lstm_jax.LSTM`, and prints the
last loss and the time per step of each version.
"""

import optax
from common import Comparison, Sizes, compare, main
from flax import nnx

from lstm_jax import LSTM, convert


class Classifier(nnx.Module):
    """Flax NNX model that computes the logits (B,) of B sequences of token ids (B, T):
    embedding, LSTM, and dense layer with one output.

    If `ours` is true, the LSTM is `lstm_jax.LSTM`, whose initial weights are copied
    from an LSTM of Flax. Otherwise, it is `nnx.RNN` of Flax.
    """

    def __init__(self, sizes: Sizes, ours: bool):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(sizes.vocabulary, sizes.features, rngs=rngs)
        self.rnn = nnx.RNN(
            nnx.OptimizedLSTMCell(sizes.features, sizes.units, rngs=rngs),
            return_carry=True,
            rngs=False,
        )
        self.head = nnx.Linear(sizes.units, 1, rngs=rngs)
        if ours:
            weights = convert.lstm_from_nnx(nnx.to_pure_dict(nnx.state(self.rnn)))
            self.rnn = LSTM(sizes.features, sizes.units, rngs=rngs)
            for name, array in weights.items():
                getattr(self.rnn, name)[...] = array

    def __call__(self, ids):
        x = self.embed(ids)
        if isinstance(self.rnn, LSTM):
            h = self.rnn(x, tokens=ids)
        else:
            (_, h), _ = self.rnn(x, rngs=nnx.Rngs(0))
        return self.head(h)[:, 0]


def loop(model: Classifier):
    """Return a function step(ids, labels) that takes one training step on a batch, and
    returns the loss before the step.

    The function is written like the training loop in the documentation of Flax. It uses
    Adam, and updates the model in place.

    Args:
        model: model to train.
    """
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit(donate_argnums=(0, 1))
    def step(model, optimizer, ids, labels):
        def loss(model):
            return optax.sigmoid_binary_cross_entropy(model(ids), labels).mean()

        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        return value

    return lambda ids, labels: step(model, optimizer, ids, labels)


def run(sizes: Sizes, steps: int) -> Comparison:
    """Train both versions of the model from the same initial weights, and return their
    losses and times per step.

    One version runs the LSTM with Flax, and the other runs it with lstm_jax.

    Args:
        sizes: sizes of the model and of a batch.
        steps: number of training steps of each version.
    """
    return compare(
        loop(Classifier(sizes, False)), loop(Classifier(sizes, True)), sizes, steps
    )


if __name__ == "__main__":
    main(run)
