"""HTML pages that show what the model of a trained run computes, at its best epoch or
at several epochs whose parameters are kept.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import made_texts
import numpy as np
import pytest
from made_runs import write_series
from scipy.special import expit

from lstm_jax.base.errors import InputError
from lstm_jax.lab.forecast import task as forecast
from lstm_jax.lab.forecast.config import (
    ForecastConfig,
    ForecastModelConfig,
    SeriesConfig,
)
from lstm_jax.lab.forecast.page import SeriesNetwork
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.inspection.common import kept_epochs
from lstm_jax.lab.inspection.pages import Request, make_window
from lstm_jax.lab.inspection.window import page
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sentiment.page import ReviewNetwork
from lstm_jax.lab.sweep import override
from lstm_jax.training.config import TrainConfig

TEXT = "what a good film and a bad end"


@pytest.fixture(scope="module")
def reviews(small):
    return override(small, {"train.keep_epochs": True, "train.epochs": 3})


@pytest.fixture(scope="module")
def run(reviews, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentiment") / "run"
    sentiment.train(reviews, folder, figures=False)
    return sentiment.load(folder)


def logit(trained, text):
    p = trained.probabilities([text])[0]
    return float(np.log(p / (1 - p)))


@pytest.mark.slow
def test_each_epoch_is_kept(run):
    epochs = kept_epochs(run, 9)
    assert epochs.numbers == (1, 2, 3)
    assert epochs.shown == 2  # without a validation part the last epoch is the best one
    for name, array in run.params.items():
        np.testing.assert_array_equal(epochs.params[2][name], array)
    assert any(
        (epochs.params[0][name] != epochs.params[1][name]).any() for name in run.params
    )
    two = kept_epochs(run, 2)
    assert (two.numbers, two.shown) == ((1, 3), 1)


def test_a_review(run):
    window = make_window(run, Request(texts=(TEXT,)))
    (example,) = window.examples
    words = run.vocabulary.encode(TEXT)
    assert list(example.steps) == [run.vocabulary.word(int(i)) for i in words]
    found = example.frames[window.shown]
    whole = logit(run, TEXT)
    assert f"{expit(whole):.4f}" in found.verdict
    assert found.curve.values[-1] == pytest.approx(
        run.probabilities([TEXT])[0], abs=1e-5
    )
    layer = found.layers[0].arrays
    assert list(layer) == ["input", "forget", "candidate", "output", "c", "h"]
    kernel, bias = (
        np.asarray(run.params[f"head/{name}"], np.float64)
        for name in ("kernel", "bias")
    )
    np.testing.assert_allclose(
        found.curve.values, expit(layer["h"] @ kernel[:, 0] + bias), atol=1e-5
    )
    shares, without = (np.asarray(strip.values) for strip in found.strips)
    blank = run.rebuild(kept_epochs(run, 1).params[0])(
        jnp.zeros((1, 20), jnp.int32), vectors=jnp.zeros((20, 1, 8)), deterministic=True
    )
    pads = float(found.strips[0].about.split("padding has ")[1].split(";")[0])
    assert shares.sum() + pads == pytest.approx(whole - float(blank[0]), abs=2e-3)
    for n, word in enumerate(TEXT.split()):  # step 0 is the id that starts every review
        rest = TEXT.split()[:n] + TEXT.split()[n + 1 :]
        assert without[n + 1] == pytest.approx(
            whole - logit(run, " ".join(rest)), abs=2e-4
        ), word
    assert found.each_step
    assert len(found.reach) == len(words)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "subject"),
    [
        (lambda run: run.logits([[1, 2**32 + 5]]), "ids: "),
        (lambda run: run.probabilities(["good", 3]), "text: 3; "),
        (lambda run: run.probabilities(None), "texts: "),
        (lambda run: run.probabilities(TEXT), "texts: "),
        (lambda run: sentiment.evaluate(run, split="tset"), "split: "),
        (lambda run: sentiment.evaluate(run, reviews={"train": ()}), "reviews: "),
        (
            lambda run: make_window(run, Request(file=Path("empty.txt"))),
            "file: empty.txt",
        ),
        (lambda run: make_window(run, Request(file=Path("no.txt"))), ".*no.txt: "),
        (lambda run: make_window(run, Request(unknown=" ")), "unknown: "),
        (lambda run: Request(examples=0), "examples: 0"),
        (lambda run: Request(chars=1), "chars: 1"),
    ],
)
def test_errors(call, subject, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n\n")
    with pytest.raises(InputError, match=f"^{subject}"):
        call(run)


OTHERS: dict[str, dict[str, Any]] = {
    "bidirectional": {"model.bidirectional": True},
    "packed": {"model.pooling": "mean+max", "data.packed": 40},
    "max": {"model.pooling": "max"},
    "mask": {"model.mask_zero": True},
    "post": {"data.padding": "post"},
}


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("change", OTHERS)
def test_other_models_of_reviews(reviews, change, tmp_path):
    config = override(
        reviews, OTHERS[change] | {"train": TrainConfig(epochs=1, batch_size=16)}
    )
    sentiment.train(config, tmp_path / "run", figures=False)
    trained = sentiment.load(tmp_path / "run")
    window = make_window(trained, Request(texts=(TEXT,)))
    ((found,),) = (example.frames for example in window.examples)
    # step 0 is the id that starts every review
    whole, (begun, *rest) = logit(trained, TEXT), TEXT.split()
    assert f"{expit(whole):.4f}" in found.verdict
    assert found.strips[1].values[1] == pytest.approx(
        whole - logit(trained, " ".join(rest)), abs=2e-4
    )
    assert [found.curve.values[n] for n in (1, -1)] == pytest.approx(
        expit([logit(trained, begun), whole]), abs=1e-5
    )
    ends = {"/forward", "/backward"} if change == "bidirectional" else {""}
    assert {layer.name.split(", ")[0] for layer in found.layers} == {
        f"recurrent/layers/0{end}" for end in ends
    }
    assert page(window)


def test_chosen_reviews(run):
    window = make_window(run, Request(examples=1))
    rows = sentiment.padded_rows(sentiment.encoded_reviews(run.config), run.config).test
    logits = run.logits(rows)
    margin = logits * (2 * rows.targets - 1)
    chosen = [
        name.split(": ")
        for name in ReviewNetwork(run).examples(Request(examples=len(logits)))
    ]
    kinds = {
        "surest and right": margin,
        "most wrong": -margin,
        "most torn": 9 - abs(margin),
    }
    for example, (kind, values) in zip(window.examples, kinds.items(), strict=True):
        names = [name for of_kind, name in chosen if of_kind == kind]
        numbers = [int(name.split("review ")[1].split(",")[0]) for name in names]
        assert list(values[numbers]) == sorted(values[values > 0], reverse=True)
        assert example.name == f"{kind}: {names[0]}"
    assert page(window)


@pytest.fixture(scope="module")
def a_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text(made_texts.TEXT)
    config = made_texts.small_config(
        folder / "text.txt", "stream", clean="exact", validation=0.3
    )
    generation.train(config, folder / "run", figures=False)
    return generation.load(folder / "run")


def test_a_text(a_text, tmp_path):
    trained = a_text
    window = make_window(trained, Request(examples=1, chars=40))
    assert [example.name.split(":")[0] for example in window.examples][:2] == [
        "surest",
        "most surprised",
    ]
    (example,) = make_window(trained, Request(texts=("the cat sat",))).examples
    (found,) = example.frames
    assert "".join(example.steps) == "the cat sa"
    ids = trained.encode("the cat sat")
    bits = made_texts.nats_by_hand(trained.params, ids, None) / np.log(2)
    np.testing.assert_allclose(found.curve.values, bits, atol=1e-5)
    np.testing.assert_allclose(found.strips[0].values[1:], bits[:-1], atol=1e-5)
    np.testing.assert_allclose(
        found.layers[0].arrays["h"],
        made_texts.read(trained.params, ids[:-1])[0],
        atol=1e-5,
    )
    p = np.exp(made_texts.log_p_by_hand(trained.params, ids, None))
    assert [character for character, _ in found.likely[3]] == [
        trained.characters.characters[i] for i in np.argsort(-p[3])[:6]
    ]
    np.testing.assert_allclose(
        [q for _, q in found.likely[3]], np.sort(p[3])[::-1][:6], atol=1e-5
    )
    (tmp_path / "plays.csv").write_text(
        "speaker,speech\nA,the cat sat on\u00e9\nB,a dog\n", encoding="utf-8"
    )
    (example,) = make_window(
        trained,
        Request(
            file=tmp_path / "plays.csv", text_column="speech", unknown="e", chars=16
        ),
    ).examples
    assert "".join(example.steps) == "the cat sat one "
    with pytest.raises(InputError, match=r"^text 1: 1 characters"):
        make_window(trained, Request(texts=("a",)))


TIMES = np.arange(160)
VALUES = (
    50 + 10 * np.sin(2 * np.pi * TIMES / 12) + np.random.default_rng(0).normal(size=160)
)


@pytest.fixture(scope="module")
def a_series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    settings = SeriesConfig(
        str(write_series(folder / "series.csv", TIMES, VALUES)), context=6, horizon=3
    )
    forecast.train(
        ForecastConfig(
            settings, ForecastModelConfig(units=8), TrainConfig(epochs=2, batch_size=16)
        ),
        folder / "run",
        figures=False,
    )
    return forecast.load(folder / "run")


@pytest.mark.slow
def test_a_series(a_series, tmp_path):
    trained = a_series
    window = make_window(trained, Request(examples=1))
    assert len(window.examples) >= 2
    assert page(window)
    (example,) = make_window(
        trained, Request(file=write_series(tmp_path / "series.csv", TIMES, VALUES))
    ).examples
    (found,) = example.frames
    assert list(example.steps) == [str(time) for time in TIMES[-6:]]
    np.testing.assert_allclose(found.curve.values, VALUES[-6:], atol=1e-4)
    ahead = trained.ahead(trained.series())
    for name in ("mean", "low", "high"):
        np.testing.assert_allclose(
            found.curve.ahead[name], getattr(ahead, name), rtol=1e-5
        )
    assert "truth" not in found.curve.ahead
    assert found.norms is not None
    assert found.norms.shape == (3, 6)
    with pytest.raises(InputError, match="reads a series: give --file"):
        make_window(trained, Request(texts=("1",)))


@pytest.mark.parametrize(
    ("entries", "want"), [([3], [0]), ([1, 5], [-4, 4]), ([1, 2, 9], [-1, -3, 7])]
)
def test_entries_replaced_by_their_neighbours(entries, want):
    """`replaced` returns, for each entry, the forecast minus the forecast after the
    entry is replaced by the mean of its neighbours.

    The first and the last entry are replaced by their only neighbour, and a single
    entry is not replaced. The network in this test forecasts the sum of the entries.
    """

    class Total(SeriesNetwork):
        def __init__(self):
            self.scale = forecast.Scale(0.0, 1.0)
            self.predict = lambda params, rows, ahead: rows.sum(axis=1)[:, None]

        def mean(self, entries, params, ahead):
            return entries.sum()

    found = Total().replaced(None, jnp.asarray(entries, float)[:, None], jnp.ones(1))
    np.testing.assert_allclose(found, want)


@pytest.mark.slow
def test_the_example_inside_runs(run, a_text, a_series, monkeypatch, capsys):
    """The example finds for each kind of run what the pages show."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "examples"))
    runs = {"--sentiment": run, "--generation": a_text, "--forecast": a_series}
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "inside_runs",
            *(str(word) for flag, own in runs.items() for word in (flag, own.run.path)),
        ],
    )
    import_module("inside_runs").main()
    found = {
        name: float(value)
        for name, value in (
            line.rsplit(": ", 1) for line in capsys.readouterr().out.splitlines()
        )
    }
    rows = sentiment.padded_rows(run.reviews(), run.config).test
    assert found["accuracy, others"] == pytest.approx(
        ((run.logits(rows) > 0) == (rows.labels == 1)).mean(), rel=1e-3
    )
    texts = tuple(
        " ".join(run.vocabulary.word(int(i)) for i in ids if i > 3) for ids in rows.ids
    )
    window = make_window(run, Request(texts=texts, epochs=1))
    assert found["median reach in words"] == np.median(
        [example.frames[0].reach[-1] for example in window.examples]
    )
    assert 0.5 < found["R2 of the position"] <= 1
