"""A classifier that reads word by word: a probability after each word, and many users' sentences in one batch.

python examples/streaming.py

The classifier is trained on whole sentences of a small grammar: words of praise and of complaint, where "not" reverses the next of them.
Then `layer.step` runs it in two ways, and both are compared with the layer on whole sentences:

- `stream` reads one sentence, without a batch axis, and gives the probability after each word;
- `Server` holds the states of many users in the rows of one batch, its slots. A user who joins takes a free slot, whose state starts anew
  with `reset`. At each tick any of the users send a word; the slots of the others keep their states.
"""

import argparse
import time
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lstm_jax
from lstm_jax import LSTM, Embedding, LSTMState

PRAISE, COMPLAINT = ("good", "great", "moving", "funny"), ("bad", "awful", "dull", "silly")
FILLERS = ("the", "film", "plot", "was", "is", "and", "a", "cast", "very", "here")
WORDS = ("not", *PRAISE, *COMPLAINT, *FILLERS)
NOT = 0


class Sentences(NamedTuple):
    """Sentences as ids (N, T) of words, their lengths (N,), and labels (N,): 1 if praise outweighs complaint, else 0."""

    ids: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


def encode(text: str) -> np.ndarray:
    """Return the ids (T,) of the words of a text."""
    return np.array([WORDS.index(word) for word in text.split()], np.int32)


def make_sentences(count: int, length: int, rng: np.random.Generator) -> Sentences:
    """Return random sentences of 3 to `length` words in which praise and complaint are not in balance."""
    opinions = len(PRAISE) + len(COMPLAINT)
    sign = np.array([0] + [1] * len(PRAISE) + [-1] * len(COMPLAINT) + [0] * len(FILLERS))
    kinds = rng.random((3 * count, length))
    ids = np.where(kinds < 0.15, NOT, np.where(kinds < 0.4, rng.integers(1, opinions + 1, kinds.shape), 0))
    ids = np.where(kinds >= 0.4, rng.integers(opinions + 1, len(WORDS), kinds.shape), ids).astype(np.int32)
    lengths = rng.integers(3, length + 1, len(ids)).astype(np.int32)
    total, reverse = np.zeros(len(ids), int), np.ones(len(ids), int)
    for n in range(length):
        words, valid = ids[:, n], n < lengths
        total += np.where(valid, reverse * sign[words], 0)
        reverse = np.where(words == NOT, -1, np.where(sign[words] != 0, 1, reverse))
    keep = np.flatnonzero(total)[:count]
    return Sentences(ids[keep], lengths[keep], (total[keep] > 0).astype(np.float32))


class Classifier(nnx.Module):
    """Embedding, LSTM, and a logit after each word."""

    def __init__(self, units: int, rngs: nnx.Rngs):
        self.embed = Embedding(len(WORDS), units, rngs=rngs)
        self.layer = LSTM(units, units, return_sequences=True, rngs=rngs)
        self.head = nnx.Linear(units, 1, rngs=rngs)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Return the logits (B, T) of a batch (B, T), or (T,) of one sentence (T,)."""
        return self.head(self.layer(self.embed(ids)))[..., 0]

    def step(self, ids: jax.Array, state: LSTMState, reset: jax.Array | None = None) -> tuple[jax.Array, LSTMState]:
        """Return the logits (B,) after one more word of each row, or () of one sentence, and the new state."""
        h, state = self.layer.step(self.embed(ids), state, reset=reset)
        return self.head(h)[..., 0], state


def loss(model: Classifier, ids: jax.Array, lengths: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean loss of the logits after the last words."""
    logits = jnp.take_along_axis(model(ids), lengths[:, None] - 1, axis=1)[:, 0]
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean()


def train(steps: int, units: int, length: int, batch: int = 64, seed: int = 0) -> Classifier:
    """Return a trained classifier."""
    rng = np.random.default_rng(seed)
    step = lstm_jax.make_train_step(Classifier(units, nnx.Rngs(seed)), loss, lstm_jax.adam(5e-3))
    state = step.init()
    for _ in range(steps):
        state, _ = step(state, *make_sentences(batch, length, rng))
    return step.model(state)


def stream(model: Classifier, ids: np.ndarray) -> np.ndarray:
    """Return the probabilities (T,) of praise after each word of one sentence (T,), computed word by word."""
    step = nnx.jit(Classifier.step)
    state = jax.tree.map(lambda part: part[0], model.layer.initial_state(1))
    found = []
    for word in ids:
        logit, state = step(model, jnp.asarray(word), state)
        found.append(jax.nn.sigmoid(logit))
    return np.array(found)


class Server:
    """Classifier of the sentences of many users at once. Each slot, a row of one batch, holds the state of one user."""

    def __init__(self, model: Classifier, slots: int):
        graph, weights = nnx.split(model)

        def tick(weights, ids, state, reset, sent):
            logits, new = nnx.merge(graph, weights).step(ids, state, reset)
            kept = jax.tree.map(lambda new, old: jnp.where(sent[:, None], new, old), new, state)
            return jax.nn.sigmoid(logits), kept

        self._tick, self._weights = jax.jit(tick, donate_argnums=2), weights
        self._state = model.layer.initial_state(slots)
        self._fresh = np.zeros(slots, bool)
        self._free, self._slots = list(range(slots)), dict[Hashable, int]()

    def join(self, user: Hashable) -> None:
        """Give a free slot to a user. With the user's first word its state is reset."""
        self._slots[user] = self._free.pop()
        self._fresh[self._slots[user]] = True

    def leave(self, user: Hashable) -> None:
        """Take back the slot of a user."""
        self._free.append(self._slots.pop(user))

    def send(self, words: dict[Hashable, int]) -> dict[Hashable, float]:
        """Read the next word of some users, and return the probability of each of their sentences."""
        ids, sent = np.zeros(len(self._fresh), np.int32), np.zeros(len(self._fresh), bool)
        for user, word in words.items():
            ids[self._slots[user]], sent[self._slots[user]] = word, True
        found, self._state = self._tick(self._weights, ids, self._state, self._fresh & sent, sent)
        self._fresh &= ~sent
        probabilities = np.asarray(found)
        return {user: float(probabilities[self._slots[user]]) for user in words}


class Session(NamedTuple):
    """Probabilities after each word of each user, number of ticks and of words, and seconds, the first tick left out."""

    probabilities: list[list[float]]
    ticks: int
    words: int
    seconds: float


def serve(model: Classifier, sentences: list[np.ndarray], slots: int, rng: np.random.Generator) -> Session:
    """Serve one user for each sentence. Users join when a slot is free, send words at random ticks, and leave after their last word."""
    server, found = Server(model, slots), [list[float]() for _ in sentences]
    waiting, here = list(range(len(sentences)))[::-1], list[int]()
    ticks, began = 0, 0.0
    while waiting or here:
        while waiting and len(here) < slots:
            here.append(waiting.pop())
            server.join(here[-1])
        sending = [user for user in here if rng.random() < 0.7]
        for user, probability in server.send({user: int(sentences[user][len(found[user])]) for user in sending}).items():
            assert isinstance(user, int)
            found[user].append(probability)
        for user in [user for user in here if len(found[user]) == len(sentences[user])]:
            server.leave(user)
            here.remove(user)
        ticks, began = ticks + 1, began or time.perf_counter()  # the first tick compiles
    return Session(found, ticks, sum(map(len, sentences)), time.perf_counter() - began)


class Result(NamedTuple):
    """Trained classifier, its accuracy, the session of the server, and the largest differences from the layer on whole sentences."""

    model: Classifier
    accuracy: float
    stream_difference: float
    server_difference: float
    session: Session


def run(steps: int = 800, units: int = 64, length: int = 20, users: int = 1_000, slots: int = 64) -> Result:
    """Train a classifier, stream a sentence, and serve many users."""
    model = train(steps, units, length)
    rng = np.random.default_rng(1)
    many = make_sentences(users, length, rng)
    sentences = [ids[:count] for ids, count in zip(many.ids, many.lengths, strict=True)]
    whole = np.asarray(jax.nn.sigmoid(nnx.jit(Classifier.__call__)(model, jnp.asarray(many.ids))))
    accuracy = ((whole[np.arange(users), many.lengths - 1] > 0.5) == (many.labels > 0)).mean()
    alone = np.abs(stream(model, sentences[0]) - whole[0, : len(sentences[0])]).max()
    session = serve(model, sentences, slots, rng)
    differences = [np.abs(np.array(own) - row[: len(own)]).max() for own, row in zip(session.probabilities, whole, strict=True)]
    return Result(model, float(accuracy), float(alone), float(max(differences)), session)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example, and print probabilities word by word, the largest differences and the rate of the server."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--text", default="the film was not good and the cast was great very funny")
    given = parser.parse_args(arguments)
    found = run(given.steps, users=given.users, slots=given.slots)
    print(f"accuracy on new sentences: {found.accuracy:.3f}; probability of praise after each word:")
    for word, probability in zip(given.text.split(), stream(found.model, encode(given.text)), strict=True):
        print(f"{word:>10} {probability:.3f} {'#' * round(40 * probability)}")
    print(f"largest difference from whole sentences: {found.stream_difference:.1e} alone, {found.server_difference:.1e} on the server")
    session = found.session
    rate = session.words / session.seconds
    print(f"{given.users:,} users in {given.slots} slots: {session.ticks:,} ticks, {rate:,.0f} words/s")


if __name__ == "__main__":
    main()
