"""Vocabularies, which map words to ids, and the division of texts into words.

Id 0 is padding, 1 is the start of a review, 2 is any word outside the vocabulary, 3 is
unused, and 4 is the first (most frequent) word. These are the ids of
`keras.datasets.imdb`, where the id of a word is `word_index[word] + 3` and the word
index begins at 1.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import parsing, require
from lstm_jax.base.types import Texts
from lstm_jax.base.writing import write_atomically
from lstm_jax.lab.files.padding import ragged
from lstm_jax.lab.files.reading import encode_utf8, read_input
from lstm_jax.lab.sentiment.config import Kind

PADDING, START, UNKNOWN, FIRST_WORD = 0, 1, 2, 4
RESERVED = ("[PAD]", "[START]", "[OOV]", "[UNUSED]")
FILTERED = b'!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
# A translation table that turns each filtered byte into a space, and A to Z into lower
# case. As in Keras, other letters are unchanged.
_CLEAN = bytes(
    ord(" ") if byte in FILTERED else byte for byte in bytes(range(256)).lower()
)
_FORMAT = 1


def tokenize(text: bytes | str) -> list[bytes]:
    """Return the words of a text, as bytes.

    The letters A to Z become lower case, and the text, as UTF-8, is split at spaces and
    at the bytes in `FILTERED`. Apostrophes, NUL bytes, carriage returns and invalid
    UTF-8 are parts of words. Keras' IMDB data set was made in the same way, by
    `text_to_word_sequence` applied to bytes.
    """
    return [word for word in _as_bytes(text).translate(_CLEAN).split(b" ") if word]


def content_hashes(contents: Iterable[bytes | memoryview]) -> ndarray:
    """Return a uint64 array (N,) with a hash of each of N reviews, which are given as
    their words joined by spaces, or as their ids.
    """
    return np.frombuffer(
        b"".join(
            hashlib.blake2b(content, digest_size=8).digest() for content in contents
        ),
        np.uint64,
    )


def _as_bytes(text: bytes | str) -> bytes:
    # surrogateescape restores the bytes that are not valid UTF-8, in command-line
    # arguments and in `Vocabulary.words`.
    return (
        encode_utf8(text, errors="surrogateescape") if isinstance(text, str) else text
    )


@frozen
class Vocabulary:
    """Vocabulary that maps the words of a review to ids.

    A word in `words` whose id is `num_words` or more is encoded as the id 2, which
    stands for all unknown words. A word that is not in `words` is encoded as the id 2
    if `kind` is "frequency", and dropped if `kind` is "keras", as when Keras' data set
    was made.
    """

    words: Texts
    """The words in the order of their ids. Word k has the id k + 4. Bytes that are not
    valid UTF-8 are decoded with surrogateescape."""
    num_words: int
    """Number of ids, which is the number of rows of the embedding table of a model."""
    kind: Kind
    """Treatment of a word that is not in `words`: it is dropped ("keras") or encoded as
    the id 2 ("frequency")."""

    def __post_init__(self):
        require(
            self.num_words >= FIRST_WORD,
            "num_words",
            self.num_words,
            "give 4 or more (0 to 3 are reserved)",
        )

    @property
    def size(self) -> int:
        """Number of ids, `num_words`."""
        return self.num_words

    @cached_property
    def index(self) -> dict[str, int]:
        """Dict from each word in `words` to its id, which may be `num_words` or more."""
        return {word: identity for identity, word in enumerate(self.words, FIRST_WORD)}

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {
            _as_bytes(word): identity if identity < self.num_words else UNKNOWN
            for word, identity in self.index.items()
        }

    def encode(self, text: bytes | str) -> ndarray:
        """Return the ids of a text as an int32 array (T,) that begins with the start
        id.
        """
        ids, drop = self._ids, self.kind == "keras"
        return np.asarray(
            [
                START,
                *(
                    ids.get(word, UNKNOWN)
                    for word in tokenize(text)
                    if word in ids or not drop
                ),
            ],
            np.int32,
        )

    def encode_all(self, texts: Iterable[bytes | str]) -> tuple[ndarray, ndarray]:
        """Return the ids of N texts as an int32 array, and int64 offsets (N + 1,): text
        n is ids[offsets[n] : offsets[n + 1]].
        """
        return ragged(map(self.encode, texts))

    def count_words(self, texts: Iterable[bytes | str]) -> tuple[int, int]:
        """Return the number of words in texts, and the number of those that have no id
        of their own.
        """
        ids = [
            self._ids.get(word, UNKNOWN) for text in texts for word in tokenize(text)
        ]
        return len(ids), ids.count(UNKNOWN)

    def word(self, identity: int) -> str:
        """Return the word with a given id. For the reserved ids 0 to 3 it is `[PAD]`,
        `[START]`, `[OOV]` or `[UNUSED]`.
        """
        end = FIRST_WORD + len(self.words)
        require(0 <= identity < end, "word id", identity, f"ids are 0 to {end - 1}")
        return (
            RESERVED[identity]
            if identity < FIRST_WORD
            else self.words[identity - FIRST_WORD]
        )

    def decode(self, ids: Iterable[int] | ndarray) -> str:
        """Return the words with the given ids (T,), joined by spaces. The ids 0
        (padding) and 1 (start) are left out.
        """
        return " ".join(
            self.word(int(identity))
            for identity in ids
            if identity not in (PADDING, START)
        )

    def capped(self, num_words: int | None) -> "Vocabulary":
        """Return a copy of this vocabulary that has `num_words` ids.

        Args:
            num_words: number of ids, including the four reserved ids 0 to 3. If None or
                0, there is no limit: every word in `words` has its own id.

        Raises:
            InputError: if `num_words` is below 4 and not 0.
        """
        size = num_words or FIRST_WORD + len(self.words)
        kept = self.words
        if self.kind == "frequency":
            kept = kept[: max(size - FIRST_WORD, 0)]
        return dataclasses.replace(self, words=kept, num_words=size)

    def to_json(self) -> bytes:
        """Return the vocabulary as JSON in ASCII, which `from_json` decodes."""
        return json.dumps(
            {
                "format": _FORMAT,
                "kind": self.kind,
                "num_words": self.num_words,
                "words": self.words,
            }
        ).encode()

    @staticmethod
    def from_json(content: bytes, source: object = "vocabulary") -> "Vocabulary":
        """Return the vocabulary that `to_json` has encoded.

        Raises:
            InputError: if `content` does not describe a vocabulary of words. The
                message names `source`.
        """
        with parsing(f"vocabulary {source}", "give the vocabulary.json of a run"):
            raw: Any = json.loads(content)
            words = raw["words"]
            size = raw["num_words"]
            kind = raw["kind"]
            good = (
                raw["format"] == _FORMAT
                and kind in ("keras", "frequency")
                and type(size) is int
                and size >= FIRST_WORD
            )
            if (
                not good
                or not all(isinstance(word, str) and word for word in words)
                or len(set(words)) < len(words)
            ):
                raise ValueError(
                    "a format this version does not know, or words that are none"
                )
            return Vocabulary(tuple(words), size, kind)

    def save(self, path: Path) -> None:
        """Write the vocabulary to `path` as JSON. If writing fails, an existing file at
        `path` is not changed.
        """
        write_atomically(path, self.to_json())

    @staticmethod
    def load(path: Path) -> "Vocabulary":
        """Load a vocabulary from a file that `save` has written. `InputError` is raised
        if the file is absent or damaged.
        """
        return Vocabulary.from_json(
            read_input(path, f"vocabulary {path}", "give the vocabulary.json of a run"),
            path,
        )


def build_vocabulary(
    texts: Iterable[bytes | str], num_words: int | None = None
) -> Vocabulary:
    """Return a vocabulary of the kind "frequency", in which more frequent words of the
    training texts have smaller ids.

    Words with equal counts are sorted by their bytes. `num_words` is the number of ids;
    see `Vocabulary.capped`.

    Raises:
        InputError: if `num_words` is below 4 and not 0.
    """
    counts = Counter(chain.from_iterable(map(tokenize, texts)))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    words = tuple(word.decode("utf-8", "surrogateescape") for word in ranked)
    return Vocabulary(words, FIRST_WORD, "frequency").capped(num_words)
