"""Figures and pages of a run with `article_resets`: the state of the model is zero at
the beginning of each article.

The metrics of the run are computed with the same resets.
"""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from made_texts import nats_by_hand, read, small_config

from lstm_jax.base.errors import InputError
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.inspection.pages import Request, make_window
from lstm_jax.lab.inspection.text_map import most_active

ARTICLES = (
    "an old house stood on the hill. ",
    "the sea was calm, the sky was clear! ",
    "who goes there? nobody. ",
)
UNITS = 3


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("articles")
    for n in range(12):
        # a copy of another article would be left out
        (folder / f"{n:02}.txt").write_text(ARTICLES[n % 3] * 2 + "x" * n)
    return folder


def train(texts, folder):
    generation.train(
        small_config(
            texts, "stream", {"sample_chars": 0}, article_resets=True, validation=0.5
        ),
        folder,
    )
    return generation.load(folder)


@pytest.fixture(scope="module")
def trained(texts, tmp_path_factory):
    return train(texts, tmp_path_factory.mktemp("run") / "run")


def bits_by_hand(trained, ids, starts):
    """Return the negative log-probability, in bits, of each of the characters 1 to N -
    1.

    The model begins each article with a zero state. The first character of an article
    is predicted from the article before it.
    """
    borders = [*starts, len(ids)]
    parts = [
        nats_by_hand(trained.params, ids[a : b + 1], None) for a, b in pairwise(borders)
    ]
    return np.concatenate(parts) / np.log(2)


def outputs_by_hand(trained, ids, starts):
    return np.concatenate(
        [read(trained.params, ids[a:b])[0] for a, b in pairwise([*starts, len(ids)])]
    )


def test_figures_of_a_run(trained):
    """The pages that a training draws show bits and activations of the held-out text
    that are computed with resets.

    The mean number of bits on the page surprise.html is the metric `validation_bits` in
    result.json.
    """
    corpus = generation.load_corpus(trained.config)
    ids, starts = corpus.validation, corpus.validation_starts
    drawn = (trained.run.figures / "surprise.html").read_text()
    shown = float(re.findall(r"([0-9.]+) bits a character", drawn)[0])
    # the page has three decimals
    assert shown == pytest.approx(bits_by_hand(trained, ids, starts).mean(), abs=6e-4)
    assert abs(trained.score(ids).metrics()["bits"] - shown) > 2e-3
    assert shown == round(
        json.loads(trained.run.result.read_text())["validation_bits"], 3
    )
    outputs = outputs_by_hand(trained, ids, starts)
    np.testing.assert_allclose(
        trained.activations(ids, starts), outputs, rtol=0, atol=1e-5
    )
    units = re.findall(
        r"<h2>unit (\d+)</h2>", (trained.run.figures / "units.html").read_text()
    )
    assert list(map(int, units)) == most_active(outputs, generation.UNITS)


def test_files(trained, texts, ask):
    """The commands `score` and `inspect` also reset the state at the beginning of each
    article in files that the user gives.
    """
    # the cleaning removes spaces at both ends
    lengths = [len(path.read_text().strip()) for path in sorted(texts.iterdir())]
    starts = np.cumsum([0, *(length + 1 for length in lengths)])[:-1]
    found = trained.read_text([str(texts)], clean=True)
    np.testing.assert_array_equal(found.starts, starts)
    assert len(found.ids) == sum(lengths) + len(lengths) - 1
    code, shown = ask("score", texts, "--run", trained.run.path, "--clean", "--json")[
        :2
    ]
    assert code == 0
    assert json.loads(shown)["bits"] == pytest.approx(
        bits_by_hand(trained, found.ids, starts).mean(), abs=1e-5
    )
    cut = trained.read_text([str(texts)], clean=True, most=int(starts[2]) + 1)
    np.testing.assert_array_equal(cut.starts, starts[:3])
    both = texts.parent / "both.json"
    both.write_text(
        json.dumps(
            [{"text": "who goes there? "}, {"text": "an old house stood on the hill. "}]
        )
    )
    (window,) = make_window(trained, Request(file=both)).examples
    assert not window.frames[0].norms[-1][: len("who goes there? ")].any()


def test_other_boundaries_are_other_data(texts, tmp_path):
    """The data of a run are refused if their text is the same as before, but is divided
    into other articles.
    """
    own = Path(shutil.copytree(texts, tmp_path / "texts"))
    trained = train(own, tmp_path / "run")
    trained.read_text()
    first, second = own / "00.txt", own / "01.txt"
    first.write_text(f"{first.read_text().strip()} {second.read_text().strip()}")
    second.unlink()
    with pytest.raises(InputError, match="changed since the run began"):
        trained.read_text()


def test_inspect(trained):
    """For its examples, `inspect` chooses pieces of the held-out text by their bits,
    which are computed with resets.

    Within a piece, the state is reset at the beginning of each article, too.
    """
    corpus = generation.load_corpus(trained.config)
    ids, starts, size = corpus.validation, corpus.validation_starts, 60
    window = make_window(trained, Request(examples=20, chars=size))
    assert window.about.endswith(
        "At the beginning of each article, the state is replaced by zeros."
    )
    bits, within = bits_by_hand(trained, ids, starts), 0
    for example in window.examples:
        begin, mean = re.findall(r"from character (\d+), ([0-9.]+) bits", example.name)[
            0
        ]
        part = ids[int(begin) : int(begin) + size + 1]
        assert float(mean) == pytest.approx(
            bits[int(begin) : int(begin) + size].mean(), abs=0.006
        )
        inner = starts[(starts > int(begin)) & (starts < int(begin) + size)] - int(
            begin
        )
        within += len(inner)
        (found,) = example.frames
        borders = np.array([0, *inner])
        np.testing.assert_allclose(
            found.curve.values, bits_by_hand(trained, part, borders), rtol=0, atol=1e-4
        )
        np.testing.assert_allclose(
            found.layers[0].arrays["h"],
            outputs_by_hand(trained, part[:-1], borders),
            rtol=0,
            atol=1e-5,
        )
        # what is read after the beginning of an article does not depend on what is read
        # before it
        for start in inner:
            assert not found.norms[start:, :start].any()
    assert within > 2
    (given,) = make_window(
        trained, Request(texts=("who goes there? an old house",))
    ).examples
    assert given.frames[0].norms[-1].all()
