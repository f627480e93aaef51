"""Tests of drawing characters: the two modes, the rules temperature, top k and top p,
and the distribution of the drawn characters.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from lstm_jax import CELLS
from lstm_jax.base.errors import InputError
from lstm_jax.base.sharding import make_mesh
from lstm_jax.lab.generation.config import GenerationModelConfig
from lstm_jax.lab.generation.model import CharGenerator
from lstm_jax.lab.generation.sampling import (
    Sampler,
    allowed_logits,
    draw,
    make_rules,
)
from lstm_jax.training.parts import functional

V = 7
PARAMS, REBUILD = functional(
    CharGenerator(GenerationModelConfig(units=12, layers=2), V, rngs=nnx.Rngs(params=3))
)
BOTH = {mode: Sampler(REBUILD, V, mode, 5) for mode in ("carried", "window")}


@pytest.mark.parametrize("mode", ["carried", "window"])
@pytest.mark.parametrize("cell", ["lstm", "ones"])
def test_greedy_equals_reading_anew(mode, cell, monkeypatch):
    """The likeliest characters are those of a model that reads the whole text or its
    last 5 characters anew for each character.

    The state of the cell "ones" does not start from zeros.
    """
    gru = CELLS["gru"]
    ones = dataclasses.replace(
        gru,
        name="ones",
        initial_state=lambda *sizes: jax.tree.map(
            jnp.ones_like, gru.initial_state(*sizes)
        ),
    )
    monkeypatch.setitem(CELLS, "ones", ones)
    params, rebuild = functional(
        CharGenerator(
            GenerationModelConfig(units=12, cell=cell), V, rngs=nnx.Rngs(params=3)
        )
    )
    params = jax.tree.map(lambda array: 4 * array, params)
    read = jax.jit(
        lambda ids, valid: rebuild(params)(
            ids, mask=valid, last=True, deterministic=True
        )[0].argmax()
    )
    sampler = Sampler(rebuild, V, mode, 5)
    for prompt in ([2], [1, 4, 2], [0, 1, 2, 3, 4, 5, 6, 0]):
        text = list(prompt)
        for _ in range(9):
            known = text[-5:] if mode == "window" else text
            # equal lengths, so that the program is compiled once
            room = 20 - len(known)
            text.append(
                int(read(jnp.array([[0] * room + known]), jnp.arange(20)[None] >= room))
            )
        got = sampler.generate(
            params,
            jax.random.key(0),
            jnp.array([prompt]),
            9,
            make_rules(temperature=0.0),
        )
        assert got.tolist() == [text[len(prompt) :]]


def test_a_draw_is_where_the_number_falls_among_the_cumulated_probabilities():
    logits = jnp.log(jnp.array([[0.2, 0.5, 0.3]] * 6 + [[0.0, 1.0, 0.0]] * 2))
    uniform = jnp.array(
        [0.0, 0.19, 0.21, 0.69, 0.71, 1 - 2**-24, 0.0, 1 - 2**-24], jnp.float32
    )
    assert draw(uniform, logits, make_rules()).tolist() == [0, 0, 1, 1, 2, 2, 1, 1]
    assert draw(uniform[:6], logits[:6], make_rules(top_k=2)).tolist() == [
        1,
        1,
        1,
        2,
        2,
        2,
    ]
    assert set(draw(uniform[:6], logits[:6], make_rules(temperature=0.0)).tolist()) == {
        1
    }


@pytest.mark.parametrize("vocabulary", [200, 300])
def test_a_draw_from_many_characters(vocabulary):
    """The drawn characters are those that `np.searchsorted` finds in cumulative sums
    computed by NumPy.

    From 257 characters on, the library computes the cumulative sums in another way.
    """
    logits = jax.random.normal(jax.random.key(0), (50, vocabulary))
    uniform = jax.random.uniform(jax.random.key(1), (50,))
    reached = np.cumsum(np.exp(np.asarray(logits, float)), axis=1)
    wanted = [
        int(np.searchsorted(row, float(u) * row[-1], side="right"))
        for row, u in zip(reached, uniform, strict=True)
    ]
    assert draw(uniform, logits, make_rules()).tolist() == wanted


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("vocabulary", [256, 300, 1000])
def test_characters_that_are_excluded_are_never_drawn(vocabulary):
    """Rounding errors of the cumulative sums let no excluded character be drawn, even
    with the largest random numbers.
    """
    rng = np.random.default_rng(vocabulary)
    logits = jnp.asarray(rng.standard_normal((900, vocabulary)), jnp.float32)
    rules = make_rules(top_k=vocabulary // 3)
    allowed = np.isfinite(np.asarray(allowed_logits(logits, rules)))
    for uniform in (0.0, 0.5, 1 - 3 * 2**-23, 1 - 2**-22, 1 - 2**-23):
        found = np.asarray(draw(jnp.full(900, uniform, jnp.float32), logits, rules))
        assert allowed[np.arange(900), found].all()


def test_each_character_has_a_key_of_its_own():
    """The random numbers for character n are drawn with the key
    `jax.random.fold_in(key, n)`, on one device and on two.
    """
    rules = make_rules(temperature=0.8)
    prompt = jnp.array([[1, 2], [3, 0], [1, 1], [0, 5]])
    key = jax.random.key(9)
    read = jax.jit(
        lambda ids, valid: REBUILD(PARAMS)(
            ids, mask=valid, last=True, deterministic=True
        )[0]
    )
    text = prompt
    for number in range(6):
        room = 6 - number  # equal lengths, so that the program is compiled once
        logits = read(
            jnp.pad(text, ((0, 0), (room, 0))), jnp.tile(jnp.arange(8) >= room, (4, 1))
        )
        reached = np.cumsum(
            jax.nn.softmax(logits.astype(float) / 0.8), axis=1, dtype=float
        )
        uniform = np.asarray(jax.random.uniform(jax.random.fold_in(key, number), (4,)))
        drawn = [
            int(np.searchsorted(row, u, side="right"))
            for row, u in zip(reached, uniform, strict=True)
        ]
        text = jnp.concatenate([text, jnp.array(drawn, text.dtype)[:, None]], axis=1)
    on_two = Sampler(REBUILD, V, "carried", mesh=make_mesh(2))
    for sampler in (BOTH["carried"], on_two):
        assert (
            sampler.generate(PARAMS, key, prompt, 6, rules).tolist()
            == text[:, 2:].tolist()
        )


@pytest.mark.parametrize("mode", ["carried", "window"])
def test_texts_that_share_a_prompt_read_it_once_and_are_those_of_as_many_prompts(mode):
    rules = make_rules(temperature=0.8)
    key = jax.random.key(9)
    prompt = jnp.array([[3, 0, 2]])
    wanted = BOTH[mode].generate(PARAMS, key, jnp.tile(prompt, (4, 1)), 8, rules)
    on_two = Sampler(REBUILD, V, mode, 5, make_mesh(2))
    for sampler in (BOTH[mode], on_two):
        assert (
            sampler.generate(PARAMS, key, prompt, 8, rules, samples=4).tolist()
            == wanted.tolist()
        )
    assert len(set(map(tuple, wanted.tolist()))) > 1


@given(
    st.permutations(range(-32, 33)),
    st.sampled_from([2, 5, 9]),
    st.integers(1, 9),
    st.floats(0.05, 1.0),
)
def test_top_k_and_top_p_keep_the_likeliest(eighths, size, k, p):
    logits = [n / 8 for n in eighths[:size]]
    got = np.isfinite(
        allowed_logits(jnp.array([logits], jnp.float32), make_rules(top_k=k, top_p=p))[
            0
        ]
    )
    probabilities = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-probabilities)
    assert got[order[0]]
    kept = got[order]
    assert not np.any(np.diff(kept.astype(int)) > 0)  # the kept ones are the likeliest
    assert kept.sum() <= min(k, len(logits))
    if k >= len(logits):  # the fewest that reach p, up to rounding at the edge
        before = np.cumsum(probabilities[order]) - probabilities[order]
        assert np.all(kept[before < p - 1e-5])
        assert not np.any(kept[before > p + 1e-5])


@pytest.mark.parametrize("k", [1, 5, 40, 63])
@pytest.mark.parametrize(
    ("step", "temperature"), [(0.03, 1e6), (0.03, 1e-6), (18.0, 1.0), (0.03, 1.0)]
)
def test_top_k_keeps_exactly_k_of_different_logits(k, step, temperature):
    """If all logits differ, top k keeps exactly k characters, even if rounding makes
    their probabilities or cumulative sums equal.

    At a high temperature, the log-probabilities are equal. If few characters have
    almost all of the probability, the cumulative sums of the others are all 1.
    """
    logits = jnp.asarray([[-step * n for n in range(64)]], jnp.float32)
    assert (
        np.isfinite(
            allowed_logits(logits, make_rules(temperature=temperature, top_k=k))[0]
        ).sum()
        == k
    )


def generate(prompt, chars=3, samples=1, mode="carried"):
    return BOTH[mode].generate(
        PARAMS, jax.random.key(0), prompt, chars, make_rules(), samples
    )


RULES = {
    "temperature": (-0.1, "x"),
    "top_k": (-1, 0.9, "3"),
    "top_p": (0.0, 1.5, float("nan")),
}
PROMPTS = (
    [[1, V]],
    [[1, -1]],
    [[1, 2**32 + 2]],
    [[0.5]],
    [1, 2],
    np.zeros((0, 3), int),
)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "subject"),
    [
        *(
            (lambda rule={name: value}: make_rules(**rule), f"{name}: {value}; ")
            for name, values in RULES.items()
            for value in values
        ),
        *(
            (lambda prompt=prompt: generate(np.array(prompt)), "prompt: ")
            for prompt in PROMPTS
        ),
        (lambda: generate(np.array([[1, V]]), mode="window"), "prompt: "),
        (lambda: generate(np.array([[1]]), -1), "chars: -1"),
        (lambda: generate(np.array([[1]]), 2.5), "chars: 2.5"),
        (lambda: generate(np.array([[1]]), samples=0), "samples: 0"),
        (lambda: generate(np.array([[1]]), samples=1.5), "samples: 1.5"),
        (lambda: generate(np.array([[1], [2]]), samples=2), "samples: 2 of 2 prompts"),
        (lambda: Sampler(REBUILD, V, "auto"), "mode: auto"),
        (lambda: Sampler(REBUILD, V, "window", 2.5), "length: 2.5"),
    ],
)
def test_errors(call, subject):
    with pytest.raises(InputError, match=f"^{subject}"):
        call()
