"""A Flax NNX program with `lstm_jax.LSTM` in place of `nnx.RNN`, in the loop that Flax' documentation shows.

python examples/nnx_loop.py
"""

import optax
from common import Comparison, Sizes, compare, main
from flax import nnx

from lstm_jax import LSTM, convert


class Classifier(nnx.Module):
    """Embedding, LSTM and a logit; the LSTM is Flax' own, or that of lstm_jax with the same weights."""

    def __init__(self, sizes: Sizes, ours: bool):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(sizes.vocabulary, sizes.features, rngs=rngs)
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(sizes.features, sizes.units, rngs=rngs), return_carry=True, rngs=False)
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
    """Return a function that takes one training step; model and optimiser are updated in place (donated)."""
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
    """Train both versions."""
    return compare(loop(Classifier(sizes, False)), loop(Classifier(sizes, True)), sizes, steps)


if __name__ == "__main__":
    main(run)
