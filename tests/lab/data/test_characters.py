"""`Characters`: the maps between characters and ids, encoding and decoding, JSON files,
and errors for invalid input.
"""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from refused import refused

from lstm_jax.lab.generation.data import Characters, characters

ABC = Characters(("\n", " ", "a", "b", "é", "😀"))
TEXTS = st.text(max_size=60)


@pytest.fixture(params=[3, 1 << 20], ids="block{}".format, scope="module")
def block(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(characters, "_BLOCK", request.param)
        yield request.param


@given(TEXTS)
def test_maps_are_those_of_the_keras_example(block, text):
    bag = Characters.of(text)
    assert bag.characters == tuple(sorted(set(text)))
    assert bag.char_to_id == {
        character: number for number, character in enumerate(sorted(set(text)))
    }
    ids = bag.encode(text)
    assert ids.dtype == bag.dtype
    assert ids.tolist() == [bag.char_to_id[character] for character in text]
    assert bag.decode(ids) == bag.decode(ids.tolist()) == text
    assert bag.decode_bytes(ids) == text.encode()
    assert bag.unknown(text) == ()


@given(TEXTS, TEXTS)
def test_unknown(block, known, text):
    bag = Characters.of(known)
    missing = tuple(
        dict.fromkeys(character for character in text if character not in known)
    )
    assert bag.unknown(text) == missing
    if missing:
        refused(
            r"unknown characters: .*; leave them out, or train on a text that has them",
            bag.encode,
            text,
        )


@given(st.binary(max_size=60))
def test_bytes(raw):
    bag = Characters.all_bytes()
    ids = bag.encode(raw)
    assert (bag.size, ids.dtype, ids.tolist()) == (256, np.uint8, list(raw))
    assert bag.decode_bytes(ids) == raw
    assert bag.decode(ids) == raw.decode(errors="replace")
    assert bag.encode("é").tolist() == [0xC3, 0xA9]
    assert bag.unknown("é😀") == ()


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (2, np.uint8),
        (256, np.uint8),
        (257, np.uint16),
        (65_536, np.uint16),
        (65_537, np.int32),
    ],
)
def test_smallest_type(size, dtype):
    text = "".join(chr(0xE000 + number) for number in range(size))
    ids = Characters.of(text).encode(text)
    assert_array_equal(ids, np.arange(size, dtype=dtype), strict=True)


@pytest.mark.parametrize(
    ("found", "call", "argument"),
    [
        (
            r"unknown characters: 'z', 'É', '\\t', 'c', 'd' and 2 more;",
            ABC.encode,
            "azÉ\ta zcdef",
        ),
        ("text: .*give characters", ABC.encode, b"a"),
        ("text: .*valid Unicode", Characters.all_bytes().encode, "\ud800"),
        ("characters: ", Characters.of, "a\ud800"),
        *(
            ("character id: (6|-1|300); ids are 0 to 5", ABC.decode, ids)
            for ids in ([0, 6], [-1], np.asarray([300]))
        ),
        *(
            ("ids: ", ABC.decode, ids)
            for ids in (np.zeros(1), np.zeros((2, 2), np.int32), np.asarray(3))
        ),
        *(
            ("characters: ", Characters, bag)
            for bag in (("b", "a"), ("a", "a"), ("ab",), ("",), ("\udc00",))
        ),
    ],
)
def test_refused(found, call, argument):
    refused(f"^{found}", call, argument)


def test_bytes_that_are_not_all():
    refused("^characters: 1 of them; there are 256 bytes", Characters, ("a",), "byte")


def test_json(tmp_path):
    path = tmp_path / "run" / "characters.json"
    for bag in (
        ABC,
        Characters(()),
        Characters.all_bytes(),
        Characters.of("\x00\u2028\ufeff\U0010ffff"),
    ):
        assert bag.to_json().isascii()
        bag.save(path)
        assert Characters.load(path) == bag
    changes = (
        {"format": 2},
        {"unit": "word"},
        {"characters": None},
        {"characters": ["a"]},
        {"characters": "aa"},
        {"characters": "\ud800"},
    )
    damaged = [
        json.dumps(json.loads(ABC.to_json()) | change).encode() for change in changes
    ]
    for content in (*damaged, ABC.to_json()[:-3], b"[]", b"{}", b"\xff", b""):
        path.write_bytes(content)
        refused(r"^characters .*characters\.json: .*of a run", Characters.load, path)
    path.unlink()
    refused("No such file", Characters.load, path)
    assert ABC.decode([]) == ABC.decode(np.zeros(0)) == ""
