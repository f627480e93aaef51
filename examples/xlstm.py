"""Character model of the blocks of xLSTM (Beck et al. 2024), around the cells sLSTM and
mLSTM.

    python examples/xlstm.py
    python examples/xlstm.py --data shakespeare.txt --blocks mms --steps 2000

Without `--data`, the text is Python's documentation. Each letter of `--blocks` is a
block: s is the post-up-projection block of an sLSTM, m the pre-up-projection block of
an mLSTM. Every block adds its result to its input x (B, T, E), B sequences of T steps
with E features.

The published code has projections in diagonal blocks, and gates that read either the
convolved input or the plain one. Here they are dense
and read both, which includes the published ones: `convert.slstm_from_xlstm` and
`mlstm_from_xlstm` return their weights for these layers. The mLSTM keeps the output
gate of its equations, which the published block leaves out.

A call gets and returns the memory of each block, so that training, one call for T
steps, and writing, one call a character, share the code.
"""

import argparse
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from lstm_jax import Recurrent, adam, make_train_step
from lstm_jax.cells import Cell, mlstm, slstm
from lstm_jax.lab.generation import data

WIDTH = 4
"""Steps that the causal convolution sees."""


class Memory(NamedTuple):
    """Memory of a block: the last inputs of the convolution (B, WIDTH - 1, features),
    and the state of the cell.
    """

    inputs: jax.Array
    cell: Any


def dense(inputs: int, outputs: int, deviation: float, rngs: nnx.Rngs) -> nnx.Linear:
    """Return a dense layer without bias, with normally distributed weights."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=False,
        kernel_init=nnx.initializers.normal(deviation),
        rngs=rngs,
    )


def norm(features: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Return a layer norm without bias."""
    return nnx.LayerNorm(features, use_bias=False, epsilon=1e-5, rngs=rngs)


class Mixer(nnx.Module):
    """Part of both blocks that sees other steps: a causal convolution with swish, a
    cell, and a group norm with a group for each head.
    """

    def __init__(self, features: int, heads: int, cell: Cell, rngs: nnx.Rngs):
        self.features = features
        self.kernel = nnx.Param(
            nnx.initializers.lecun_normal()(rngs.params(), (WIDTH, features))
        )
        self.bias = nnx.Param(jnp.zeros(features))
        self.layer = Recurrent(
            2 * features,
            features,
            cell=cell,
            return_sequences=True,
            return_state=True,
            rngs=rngs,
        )
        self.norm = nnx.GroupNorm(
            features, heads, use_bias=False, epsilon=1e-5, rngs=rngs
        )

    def start(self, batch: int) -> Memory:
        """Return the memory before the first step."""
        return Memory(
            jnp.zeros((batch, WIDTH - 1, self.features)),
            self.layer.initial_state(batch),
        )

    def __call__(
        self, x: jax.Array, memory: Memory
    ) -> tuple[jax.Array, jax.Array, Memory]:
        """Return the normalised outputs of the cell and the convolved input, both as x
        (B, T, features), and the new memory.
        """
        inputs = jnp.concatenate([memory.inputs, x], axis=1)
        # on a CPU, XLA's convolution with a group for each feature takes far longer
        places = [
            kernel * inputs[:, place : place + x.shape[1]]
            for place, kernel in enumerate(self.kernel[...])
        ]
        convolved = nnx.silu(sum(places) + self.bias[...])
        h, cell = self.layer(
            jnp.concatenate([convolved, x], axis=-1), initial_state=memory.cell
        )
        # each step by itself
        h = self.norm(h.reshape(-1, self.features)).reshape(h.shape)
        return h, convolved, Memory(inputs[:, 1 - WIDTH :], cell)


class SLSTMBlock(nnx.Module):
    """Post-up-projection block: the sLSTM, then a gated MLP with 4/3 of the features."""

    def __init__(self, features: int, heads: int, blocks: int, rngs: nnx.Rngs):
        hidden, small = round(features * 4 / 3), math.sqrt(2 / (5 * features))
        self.norm, self.mlp_norm = norm(features, rngs), norm(features, rngs)
        self.mixer = Mixer(features, heads, slstm(heads), rngs)
        self.up = dense(features, 2 * hidden, small, rngs)
        self.down = dense(hidden, features, 2 / blocks / math.sqrt(features), rngs)

    def __call__(self, x: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
        h, _, memory = self.mixer(self.norm(x), memory)
        x = x + h
        gate, up = jnp.split(self.up(self.mlp_norm(x)), 2, axis=-1)
        return x + self.down(nnx.gelu(gate, approximate=False) * up), memory


class MLSTMBlock(nnx.Module):
    """Pre-up-projection block: the mLSTM between projections to twice the features and
    back, with a learnable skip and a gate.
    """

    def __init__(self, features: int, heads: int, blocks: int, rngs: nnx.Rngs):
        self.norm = norm(features, rngs)
        self.up = dense(features, 4 * features, math.sqrt(2 / (5 * features)), rngs)
        self.mixer = Mixer(2 * features, heads, mlstm(heads), rngs)
        self.skip = nnx.Param(jnp.ones(2 * features))
        self.down = dense(
            2 * features, features, 2 / blocks / math.sqrt(features), rngs
        )

    def __call__(self, x: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
        inner, gate = jnp.split(self.up(self.norm(x)), 2, axis=-1)
        h, convolved, memory = self.mixer(inner, memory)
        return x + self.down((h + self.skip * convolved) * nnx.silu(gate)), memory


BLOCKS = {"s": SLSTMBlock, "m": MLSTMBlock}


class XLSTM(nnx.Module):
    """Character model: an embedding, blocks, a norm and a dense layer that returns
    logits.
    """

    def __init__(
        self, characters: int, features: int, heads: int, blocks: str, rngs: nnx.Rngs
    ):
        small = math.sqrt(2 / (5 * features))
        self.embedding = nnx.Embed(
            characters,
            features,
            embedding_init=nnx.initializers.normal(small),
            rngs=rngs,
        )
        self.blocks = nnx.List(
            [BLOCKS[kind](features, heads, len(blocks), rngs) for kind in blocks]
        )
        self.norm, self.head = (
            norm(features, rngs),
            dense(features, characters, small, rngs),
        )

    def __call__(
        self, ids: jax.Array, memories: Sequence[Memory] | None = None
    ) -> tuple[jax.Array, list[Memory]]:
        """Return the logits of the characters after each of the ids (B, T), and the
        memories of the blocks after the last one.
        """
        memories = memories or [block.mixer.start(len(ids)) for block in self.blocks]
        x, found = self.embedding(ids), []
        for block, memory in zip(self.blocks, memories, strict=True):
            x, memory = block(x, memory)
            found.append(memory)
        return self.head(self.norm(x)), found


def loss(model: XLSTM, ids: jax.Array) -> jax.Array:
    """Return the mean cross-entropy of each character of the ids (B, T + 1) after the
    first.
    """
    return optax.softmax_cross_entropy_with_integer_labels(
        model(ids[:, :-1])[0], ids[:, 1:]
    ).mean()


@partial(nnx.jit, static_argnames="count")
def write(model: XLSTM, prompt: jax.Array, count: int, key: jax.Array) -> jax.Array:
    """Return the ids of `count` characters drawn after a prompt (P,)."""

    def draw(carry, key):
        logits, memories = carry
        drawn = jax.random.categorical(key, logits[:, -1])
        return model(drawn[:, None], memories), drawn[0]

    logits, memories = model(prompt[None])
    return jax.lax.scan(draw, (logits[:, -1:], memories), jax.random.split(key, count))[
        1
    ]


class Result(NamedTuple):
    """Trained model, loss of each step, bits a character of held-out text, and the text
    that the model writes.
    """

    model: XLSTM
    losses: np.ndarray
    bits: float
    text: str


def run(
    paths: Sequence[str] = (),
    blocks: str = "ms",
    steps: int = 500,
    features: int = 128,
    heads: int = 4,
    length: int = 128,
    batch: int = 32,
    learning_rate: float = 2e-3,
    chars: int = 400,
) -> Result:
    """Train a model on windows of a text at random places, score it on held-out text,
    and let it write `chars` characters.
    """
    corpus, rng = (
        data.prepare_corpus(paths, recipe="none", length=length),
        np.random.default_rng(0),
    )
    model = XLSTM(
        len(corpus.characters.characters), features, heads, blocks, nnx.Rngs(0)
    )
    rate = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(50, steps // 2), steps
    )
    step, losses = make_train_step(model, loss, adam(rate)), []
    state = step.init()

    def windows(ids, starts):
        return np.asarray(ids[starts[..., None] + np.arange(length + 1)], np.int32)

    for start in range(0, steps, 50):
        starts = rng.integers(
            len(corpus.train) - length, size=(min(50, steps - start), batch)
        )
        state, values = step.many(state, windows(corpus.train, starts))
        losses.append(values)
    model = step.model(state)
    held_out = windows(
        corpus.validation, np.arange(0, len(corpus.validation) - length, length)
    )
    bits = float(nnx.jit(loss)(model, jnp.asarray(held_out[:256]))) / math.log(2)
    written = write(model, jnp.asarray(held_out[0, :length]), chars, jax.random.key(0))
    return Result(
        model,
        np.concatenate(losses),
        bits,
        corpus.characters.decode(np.asarray(written)),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a model from the command line, and print its losses and the text that it
    writes.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--data",
        nargs="+",
        default=(),
        help="text files; Python's documentation if not given",
    )
    parser.add_argument("--blocks", default="ms", help="letters s and m, a block each")
    parser.add_argument("--steps", type=int, default=500)
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    found = run(given.data, given.blocks, given.steps)
    for number in range(0, given.steps, max(1, given.steps // 10)):
        print(
            f"step {number:>5}: {found.losses[number] / math.log(2):.3f} bits "
            "a character"
        )
    print(
        f"held-out text: {found.bits:.3f} bits a character; "
        f"{time.perf_counter() - began:.0f} s"
    )
    print(found.text)


if __name__ == "__main__":
    main()
