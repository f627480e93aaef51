"""Generated texts, encodings, scores and HTML pages of a text-generation run, compared with an LSTM written in NumPy."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_texts import CUT, LENGTH, TEXT, greedy_by_hand, ids_of, small_config

from lstm_jax.data import Characters
from lstm_jax.errors import InputError
from lstm_jax.sampling import Sampler
from lstm_jax.tasks import generation


@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick_compiles) -> generation.Trained:
    root = tmp_path_factory.mktemp("answers")
    (root / "text.txt").write_text(TEXT)
    generation.train(small_config(root / "text.txt", sample={"sample_chars": 0}), root / "run", figures=False)
    return generation.load(root / "run")


@pytest.mark.usefixtures("unchecked")
def test_write(trained):
    prompt, rules = trained.encode("the cat "), trained.rules(0.9)
    key = jax.random.key(5)
    sampler = Sampler(trained.rebuild, trained.characters.size, "window", LENGTH)
    whole = sampler.generate(trained.params, key, jnp.broadcast_to(jnp.asarray(prompt, jnp.int32), (3, 8)), 30, rules)
    pieces = list(trained.write(prompt, 30, rules, seed=5, samples=3))
    assert [piece.shape for piece in pieces] == [(3, 25), (3, 5)]
    assert np.concatenate(pieces, axis=1).tolist() == whole.tolist()
    texts = trained.texts(pieces, 3)
    assert [ids_of(text) for text in texts] == whole.tolist()
    assert len(set(texts)) == 3
    assert trained.texts(trained.write(prompt, 0, rules, samples=2), 2) == ["", ""]
    assert trained.texts(trained.write(prompt, 25, rules, seed=6, samples=3), 3) != [text[:25] for text in texts]


@pytest.mark.parametrize("prompt", ["", "t", "the red house, and t"])
def test_write_goes_on_from_any_prompt(prompt, trained):
    ids, firsts = trained.encode(prompt), []
    for mode, window in (("window", LENGTH), ("carried", None)):
        drawn = np.concatenate(list(trained.write(ids, 12, trained.rules(0.0), mode=mode)), axis=1)[0].tolist()
        assert drawn == greedy_by_hand(trained.params, ids, 12, window)
        firsts.append(drawn[0])
    assert firsts[0] == firsts[1] or len(prompt) > LENGTH


def test_encode(trained):
    assert trained.encode("the cat").tolist() == trained.encode(b"the cat").tolist() == ids_of("the cat")
    assert len(trained.encode("")) == 0
    remedy = r"treat .* \(clean=True, or --clean\), .* \(unknown=' ', or --unknown ' '\)$"
    with pytest.raises(InputError, match=rf"^characters that the run does not know: 'T', 'C', 'é'; {remedy}"):
        trained.encode("The Caté T")
    assert trained.encode("The  Cat\n", clean=True).tolist() == ids_of("the cat")
    assert trained.encode("The Caté", unknown="!").tolist() == ids_of("!he !at!")
    assert trained.encode("The Caté", clean=True, unknown="!").tolist() == ids_of("the cat")


@pytest.mark.usefixtures("unchecked")
def test_ids_of_other_kinds(trained):
    assert trained.score([1, 2, 3]).nats.tolist() == trained.score(np.array([1, 2, 3], np.uint8)).nats.tolist()
    assert len(list(trained.write([], 3, trained.rules()))) == 1


V = len(set(TEXT))
NO_IDS = ("the cat", np.array([1, V]), None)
NOT_WRITTEN = {
    "chars": (-1, 2.5, "3"),
    "samples": (0, 1.5, True),
    "seed": (-1, 2**32, 1.5),
    "mode": (None, "stream"),
    "rules": (None,),
    "prompt": NO_IDS,
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "subject"),
    [
        *((lambda run, ids=ids: run.score(ids), "ids: ") for ids in NO_IDS),
        (lambda run: run.activations([V]), "ids: "),
        (lambda run: run.activations(np.zeros(0, int)), "text: 0 characters"),
        (lambda run: generation.draw_units(run.characters, np.zeros(1, int), np.zeros((1, 8)), Path("x.html"), 0), "count: 0; "),
        (lambda run: run.mode("Carried"), "mode: Carried; "),
        (lambda run: run.score([1, 2], "Carried"), "mode: Carried; "),
        (lambda run: run.encode("the", unknown="#"), "unknown: #; "),
        (lambda run: run.encode(b"the \xff"), r"characters that the run does not know: '\\udcff'"),
        (lambda run: run.read_text(["a.txt"], "the cat"), "text: given with files"),
        (lambda run: run.read_text(most=-1), "chars: -1"),
        *(
            (lambda run, given={name: value}: run.write(**({"prompt": [1], "chars": 3, "rules": run.rules()} | given)), f"{name}: ")
            for name, values in NOT_WRITTEN.items()
            for value in values
        ),
    ],
)
def test_errors(call, subject, trained):
    with pytest.raises(InputError, match=f"^{subject}"):
        call(trained)


def test_the_model_as_a_module(trained):
    """The module `Trained.model` computes the losses of `score`. Each access to `model` returns a new module."""
    model, ids = trained.model, trained.encode("the cat s")
    logits, _ = model(jnp.asarray(ids, jnp.int32)[None, :-1], deterministic=True)
    nats = -np.asarray(jax.nn.log_softmax(logits[0]))[np.arange(8), ids[1:]]
    np.testing.assert_allclose(nats, trained.score(ids, "carried").nats, rtol=1e-5)
    model.head.kernel[...] *= 0
    assert np.abs(np.asarray(trained.model.head.kernel[...])).max() > 0


@pytest.mark.parametrize("recipe", ["source", "lower", "none", "exact"])
def test_clean_treats_line_ends_as_those_of_the_training_text(recipe, trained):
    """`encode` with `clean=True` converts line ends as the setting `clean` of the run says.

    The setting "exact" keeps line ends. The others replace each line end by a line feed. "source" then replaces line feeds by spaces.
    """
    config = replace(trained.config, data=replace(trained.config.data, clean=recipe))
    known = replace(trained, config=config, own=Characters.of(TEXT + "\r\n"))
    wanted = {"source": "the cat sat", "exact": "the cat\r\nsat\r"}.get(recipe, "the cat\nsat\n")
    assert known.characters.decode(known.encode("the cat\r\nsat\r", clean=True)) == wanted
    assert known.characters.decode(known.encode("the cat\r\n")) == "the cat\r\n"


def test_read_text(trained, tmp_path):
    (tmp_path / "a.txt").write_text("the cat")
    (tmp_path / "b.json").write_text(json.dumps([{"body": "a dog", "n": 1}, {"body": "", "n": 2}, {"body": "ran!", "n": 3}]))
    paths = [str(tmp_path / name) for name in ("a.txt", "b.json")]
    assert trained.read_text(paths, text_column="body").ids.tolist() == ids_of("the cat a dog ran!")
    assert trained.read_text(paths, most=9).ids.tolist() == ids_of("the cat a")
    assert trained.read_text(text="The Cat", clean=True).ids.tolist() == ids_of("the cat")
    assert trained.read_text(text="THE cat", unknown=".", most=5).ids.tolist() == ids_of("... c")
    assert trained.read_text(most=7).ids.tolist() == ids_of(TEXT[CUT:][:7])
    (tmp_path / "a.txt").write_text("The cat")
    with pytest.raises(InputError, match="the run does not know: 'T'"):
        trained.read_text(paths)
