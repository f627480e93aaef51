"""Sentiment runs, from files of reviews to predictions, compared with values computed
in NumPy and with Keras.
"""

import json
import shutil

import numpy as np
import numpy_lstm
import pytest
from made_runs import small_config, write_jsonl_with_movies

from lstm_jax.base.errors import InputError
from lstm_jax.lab import task as base
from lstm_jax.lab.runs.folder import environment
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sweep import override
from lstm_jax.training.parts import functional


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """Train a run, and return (folder, config, result of `sentiment.train`)."""
    folder = tmp_path_factory.mktemp("sentiment") / "run"
    return folder, small, sentiment.train(small, folder)


@pytest.fixture(scope="module")
def trained(run):
    return sentiment.load(run[0])


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_load_and_evaluate_agree_with_the_last_row(run, trained):
    _, config, result = run
    assert trained.config == config
    assert trained.notes == ()
    found = sentiment.evaluate(trained)
    assert found.count == 80
    assert found.accuracy == result.rows[-1]["test_accuracy"]
    assert found.loss == pytest.approx(result.rows[-1]["test_loss"], rel=1e-6)
    assert sentiment.evaluate(trained, split="train").count == 240
    with pytest.raises(InputError, match=r"^split: validation; "):
        sentiment.evaluate(trained, split="validation")
    for name, array in result.params.items():
        assert np.asarray(array).tobytes() == trained.params[name].tobytes()


def by_hand(trained, text):
    """Return the probability that a review is positive, computed in float64 from the
    equations of embedding, LSTM and head.
    """
    words = text.lower()
    for sign in b'!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n':
        words = words.replace(bytes([sign]), b" ")
    index = trained.vocabulary.index
    ids = [1] + [
        index.get(word.decode("utf-8", "surrogateescape"), 2)
        for word in words.split(b" ")
        if word
    ]
    ids = [0] * (20 - len(ids)) + ids[-20:]
    return numpy_lstm.probabilities(trained.params, np.asarray([ids])).item()


TEXTS = [
    b"the film was good",
    b"The FILM was, well: not good!",
    b"",
    b"nonsense quux",
    b"bad\x00nul \xff\xfe bytes",
    b"the plot was dull . " * 20,
    "ünï \u2028 film".encode(),
]


def test_probabilities_by_hand(trained):
    found = trained.probabilities(TEXTS)
    assert found.dtype == np.float64
    assert found == pytest.approx([by_hand(trained, text) for text in TEXTS], abs=1e-6)
    assert found.std() > 1e-4
    as_text = trained.probabilities(
        [text.decode("utf-8", "surrogateescape") for text in TEXTS]
    )
    assert as_text.tolist() == found.tolist()
    assert trained.probabilities([]).shape == (0,)


def test_another_machine_is_refused_unless_allowed(run, tmp_path, monkeypatch):
    folder = shutil.copytree(run[0], tmp_path / "copy")
    before = contents(folder)
    first = json.loads((folder / "environment.json").read_text())
    monkeypatch.setattr(
        base,
        "environment",
        lambda mesh: {**environment(mesh), "cores": 3, "xla_flags": "--xla_x"},
    )
    said = (
        rf"^machine of run {folder}: .*; xla flags .*, now --xla_x; cores "
        rf"{first['cores']}, now 3: .*--allow-other-machine"
    )
    with pytest.raises(InputError, match=said):
        sentiment.train(run[1], folder, resume=True, figures=False)
    assert contents(folder) == before
    sentiment.train(
        run[1], folder, resume=True, allow_other_machine=True, figures=False
    )
    found = json.loads((folder / "environment.json").read_text())
    assert {name: found[name] for name in first} == first
    assert [row["cores"] for row in found["resumed"]] == [3]
    # this machine is now the last one of the run
    sentiment.train(run[1], folder, resume=True, figures=False)
    assert json.loads((folder / "environment.json").read_text()) == found


@pytest.fixture
def with_movies(tmp_path):
    write_jsonl_with_movies(tmp_path / "movies.jsonl")
    config = small_config(
        tmp_path / "movies.jsonl", tmp_path / "cache", patience=1, epochs=3
    )
    return override(config, {"data.validation": 0.25})


def test_validation_shares_no_movie_and_decides_the_best_epoch(with_movies, tmp_path):
    reviews = sentiment.encoded_reviews(with_movies)
    splits = sentiment.padded_rows(reviews, with_movies)
    assert splits.validation is not None
    assert splits.test is None
    assert (len(splits.train.labels), len(splits.validation.labels)) == (150, 50)
    movie_ids = {
        identity
        for word, identity in reviews.vocabulary.index.items()
        if word.startswith("movie")
    }
    seen, held = (
        movie_ids & set(part.ids.ravel().tolist())
        for part in (splits.train, splits.validation)
    )
    assert not seen & held
    assert len(seen | held) == 40
    assert splits.validation.labels.mean() == pytest.approx(0.5, abs=0.1)

    result = sentiment.train(with_movies, tmp_path / "run", figures=False)
    losses = [row["validation_loss"] for row in result.rows]
    assert result.best_epoch == 1 + int(np.argmin(losses))
    found = sentiment.evaluate(sentiment.load(tmp_path / "run"), split="validation")
    assert found.accuracy == result.rows[result.best_epoch - 1]["validation_accuracy"]
    assert found.loss == pytest.approx(min(losses), rel=1e-6)


def test_one_feature_is_enough_to_train(run, trained, tmp_path):
    """`draw_figures` leaves out the map of the words in the plane if the embedding has
    one feature. `WordSpace.draw` raises an error.
    """
    table = trained.params["embedding/embedding"][:, :1]
    sentiment.draw_figures(trained.run, {"embedding/embedding": table}, None, "")
    for words, message in (
        (400, "give at least 2 rows of at least 2 features"),
        (-1, "^words on a map: -1; "),
    ):
        with pytest.raises(InputError, match=message):
            sentiment.WordSpace(trained.run, trained.vocabulary, table).draw(
                tmp_path / "map.png", words
            )


def test_initial_parameters_take_the_place_of_drawn_ones(run, tmp_path):
    """A run starts from given initial parameters and draws the others. A wrong name or
    shape is refused before a folder is made.
    """
    _, config, result = run
    given = {
        "embedding/embedding": np.asarray(result.params["embedding/embedding"]) + 1
    }
    still = override(config, {"train.epochs": 1, "train.learning_rate": 1e-9})
    after = sentiment.train(
        still, tmp_path / "run", initial=given, figures=False
    ).params
    np.testing.assert_allclose(
        after["embedding/embedding"], given["embedding/embedding"], rtol=1e-6
    )
    drawn = functional(
        sentiment.make_model(still, len(given["embedding/embedding"]))
    ).params
    np.testing.assert_allclose(
        after["head/kernel"], drawn["head/kernel"], rtol=0, atol=1e-6
    )
    with pytest.raises(InputError, match=r"; give shape \(1,\)$"):
        sentiment.train(
            still, tmp_path / "odd", initial={"head/bias": np.zeros(3)}, figures=False
        )
    assert not (tmp_path / "odd").exists()
    for name, value in (("vocabulary", "keras"), ("num_words", 77)):
        with pytest.raises(
            InputError, match=f"^{name} of the config: {value}; the reviews have "
        ):
            sentiment.train(
                override(still, {f"data.{name}": value}),
                tmp_path / "odd",
                data=sentiment.encoded_reviews(still),
            )
