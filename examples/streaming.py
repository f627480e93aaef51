"""A sentiment classifier that reads word by word, for one sentence or for the sentences
of many users in one batch.

python examples/streaming.py

The classifier is trained on whole sentences of a small grammar with words of praise and
words of complaint. The word "not" reverses the next word of praise or complaint. The
trained classifier reads word by word with `layer.step`, in two programs:

- The function `stream` reads one sentence, without a batch axis. It returns the
  probability of praise after each word.
- The class `Server` reads the sentences of many users in one batch. Each user has one
  row of the batch, which is called a slot. The argument `reset` of `layer.step` sets
  the state of a new user to zeros. At each tick, some of the users send a word. The
  states of the other users do not change.

The probabilities of both programs are compared with those that the classifier computes
when it reads whole sentences.
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

PRAISE, COMPLAINT = (
    ("good", "great", "moving", "funny"),
    ("bad", "awful", "dull", "silly"),
)
FILLERS = ("the", "film", "plot", "was", "is", "and", "a", "cast", "very", "here")
WORDS = ("not", *PRAISE, *COMPLAINT, *FILLERS)
NOT = 0


class Sentences(NamedTuple):
    """N sentences and their labels.

    Attributes:
        ids: ids of the words (N, T), in rows of T words. Ids after the end of a
            sentence are ignored.
        lengths: number of words of each sentence (N,).
        labels: label of each sentence (N,): 1 if the sentence has more words of praise
            than of complaint, and 0 if it has fewer. The word "not" reverses the next
            word of praise or complaint.
    """

    ids: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


def encode(text: str) -> np.ndarray:
    """Return the ids (T,) of the T words of a text. Each word must be in `WORDS`."""
    return np.array([WORDS.index(word) for word in text.split()], np.int32)


def make_sentences(count: int, length: int, rng: np.random.Generator) -> Sentences:
    """Return random labelled sentences.

    The word "not" turns the next word of praise into a word of complaint, and vice
    versa. Counted in this way, no sentence has as many words of praise as words of
    complaint. Every sentence therefore has a label.

    Args:
        count: number of sentences.
        length: largest number of words of a sentence. The smallest is 3.
        rng: random generator.
    """
    opinions = len(PRAISE) + len(COMPLAINT)
    sign = np.array(
        [0] + [1] * len(PRAISE) + [-1] * len(COMPLAINT) + [0] * len(FILLERS)
    )
    kinds = rng.random((3 * count, length))
    ids = np.where(
        kinds < 0.15,
        NOT,
        np.where(kinds < 0.4, rng.integers(1, opinions + 1, kinds.shape), 0),
    )
    ids = np.where(
        kinds >= 0.4, rng.integers(opinions + 1, len(WORDS), kinds.shape), ids
    ).astype(np.int32)
    lengths = rng.integers(3, length + 1, len(ids)).astype(np.int32)
    total, reverse = np.zeros(len(ids), int), np.ones(len(ids), int)
    for n, words in enumerate(ids.T):
        total += np.where(n < lengths, reverse * sign[words], 0)
        reverse = np.where(words == NOT, -1, np.where(sign[words] != 0, 1, reverse))
    keep = np.flatnonzero(total)[:count]
    if len(keep) < count:  # unlikely, except for a small count
        return make_sentences(count, length, rng)
    return Sentences(ids[keep], lengths[keep], (total[keep] > 0).astype(np.float32))


class Classifier(nnx.Module):
    """Classifier that computes a logit of praise after each word, with an embedding, an
    LSTM and a dense layer.
    """

    def __init__(self, units: int, rngs: nnx.Rngs):
        self.embed = Embedding(len(WORDS), units, rngs=rngs)
        self.layer = LSTM(units, units, return_sequences=True, rngs=rngs)
        self.head = nnx.Linear(units, 1, rngs=rngs)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Return the logit of label 1 (praise) after each word: (B, T) for B sentences
        of T words, or (T,) for a single sentence.

        Args:
            ids: ids of the words (B, T) or (T,).
        """
        return self.head(self.layer(self.embed(ids)))[..., 0]

    def step(
        self, ids: jax.Array, state: LSTMState, reset: jax.Array | None = None
    ) -> tuple[jax.Array, LSTMState]:
        """Read the next word of B sentences, and return the logits of praise after this
        word (B,) and the new state.

        To read a single sentence, pass all arrays without the axis B.

        Args:
            ids: id of the next word of each sentence (B,).
            state: state of the LSTM after the previous words.
            reset: bool (B,), True for each of the B entries in which a new sentence
                begins. The state of such an entry is set to zeros before the word is
                read. None means that no sentence begins.
        """
        h, state = self.layer.step(self.embed(ids), state, reset=reset)
        return self.head(h)[..., 0], state


def loss(
    model: Classifier, ids: jax.Array, lengths: jax.Array, labels: jax.Array
) -> jax.Array:
    """Return the mean loss over B sentences. The loss of a sentence is the
    cross-entropy of the logit after its last word.

    Args:
        model: classifier.
        ids: ids of the words (B, T). Ids after the end of a sentence are ignored.
        lengths: number of words of each sentence (B,).
        labels: label of each sentence (B,), 0 or 1.
    """
    logits = jnp.take_along_axis(model(ids), lengths[:, None] - 1, axis=1)[:, 0]
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean()


def train(steps: int, units: int, length: int) -> Classifier:
    """Train a classifier on random sentences, and return it.

    Args:
        steps: number of training steps.
        units: number of units of the LSTM, and of features of the embedding.
        length: largest number of words of a sentence.
    """
    rng = np.random.default_rng(0)
    step = lstm_jax.make_train_step(
        Classifier(units, nnx.Rngs(0)), loss, lstm_jax.adam(5e-3)
    )
    state = step.init()
    for _ in range(steps):
        state, _ = step(state, *make_sentences(64, length, rng))
    return step.model(state)


def stream(model: Classifier, ids: np.ndarray) -> np.ndarray:
    """Read the T words of a sentence one by one, and return the probability of praise
    after each word (T,).

    Args:
        model: classifier.
        ids: ids of the words (T,).
    """
    step = nnx.jit(Classifier.step)
    state = jax.tree.map(lambda part: part[0], model.layer.initial_state(1))
    found = []
    for word in ids:
        logit, state = step(model, jnp.asarray(word), state)
        found.append(jax.nn.sigmoid(logit))
    return np.array(found)


class Server:
    """Server that reads the sentences of many users word by word, and classifies them.

    All users share one batch. Each row of the batch is a slot, which holds the state of
    one user.
    """

    def __init__(self, model: Classifier, slots: int):
        graph, weights = nnx.split(model)

        def tick(weights, ids, state, reset, sent):
            logits, new = nnx.merge(graph, weights).step(ids, state, reset)
            kept = jax.tree.map(
                lambda new, old: jnp.where(sent[:, None], new, old), new, state
            )
            return jax.nn.sigmoid(logits), kept

        self._tick, self._weights = jax.jit(tick, donate_argnums=2), weights
        self._state = model.layer.initial_state(slots)
        self._fresh = np.zeros(slots, bool)
        self._free, self._slots = list(range(slots)), dict[Hashable, int]()

    def join(self, user: Hashable) -> None:
        """Give a free slot to a user. The state of the slot is set to zeros when the
        first word of the user is read.
        """
        self._slots[user] = self._free.pop()
        self._fresh[self._slots[user]] = True

    def leave(self, user: Hashable) -> None:
        """Take the slot of a user back, so that another user can get it."""
        self._free.append(self._slots.pop(user))

    def send(self, words: dict[Hashable, int]) -> dict[Hashable, float]:
        """Read the next word of some users, and return the probability of praise for
        the sentence of each of these users.

        Args:
            words: dict from each user that sends a word to the id of the word.

        Returns:
            A dict from each user in `words` to the probability after the word.
        """
        ids, sent = (
            np.zeros(len(self._fresh), np.int32),
            np.zeros(len(self._fresh), bool),
        )
        for user, word in words.items():
            ids[self._slots[user]], sent[self._slots[user]] = word, True
        found, self._state = self._tick(
            self._weights, ids, self._state, self._fresh & sent, sent
        )
        self._fresh &= ~sent
        return {user: float(found[self._slots[user]]) for user in words}


class Session(NamedTuple):
    """Results of `serve`.

    Attributes:
        probabilities: one list for each user, with one entry for each word of the
            user's sentence. The entry is the probability, computed after this word,
            that the sentence has more praise than complaint.
        ticks: number of ticks. A tick is one call of `Server.send`.
        words: number of words of all users.
        seconds: duration of all ticks but the first, which compiles the program.
    """

    probabilities: list[list[float]]
    ticks: int
    words: int
    seconds: float


def serve(
    model: Classifier, sentences: list[np.ndarray], slots: int, rng: np.random.Generator
) -> Session:
    """Simulate the users of a server, each of whom sends the words of one sentence, and
    return the results of the server.

    A user joins when a slot is free, sends the words one by one at random ticks, and
    leaves after the last word. A tick is one call of `Server.send`.

    Args:
        model: classifier.
        sentences: one array (T,) for each sentence, with the ids of its T words.
        slots: number of slots of the server, which is the largest number of users at a
            time.
        rng: random generator.
    """
    server, found = Server(model, slots), [list[float]() for _ in sentences]
    waiting, here = list(range(len(sentences)))[::-1], list[int]()
    ticks, began = 0, 0.0
    while waiting or here:
        while waiting and len(here) < slots:
            here.append(waiting.pop())
            server.join(here[-1])
        sending = [user for user in here if rng.random() < 0.7]
        for user, probability in server.send(
            {user: int(sentences[user][len(found[user])]) for user in sending}
        ).items():
            found[user].append(probability)
        for user in [user for user in here if len(found[user]) == len(sentences[user])]:
            server.leave(user)
            here.remove(user)
        # the first tick compiles
        ticks, began = ticks + 1, began or time.perf_counter()
    return Session(found, ticks, sum(map(len, sentences)), time.perf_counter() - began)


class Result(NamedTuple):
    """Results of `run`.

    Two of the attributes are differences between two probabilities of praise after the
    same word. The first probability is computed word by word. The second is computed by
    the classifier when it reads the whole sentence in one call.

    Attributes:
        model: trained classifier.
        accuracy: accuracy of the classifier on whole sentences that it was not trained
            on.
        stream_difference: largest difference over all words of the sentence that
            `stream` reads word by word.
        server_difference: largest difference over all words of all users, whose
            sentences the server reads word by word.
        session: results of the server.
    """

    model: Classifier
    accuracy: float
    stream_difference: float
    server_difference: float
    session: Session


def run(
    steps: int = 800,
    units: int = 64,
    length: int = 20,
    users: int = 1_000,
    slots: int = 64,
) -> Result:
    """Train a classifier, let it read word by word, and compare its probabilities with
    those on whole sentences.

    One sentence is read with `stream`, and the sentences of all users are read with a
    `Server`.

    Args:
        steps: number of training steps.
        units: number of units of the LSTM.
        length: largest number of words of a sentence.
        users: number of users. Each user has one sentence.
        slots: number of slots of the server.
    """
    model = train(steps, units, length)
    rng = np.random.default_rng(1)
    many = make_sentences(users, length, rng)
    sentences = [ids[:count] for ids, count in zip(many.ids, many.lengths, strict=True)]
    whole = np.asarray(
        jax.nn.sigmoid(nnx.jit(Classifier.__call__)(model, jnp.asarray(many.ids)))
    )
    accuracy = (
        (whole[np.arange(users), many.lengths - 1] > 0.5) == (many.labels > 0)
    ).mean()
    alone = np.abs(stream(model, sentences[0]) - whole[0, : len(sentences[0])]).max()
    session = serve(model, sentences, slots, rng)
    differences = [
        np.abs(np.array(own) - row[: len(own)]).max()
        for own, row in zip(session.probabilities, whole, strict=True)
    ]
    return Result(
        model, float(accuracy), float(alone), float(max(differences)), session
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example from the command line, and print its results.

    The results are:

    - the accuracy on new sentences;
    - the probability of praise after each word of a text;
    - the largest differences between probabilities computed word by word and
      probabilities computed on whole sentences;
    - the speed of the server in words per second.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument(
        "--text", default="the film was not good and the cast was great very funny"
    )
    given = parser.parse_args(arguments)
    text = given.text.lower()
    if unknown := [word for word in text.split() if word not in WORDS]:
        parser.error(f"--text: {unknown[0]}; give words of {' '.join(WORDS)}")
    for name in ("steps", "users", "slots"):
        if getattr(given, name) < 1:
            parser.error(f"--{name}: {getattr(given, name)}; give at least 1")
    found = run(given.steps, users=given.users, slots=given.slots)
    print(
        f"accuracy on new sentences: {found.accuracy:.3f}; probability of "
        "praise after each word:"
    )
    for word, probability in zip(
        text.split(), stream(found.model, encode(text)), strict=True
    ):
        print(f"{word:>10} {probability:.3f} {'#' * round(40 * probability)}")
    print(
        "largest difference from whole sentences: "
        f"{found.stream_difference:.1e} alone, {found.server_difference:.1e} "
        "on the server"
    )
    session = found.session
    rate = session.words / session.seconds
    print(
        f"{given.users:,} users in {given.slots} slots: {session.ticks:,} "
        f"ticks, {rate:,.0f} words/s"
    )


if __name__ == "__main__":
    main()
