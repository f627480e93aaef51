"""The language model: its loss against the whole softmax and by hand, what it learns, and whether the classifier takes its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import pretraining
from lstm_jax.config import SentimentConfig, SentimentModelConfig
from lstm_jax.models import functional, replaced
from lstm_jax.tasks import sentiment

pytestmark = pytest.mark.usefixtures("quick_compiles")

V, E, H = 7, 3, 4
RNG = np.random.default_rng(0)


def test_a_sample_of_all_words_gives_the_whole_softmax() -> None:
    params = pretraining.initial(jax.random.key(0), V, E, H, 1)._replace(bias=jnp.asarray(RNG.normal(size=V), jnp.float32))
    scored, target = jnp.asarray(RNG.normal(size=(5, E)), jnp.float32), jnp.asarray([0, 3, 6, 3, 1])
    even = jnp.full(V, -np.log(V), jnp.float32)
    logits = np.asarray(scored, np.float64) @ np.asarray(params.embedding, np.float64).T + np.asarray(params.bias, np.float64)
    right = logits[np.arange(5), np.asarray(target)]
    expected = (np.log(np.exp(logits).sum(1)) - right).mean()
    assert pretraining.sampled_loss(scored, target, params, jnp.arange(V), even) == pytest.approx(expected, rel=1e-5)

    # a sample of some, of unequal shares: each word's score less the log of its share, the right word counted once
    share, sample = np.asarray([0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1]), np.asarray([3, 1, 1])
    shifted, losses = logits - np.log(share), []
    for row, word in zip(shifted, np.asarray(target), strict=True):
        others = [row[other] for other in sample if other != word]
        losses.append(np.log(np.exp([row[word], *others]).sum()) - row[word])
    log_share = jnp.asarray(np.log(share), jnp.float32)
    found = pretraining.sampled_loss(scored, target, params, jnp.asarray(sample), log_share)
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("directions", [1, 2])
def test_it_learns_and_the_classifier_takes_it(directions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each next word, and each word before, is certain in a text that repeats six words."""
    monkeypatch.setattr(pretraining, "BATCH", 4)
    monkeypatch.setattr(pretraining, "LENGTH", 8)
    monkeypatch.setattr(pretraining, "SAMPLED", 16)
    monkeypatch.setattr(pretraining, "RATE", 0.03)
    text = np.tile(np.arange(1, V), 100).astype(np.int32)
    found, losses = pretraining.pretrain(text, V, E, H, directions, 16.0, seed=0)
    assert losses[0] > 0.5
    assert losses[-1] < 0.2
    again, _ = pretraining.pretrain(text, V, E, H, directions, 16.0, seed=0)
    jax.tree.map(np.testing.assert_array_equal, found, again)
    config = SentimentConfig(model=SentimentModelConfig(embed=E, units=H, bidirectional=directions == 2))
    params = functional(sentiment.make_model(config, V)).params
    assert {name for name in params if name not in found} == {"head/kernel", "head/bias"}
    taken = replaced(params, found)
    np.testing.assert_array_equal(taken["embedding/embedding"], found["embedding/embedding"])
    assert taken.keys() == params.keys()
