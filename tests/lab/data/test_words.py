"""Tests of the vocabulary of words and of corpora of words."""

import numpy as np
import pytest

from lstm_jax.base.errors import InputError
from lstm_jax.lab.generation.config import (
    GenerationConfig,
    GenerationModelConfig,
    TextConfig,
)
from lstm_jax.lab.generation.data import Words, prepare_corpus
from lstm_jax.lab.generation.data.characters import Characters

LINES = "the cat sat\n\nthe dog sat on the mat\n"


def corpus(tmp_path, text: str, **options):
    (tmp_path / "text.txt").write_text(text)
    given = {"recipe": "none", "unit": "word", "validation": 0.0, "length": 2} | options
    return prepare_corpus(tmp_path / "text.txt", **given)


def test_each_line_ends_with_eos(tmp_path):
    found = corpus(tmp_path, "b a a\n\n<unk> a c")
    # the most frequent words first; an empty line is a line; the last line ends, too
    assert found.characters == Words(("<unk>", "<eos>", "a", "b", "c"))
    assert found.train.tolist() == [3, 2, 2, 1, 1, 0, 2, 4, 1]
    assert found.train.dtype == np.uint8
    assert found.characters.decode(found.train) == "b a a\n\n<unk> a c\n"


def test_words_that_occur_once_are_unknown(tmp_path):
    found = corpus(tmp_path, LINES)
    assert found.characters.characters == ("<unk>", "<eos>", "the", "sat")
    assert (
        found.characters.decode(found.train)
        == "the <unk> sat\n\nthe <unk> sat <unk> the <unk>\n"
    )
    assert found.notes == ("<unk> is 33.3% of the training part",)
    assert corpus(tmp_path, f"{LINES} <unk>").characters.size == 8


def test_the_vocabulary_has_a_size(tmp_path):
    found = corpus(tmp_path, "a a a b b b b c c\n" * 2, num_words=4)
    assert found.characters.characters == ("<unk>", "<eos>", "b", "a")
    assert found.train.tolist() == [3, 3, 3, 2, 2, 2, 2, 0, 0, 1] * 2


def test_held_out_text_has_no_words_of_its_own(tmp_path):
    text = "a b a b a b a b\n" + "a new\n"
    assert corpus(tmp_path, text, validation=0.25, length=1).validation.tolist() == [
        2,
        0,
        1,
    ]
    assert corpus(
        tmp_path, text, validation=0.25, length=1, unseen="drop"
    ).validation.tolist() == [2, 1]
    with pytest.raises(
        InputError, match="words that only the validation part has: 'new'"
    ):
        corpus(tmp_path, text, validation=0.25, length=1, unseen="error")


def test_held_out_files(tmp_path):
    (tmp_path / "held.txt").write_text("b a new b")
    held = {"validation_paths": tmp_path / "held.txt", "validation": 0.1}
    words = corpus(tmp_path, "a b a b a\n", **held)
    assert (words.train.tolist(), words.validation.tolist()) == (
        [2, 3, 2, 3, 2, 1],
        [3, 2, 0, 3, 1],
    )
    characters = corpus(tmp_path, "a b a b a\n", unit="character", **held)
    assert characters.characters.decode(characters.train) == "a b a b a\n"
    assert characters.characters.decode(characters.validation) == "b a new b"
    (tmp_path / "held.txt").write_text("\n")
    with pytest.raises(
        InputError, match="validation part: 1 words; a window and its next word need 3"
    ):
        corpus(tmp_path, "a b a b a\n", **held)


def test_articles(tmp_path):
    (tmp_path / "a.csv").write_text('text\na b\nb a\n"a\nb b"\na b\n')
    found = prepare_corpus(
        tmp_path / "a.csv", recipe="none", unit="word", validation=0.4, length=1
    )
    assert (found.train.tolist(), found.train_starts.tolist()) == (
        [2, 3, 1, 3, 2, 1, 2, 1],
        [0, 3, 6],
    )
    # the last article is a copy of the first one
    assert (
        found.validation.tolist(),
        found.validation_starts.tolist(),
        found.copies,
    ) == ([3, 3, 1], [0], 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("word", "training part: 2 words; a window and its next word need 3"),
        ("word " * 50, "only 'word', 46 times"),
        ("\n" * 50, "only '<eos>', 50 times"),
        (
            "今日は良い天気です。\n明日は雨が降るでしょう。\n昨日は曇りでした。\n",
            "3 of 3 words occur once; give a longer text or, if",
        ),
    ],
)
def test_texts_that_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        corpus(tmp_path, text, validation=0.1 if text.startswith("word ") else 0.0)


def test_the_file_of_a_vocabulary(tmp_path):
    words = Words(("<unk>", "<eos>", "é", "the"))
    words.save(tmp_path / "characters.json")
    assert Characters.load(tmp_path / "characters.json") == words
    for wrong in (
        '["a"]',
        '["<unk>", "<eos>", "a b"]',
        '["<unk>", "<eos>", "a", "a"]',
        "3",
    ):
        with pytest.raises(InputError, match="characters"):
            Characters.from_json(
                f'{{"format": 1, "unit": "word", "characters": {wrong}}}'.encode()
            )


def test_encode_and_decode():
    words = Words(("<unk>", "<eos>", "a", "b"))
    assert words.encode("a  zebra\nb \n").tolist() == [2, 0, 1, 3, 1]
    assert words.encode("").tolist() == []
    assert words.decode([2, 3, 1, 2]) == "a b\na"
    assert (words.decode([3, 2], after=2), words.decode([3, 2], after=1)) == (
        " b a",
        "b a",
    )
    assert words.pieces([2, 0, 1, 3]) == ["a", " <unk>", "\n", "b"]
    with pytest.raises(InputError, match="word id: 4"):
        words.decode([4])
    with pytest.raises(InputError, match="give words"):
        words.encode(b"a")


def test_configs_that_are_refused():
    with pytest.raises(InputError, match="embed: 0; words need an embedding"):
        GenerationConfig(TextConfig(unit="word"))
    for wrong in ({"unit": "word"}, {"validation_data": ("a.txt",)}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            TextConfig(data=("folder",), input="stream", **wrong)
    assert (
        GenerationConfig(
            TextConfig(unit="word"), GenerationModelConfig(embed=2)
        ).data.num_words
        == 20_000
    )
