"""Words and their ids: 0 is padding, 1 the start of a review, 2 a word out of the vocabulary, 3 unused; the first word is 4.

Keras' ids (`keras.datasets.imdb`) are `word_index[word] + 3` with a word index that begins at 1; both kinds of vocabulary follow that.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lstm_jax.data.padding import ragged
from lstm_jax.errors import InputError, require
from lstm_jax.files.reading import read_input
from lstm_jax.files.writing import write_atomically

PADDING, START, UNKNOWN, FIRST_WORD = 0, 1, 2, 4
RESERVED = ("[PAD]", "[START]", "[OOV]", "[UNUSED]")
FILTERED = b'!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
# One table lower-cases A to Z (bytes.lower() is ASCII only, as Keras' ids want it) and turns each filtered byte into a space.
_CLEAN = bytes(ord(" ") if byte in FILTERED else byte for byte in bytes(range(256)).lower())
_FORMAT = 1


def tokenize(text: bytes | str) -> list[bytes]:
    """Return the words of a text: ASCII lower-cased bytes, split at spaces and at each of `FILTERED`.

    This is how Keras' IMDB ids were made (`text_to_word_sequence`, on bytes). An apostrophe, a NUL, a carriage return and invalid UTF-8
    belong to a word. A str is encoded as UTF-8 first.
    """
    return [word for word in _as_bytes(text).translate(_CLEAN).split(b" ") if word]


def _as_bytes(text: bytes | str) -> bytes:
    # surrogateescape restores invalid UTF-8 that Python decoded in arguments and in `Vocabulary.words`.
    try:
        return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise InputError("text", error, "give valid Unicode") from error


@dataclass(frozen=True)
class Vocabulary:
    """Words by rank, and the number of ids that a model knows.

    `kind` decides how a word that is not in `words` is encoded: "keras" drops it (as Keras' data set did), "frequency" makes it 2. A word
    in `words` whose id is `num_words` or more becomes 2 with either kind. Keras' whole index is kept, so that a new review is encoded
    exactly like the training reviews.
    """

    words: tuple[str, ...]
    """Word k has the id k + 4; invalid UTF-8 is kept with surrogateescape."""
    num_words: int
    """Rows of an embedding; ids at or above this become 2."""
    kind: Literal["keras", "frequency"]

    def __post_init__(self):
        require(self.num_words >= FIRST_WORD, "num_words", self.num_words, "give 4 or more (0 to 3 are reserved)")

    @property
    def size(self) -> int:
        """Rows of the embedding: ids are 0 to size - 1."""
        return self.num_words

    @cached_property
    def index(self) -> dict[str, int]:
        """Word -> id of all words, also of words whose id is `num_words` or more."""
        return {word: FIRST_WORD + rank for rank, word in enumerate(self.words)}

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {_as_bytes(word): identity if identity < self.num_words else UNKNOWN for word, identity in self.index.items()}

    def encode(self, text: bytes | str) -> np.ndarray:
        """Return the (T,) int32 ids of a text, the start id first."""
        ids = map(self._ids.get, tokenize(text))
        if self.kind == "keras":
            return np.asarray([START, *(identity for identity in ids if identity is not None)], np.int32)
        return np.asarray([START, *(UNKNOWN if identity is None else identity for identity in ids)], np.int32)

    def encode_all(self, texts: Iterable[bytes | str]) -> tuple[np.ndarray, np.ndarray]:
        """Return N texts, each as in `encode`, laid end to end: (ids,) int32 and their (N + 1,) int64 offsets."""
        return ragged(map(self.encode, texts))

    def word(self, identity: int) -> str:
        """Return the word of an id; `[PAD]`, `[START]`, `[OOV]`, `[UNUSED]` for 0 to 3.

        Raises:
            InputError: if there is no such id.
        """
        known = 0 <= identity < FIRST_WORD + len(self.words)
        require(known, "word id", identity, f"ids are 0 to {FIRST_WORD + len(self.words) - 1}")
        return RESERVED[identity] if identity < FIRST_WORD else self.words[identity - FIRST_WORD]

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """Return the words of (T,) ids, joined by spaces, without padding and start."""
        return " ".join(self.word(int(identity)) for identity in ids if identity > START)

    def capped(self, num_words: int | None) -> "Vocabulary":
        """Return the vocabulary for a model of `num_words` ids; None or 0: of all ids.

        A frequency vocabulary drops the rarer words: whether they are known makes no difference to any id.
        """
        size = num_words or FIRST_WORD + len(self.words)
        kept = self.words if self.kind == "keras" else self.words[: max(size - FIRST_WORD, 0)]
        return dataclasses.replace(self, words=kept, num_words=size)

    def to_json(self) -> bytes:
        """Return ASCII JSON, which `from_json` reads."""
        return json.dumps({"format": _FORMAT, "kind": self.kind, "num_words": self.num_words, "words": self.words}).encode()

    @staticmethod
    def from_json(content: bytes, source: object = "vocabulary") -> "Vocabulary":
        """Return the vocabulary that `to_json` wrote.

        Raises:
            InputError: naming `source`, for any other content.
        """
        try:
            raw: Any = json.loads(content)
            words, size, kind = raw["words"], raw["num_words"], raw["kind"]
            good = raw["format"] == _FORMAT and kind in ("keras", "frequency") and type(size) is int and size >= FIRST_WORD
            if not good or not all(isinstance(word, str) and word for word in words) or len(set(words)) < len(words):
                raise ValueError("a format this version does not know, or words that are none")
            return Vocabulary(tuple(words), size, kind)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"vocabulary {source}", error, "give the vocabulary.json of a run") from error

    def save(self, path: Path) -> None:
        """Write JSON to `path`, the whole file or none.

        Raises:
            InputError: if it cannot be written.
        """
        write_atomically(path, lambda file: file.write(self.to_json()))

    @staticmethod
    def load(path: Path) -> "Vocabulary":
        """Return the vocabulary that `save` wrote.

        Raises:
            InputError: if the file is absent or damaged.
        """
        return Vocabulary.from_json(read_input(path, f"vocabulary {path}", "give the vocabulary.json of a run"), path)


def build_vocabulary(texts: Iterable[bytes | str], num_words: int | None = None) -> Vocabulary:
    """Return a frequency vocabulary: words by count, the most frequent first, ties by the word's bytes.

    Args:
        texts: the training texts.
        num_words: ids in all, the four reserved ones included; None or 0: as many as there are words.
    """
    counts: Counter[bytes] = Counter()
    for text in texts:
        counts.update(tokenize(text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    words = tuple(word.decode("utf-8", "surrogateescape") for word in ranked)
    return Vocabulary(words, FIRST_WORD + len(words), "frequency").capped(num_words)
