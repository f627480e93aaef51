"""Vocabularies, which give each character or word an id. A character is a Unicode code
point or, with the unit "byte", a byte.
"""

import json
from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import checked, frozen
from lstm_jax.base.errors import InputError, require
from lstm_jax.base.types import Texts
from lstm_jax.base.writing import write_atomically
from lstm_jax.lab.files.reading import encode_utf8, read_input
from lstm_jax.lab.generation.config import Token, Unit
from lstm_jax.lab.generation.data.sources import blocks

BYTES = tuple(map(chr, range(256)))
SHOWN = 5  # an error message shows at most this many characters
_BLOCK = 1 << 20
_FORMAT = 1
UNKNOWN, LINE_END = "<unk>", "<eos>"


@frozen
class Characters:
    """Vocabulary of the distinct characters of a corpus, or of all 256 bytes. The id of
    a character is its index in `characters`.
    """

    characters: Texts
    """The distinct characters, sorted by code point. With the unit "byte" they are
    chr(0) to chr(255)."""
    unit: Token = "character"
    """Unit of the text: "character" (a Unicode code point) or "byte"."""

    def __post_init__(self):
        whole = (
            checked("unit", self.unit, Unit) == "character" or self.characters == BYTES
        )
        require(
            whole,
            "characters",
            f"{len(self.characters)} of them",
            "there are 256 bytes: use all_bytes()",
        )
        good = all(
            len(character) == 1 and not "\ud800" <= character <= "\udfff"
            for character in self.characters
        )
        ordered = all(
            character < following for character, following in pairwise(self.characters)
        )
        require(
            good and ordered,
            "characters",
            ascii(self.characters),
            "give single characters, each once, sorted",
        )

    @staticmethod
    def of(text: str | bytes) -> "Characters":
        """Return the vocabulary of the distinct characters in a text, or of all 256
        bytes if the text is bytes.
        """
        return (
            Characters(BYTES, "byte")
            if isinstance(text, bytes)
            else Characters(tuple(sorted(set(text))))
        )

    @staticmethod
    def all_bytes() -> "Characters":
        """Return the vocabulary of all 256 bytes."""
        return Characters(BYTES, "byte")

    @property
    def size(self) -> int:
        """Size of the vocabulary: the ids are 0 to size - 1."""
        return len(self.characters)

    @property
    def dtype(self) -> np.dtype:
        """Dtype of encoded ids: the smallest of uint8, uint16 and int32 that can
        represent every id.
        """
        return np.dtype(
            np.uint8
            if self.size <= 1 << 8
            else np.uint16
            if self.size <= 1 << 16
            else np.int32
        )

    @cached_property
    def char_to_id(self) -> dict[str, int]:
        """Dict from each character to its id."""
        return {
            character: identity for identity, character in enumerate(self.characters)
        }

    @cached_property
    def _id_of_code(self) -> ndarray:
        table = np.full(max(map(ord, self.characters), default=-1) + 2, -1, np.int32)
        table[[ord(character) for character in self.characters]] = np.arange(self.size)
        return table

    def encode(self, text: str | bytes) -> ndarray:
        """Return the ids (T,) of a text of T characters, of the vocabulary's dtype.

        Args:
            text: a str. With the unit "byte", the text may also be bytes, and a str is
                first encoded as UTF-8.

        Raises:
            InputError: if the text has characters outside the vocabulary (the message
                shows up to five), or if the text is bytes and the unit is "character".
        """
        if self.unit == "byte":
            return np.frombuffer(
                text if isinstance(text, bytes) else encode_utf8(text), np.uint8
            )
        if isinstance(text, bytes):
            raise InputError(
                "text", text[:20], "give characters: these ids are not of bytes"
            )
        ids = np.empty(len(text), self.dtype)
        table = self._id_of_code
        for start in range(0, len(text), _BLOCK):
            codes = np.frombuffer(
                text[start : start + _BLOCK].encode("utf-32-le", "surrogatepass"), "<u4"
            )
            found = table[np.minimum(codes, len(table) - 1)]
            if found.min() < 0:
                raise InputError(
                    "unknown characters",
                    shown(self.unknown(text)),
                    "leave them out, or train on a text that has them",
                )
            ids[start : start + len(codes)] = found
        return ids

    def unknown(self, text: str) -> Texts:
        """Return the distinct characters of a text that are outside the vocabulary, in
        the order of their first appearance.
        """
        distinct = dict.fromkeys(text if self.unit == "character" else "")
        return tuple(
            character for character in distinct if character not in self.char_to_id
        )

    def decode(self, ids: Iterable[int] | ndarray, after: int | None = None) -> str:
        """Return the text with the given ids (T,). With the unit "byte", bytes that are
        not valid UTF-8 become U+FFFD.

        `after` is the id before them, if any: a word after another begins with a space.

        Raises:
            InputError: if an id is out of range, or the ids are not a one-dimensional
                array of integers.
        """
        if self.unit == "byte":
            return self.decode_bytes(ids).decode(errors="replace")
        return "".join(self.pieces(ids, after))

    def pieces(
        self, ids: Iterable[int] | ndarray, after: int | None = None
    ) -> list[str]:
        """Return the part of the decoded text that belongs to each id; see `decode`."""
        return list(map(self.characters.__getitem__, self._checked(ids).tolist()))

    def decode_bytes(
        self, ids: Iterable[int] | ndarray, after: int | None = None
    ) -> bytes:
        """Return the text with the given ids (T,) as bytes: with the unit "byte" those
        of the same values, else the text in UTF-8.
        """
        return (
            self._checked(ids).astype(np.uint8).tobytes()
            if self.unit == "byte"
            else self.decode(ids, after).encode()
        )

    def _checked(self, ids: Iterable[int] | ndarray) -> ndarray:
        array = np.asarray(ids if hasattr(ids, "__array__") else list(ids))
        if array.ndim == 1 and array.size == 0:
            return np.zeros(0, np.int64)
        require(
            array.ndim == 1 and array.dtype.kind in "iu",
            "ids",
            f"{array.dtype} {array.shape}",
            "give (T,) integers",
        )
        wrong = array[(array < 0) | (array >= self.size)]
        require(
            wrong.size == 0,
            f"{self.unit} id",
            next(iter(wrong), ""),
            f"ids are 0 to {self.size - 1}",
        )
        return array

    def to_json(self) -> bytes:
        """Return the vocabulary as JSON in ASCII, which `from_json` decodes."""
        characters = {
            "character": "".join(self.characters),
            "byte": None,
            "word": list(self.characters),
        }[self.unit]
        return json.dumps(
            {"format": _FORMAT, "unit": self.unit, "characters": characters}
        ).encode()

    @staticmethod
    def from_json(content: bytes, source: object = "characters") -> "Characters":
        """Return the vocabulary that `to_json` has encoded. An `InputError` about
        another content names `source`.
        """
        try:
            raw: Any = json.loads(content)
            unit, characters = raw["unit"], raw["characters"]
            if raw["format"] != _FORMAT or not isinstance(
                characters, {"character": str, "byte": type(None), "word": list}[unit]
            ):
                raise ValueError("a format this version does not know")
            if unit == "word":
                return Words(tuple(characters))
            return Characters(BYTES if characters is None else tuple(characters), unit)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"characters {source}", error, "give the characters.json of a run"
            ) from error

    def save(self, path: Path) -> None:
        """Write the vocabulary to `path` as JSON. If writing fails, an existing file at
        `path` is not changed.
        """
        write_atomically(path, self.to_json())

    @staticmethod
    def load(path: Path) -> "Characters":
        """Load a vocabulary from a file that `save` has written. `InputError` is raised
        if the file is absent or damaged.
        """
        return Characters.from_json(read_input(path), path)


@frozen
class Words(Characters):
    """Vocabulary of words, which are separated by white space. The words 0 and 1 are
    `<unk>`, for all others, and `<eos>`, a line's end.
    """

    unit: Token = "word"

    def __post_init__(self):
        words = self.characters
        plain = all(isinstance(word, str) and word.split() == [word] for word in words)
        require(
            plain
            and words[:2] == (UNKNOWN, LINE_END)
            and len(set(words)) == len(words),
            "words",
            ascii(words[:SHOWN]),
            "give each once",
        )

    def encode(self, text: str | bytes) -> ndarray:
        """Return the ids (T,) of a text of T words, of which each line end is one;
        words outside the vocabulary are `<unk>`.
        """
        if isinstance(text, bytes):
            raise InputError(
                "text", text[:20], "give words: these ids are not of bytes"
            )
        return self.encode_by(text, self.char_to_id.get, self.dtype)

    @staticmethod
    def encode_by(
        text: str, find: Callable[..., int | None], dtype: Any = np.int32
    ) -> ndarray:
        """Return the ids of the words of a text, found by the function `find`, with id
        0 for None.
        """
        parts = (
            np.fromiter(
                (
                    find(word) or 0
                    for word in block.replace("\n", f" {LINE_END} ").split()
                ),
                dtype,
            )
            for block in blocks(text)
        )
        return np.concatenate([np.zeros(0, dtype), *parts])

    def unknown(self, text: str) -> Texts:
        """Return no words, since every word can be encoded."""
        return ()

    def pieces(
        self, ids: Iterable[int] | ndarray, after: int | None = None
    ) -> list[str]:
        found, begins = [], after in (None, 1)
        for identity in self._checked(ids).tolist():
            found.append(
                "\n"
                if identity == 1
                else self.characters[identity]
                if begins
                else f" {self.characters[identity]}"
            )
            begins = identity == 1
        return found


def shown(characters: Texts) -> str:
    """Return characters as a text for an error message, such as "'a', 'b', 'c', 'd',
    'e' and 2 more".
    """
    more = len(characters) - SHOWN
    return ", ".join(map(repr, characters[:SHOWN])) + (
        f" and {more} more" if more > 0 else ""
    )
