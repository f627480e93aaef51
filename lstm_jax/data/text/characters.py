"""The bag of characters with its two maps. A character is a Unicode code point; or a byte, where that is the unit."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lstm_jax.errors import InputError, require
from lstm_jax.files.reading import read_input
from lstm_jax.files.writing import write_atomically

Unit = Literal["character", "byte"]

CODE_POINTS = 0x110000
BYTES = tuple(map(chr, range(256)))
SHOWN = 5  # unknown characters in an error
_BLOCK = 1 << 20
_FORMAT = 1


@dataclass(frozen=True)
class Characters:
    """The distinct characters of a corpus; a character's id is its place among them.

    With unit "byte" there are always 256, whatever the corpus holds, and id k is the byte k: every text can be encoded.
    """

    characters: tuple[str, ...]
    """Sorted by code point. With unit "byte": chr(0) to chr(255), each standing for that byte."""
    unit: Unit = "character"

    def __post_init__(self):
        require(self.unit in ("character", "byte"), "unit", self.unit, "give 'character' or 'byte'")
        if self.unit == "byte":
            require(self.characters == BYTES, "characters", f"{len(self.characters)} of them", "there are 256 bytes: use all_bytes()")
        good = all(len(one) == 1 and not "\ud800" <= one <= "\udfff" for one in self.characters)
        ordered = all(one < other for one, other in zip(self.characters, self.characters[1:], strict=False))
        require(good and ordered, "characters", ascii(self.characters), "give single characters, each once, sorted")

    @staticmethod
    def of(text: str) -> "Characters":
        """The distinct characters of a text.

        Raises:
            InputError: for lone surrogates, which no UTF-8 file holds.
        """
        seen = np.zeros(CODE_POINTS, bool)
        for _, codes in _code_points(text):
            seen[codes] = True
        return Characters(tuple(map(chr, np.flatnonzero(seen).tolist())))

    @staticmethod
    def all_bytes() -> "Characters":
        """The 256 bytes."""
        return Characters(BYTES, "byte")

    @property
    def size(self) -> int:
        """How many there are: ids are 0 to size - 1."""
        return len(self.characters)

    @property
    def dtype(self) -> np.dtype:
        """The smallest of uint8, uint16 and int32 that holds every id."""
        return np.dtype(np.uint8 if self.size <= 1 << 8 else np.uint16 if self.size <= 1 << 16 else np.int32)

    @cached_property
    def char_to_id(self) -> dict[str, int]:
        """Character -> id."""
        return {character: identity for identity, character in enumerate(self.characters)}

    @cached_property
    def id_to_char(self) -> dict[int, str]:
        """Id -> character."""
        return dict(enumerate(self.characters))

    @cached_property
    def _id_of_code(self) -> np.ndarray:
        """(highest code point + 2,) int32: id by code point; -1 for none, the last entry too."""
        table = np.full(max(map(ord, self.characters), default=-1) + 2, -1, np.int32)
        table[[ord(character) for character in self.characters]] = np.arange(self.size)
        return table

    def encode(self, text: str | bytes) -> np.ndarray:
        """(T,) ids of a text, of type `dtype`.

        Args:
            text: characters; with unit "byte" also bytes, and a str stands for its UTF-8 bytes.

        Raises:
            InputError: naming characters that are not in the bag, up to five; for bytes where the unit is the character.
        """
        if self.unit == "byte":
            return np.frombuffer(text if isinstance(text, bytes) else _utf8(text), np.uint8)
        if isinstance(text, bytes):
            raise InputError("text", text[:20], "give characters: these ids are not of bytes")
        ids = np.empty(len(text), self.dtype)
        for start, codes in _code_points(text):
            found = self._ids(codes)
            if found.min() < 0:
                raise InputError("unknown characters", shown(self.unknown(text)), "leave them out, or train on a text that has them")
            ids[start : start + len(codes)] = found
        return ids

    def unknown(self, text: str) -> tuple[str, ...]:
        """The distinct characters of a text that are not in the bag, in the order in which they first appear."""
        missing: dict[str, None] = {}
        if self.unit == "character":
            for _, codes in _code_points(text):
                values, first = np.unique(codes[self._ids(codes) < 0], return_index=True)
                missing |= dict.fromkeys(map(chr, values[np.argsort(first)].tolist()))
        return tuple(missing)

    def _ids(self, codes: np.ndarray) -> np.ndarray:
        return self._id_of_code[np.minimum(codes, len(self._id_of_code) - 1)]

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text of (T,) ids; with unit "byte" U+FFFD stands for what is not UTF-8.

        Raises:
            InputError: if an id is none, or these are not integers in a row.
        """
        if self.unit == "byte":
            return self.decode_bytes(ids).decode(errors="replace")
        codes = np.asarray([ord(character) for character in self.characters], "<u4")
        return codes[self._checked(ids)].tobytes().decode("utf-32-le")

    def decode_bytes(self, ids: Iterable[int] | np.ndarray) -> bytes:
        """The bytes of (T,) ids: with unit "byte" exactly those that were encoded, else the text as UTF-8.

        Raises:
            InputError: as `decode`.
        """
        return self._checked(ids).astype(np.uint8).tobytes() if self.unit == "byte" else self.decode(ids).encode()

    def _checked(self, ids: Iterable[int] | np.ndarray) -> np.ndarray:
        array = np.asarray(ids if hasattr(ids, "__array__") else list(ids))
        if array.ndim == 1 and array.size == 0:
            return np.zeros(0, np.int64)
        require(array.ndim == 1 and array.dtype.kind in "iu", "ids", f"{array.dtype} {array.shape}", "give (T,) integers")
        wrong = array[(array < 0) | (array >= self.size)]
        require(wrong.size == 0, "character id", wrong[0] if wrong.size else "", f"ids are 0 to {self.size - 1}")
        return array

    def to_json(self) -> bytes:
        """ASCII JSON that `from_json` reads."""
        characters = "".join(self.characters) if self.unit == "character" else None
        return json.dumps({"format": _FORMAT, "unit": self.unit, "characters": characters}).encode()

    @staticmethod
    def from_json(content: bytes, source: object = "characters") -> "Characters":
        """Read back what `to_json` wrote.

        Raises:
            InputError: naming `source`, if this is anything else.
        """
        try:
            raw: Any = json.loads(content)
            unit, characters = raw["unit"], raw["characters"]
            if raw["format"] != _FORMAT or not isinstance(characters, str if unit == "character" else type(None)):
                raise ValueError("a format this version does not know")
            return Characters(BYTES if characters is None else tuple(characters), unit)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"characters {source}", error, "give the characters.json of a run") from error

    def save(self, path: Path) -> None:
        """Write JSON to `path`, whole or not at all.

        Raises:
            InputError: if it cannot be written.
        """
        write_atomically(path, self.to_json())

    @staticmethod
    def load(path: Path) -> "Characters":
        """Read what `save` wrote.

        Raises:
            InputError: if the file is absent or damaged.
        """
        return Characters.from_json(read_input(path), path)


def shown(characters: tuple[str, ...]) -> str:
    """Up to `SHOWN` characters for an error's line, and how many more there are."""
    more = len(characters) - SHOWN
    return ", ".join(map(repr, characters[:SHOWN])) + (f" and {more} more" if more > 0 else "")


def _code_points(text: str) -> Iterator[tuple[int, np.ndarray]]:
    """Where a block of the text begins, and its code points: four bytes a character for one block, not for the text."""
    for start in range(0, len(text), _BLOCK):
        yield start, np.frombuffer(text[start : start + _BLOCK].encode("utf-32-le", "surrogatepass"), "<u4")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError("text", error, "give valid Unicode") from error
