"""Scores of the characters of a text, given the characters before them: modes "carried"
and "window", streams, one and two devices.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from lstm_jax.base import sharding
from lstm_jax.lab.generation import scores as text_scores
from lstm_jax.lab.generation.config import GenerationModelConfig
from lstm_jax.lab.generation.model import CharGenerator
from lstm_jax.lab.generation.scores import Scorer, Scores
from lstm_jax.training.parts import functional

V, LENGTH = 7, 5


def made(**config):
    """Return parameters that are so large that a character influences many later ones,
    and the function that rebuilds the model.
    """
    params, rebuild = functional(
        CharGenerator(
            GenerationModelConfig(units=6, **config), V, rngs=nnx.Rngs(params=1)
        )
    )
    rng = np.random.default_rng(1)
    return {
        name: jnp.asarray(rng.standard_normal(array.shape), jnp.float32)
        for name, array in sorted(params.items())
    }, rebuild


PARAMS, REBUILD = made()
DEEP, DEEP_REBUILD = made(embed=6, tied=True, layers=2)
ONE = sharding.make_mesh(1)


def made_ids(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, V, n).astype(np.uint8)


@jax.jit
def _logits(ids: jax.Array) -> jax.Array:
    return REBUILD(PARAMS)(ids.astype(jnp.int32), deterministic=True)[0]


def surprise(logits, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the negative log-probability of each id in nats, in float64, from logits
    (..., V), and whether its logit is the largest.
    """
    z = np.asarray(logits, np.float64)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    return -np.log(
        np.take_along_axis(p, ids[..., None].astype(int), -1)[..., 0]
    ), z.argmax(-1) == ids


def read_through(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the results of `surprise` for all characters but the first. The model
    reads the text once, from start to end.
    """
    return surprise(_logits(ids[None, :-1])[0], ids[1:])


def assert_scores(got: Scores, nats, correct):
    assert (got.nats.dtype, got.correct.dtype) == (np.float32, bool)
    assert got.nats.shape == got.correct.shape == nats.shape
    assert np.abs(got.nats - nats).max() <= 1e-5 * nats.max()
    assert got.correct.tolist() == correct.tolist()
    assert nats.size < 9 or 0 < correct.sum() < nats.size


@pytest.mark.parametrize("n", [2, 3, 9, 16, 17, 18, 60])
def test_a_carried_text_as_one_pass(n, monkeypatch):
    """The scores in mode "carried" equal those of one pass through the text.

    This also holds if the text is read in several chunks and the last chunk is padded.
    """
    monkeypatch.setattr(text_scores, "CHUNK", 16)
    ids = made_ids(n)
    assert_scores(Scorer(REBUILD, ONE, "carried").text(PARAMS, ids), *read_through(ids))


@pytest.mark.parametrize("n", [2, 5, 6, 7, 40])
def test_windows_as_one_character_after_the_other(n):
    ids = made_ids(n)
    logits = [_logits(ids[None, max(0, at - LENGTH) : at])[0, -1] for at in range(1, n)]
    assert_scores(
        Scorer(REBUILD, ONE, "window", LENGTH).text(PARAMS, ids),
        *surprise(np.stack(logits), ids[1:]),
    )


def test_the_windows_of_a_long_text():
    """The windows of a text are scored correctly, even if there are too many of them to
    be copied at once.
    """
    ids = made_ids((1 << 16) + 100)
    windows = np.lib.stride_tricks.sliding_window_view(ids, LENGTH + 1)
    wanted = surprise(_logits(windows[:, :-1])[:, -1], windows[:, -1])
    scores = Scorer(REBUILD, ONE, "window", LENGTH).text(PARAMS, ids)
    assert len(scores.nats) == len(ids) - 1
    assert_scores(
        Scores(scores.nats[LENGTH - 1 :], scores.correct[LENGTH - 1 :]), *wanted
    )


@pytest.fixture
def small_streams(monkeypatch):
    for name, value in {"CHUNK": 8, "STREAM": 10, "STREAMS": 4, "WARM_UP": 6}.items():
        monkeypatch.setattr(text_scores, name, value)


@pytest.mark.parametrize(
    ("n", "streams", "own"),
    [
        (20, 1, 19),
        (21, 2, 10),
        (48, 4, 12),  # the last stream has 11
        (131, 4, 33),  # there are at most 4 streams
    ],
)
def test_a_long_text_in_streams(n, streams, own, small_streams):
    ids = made_ids(n)
    parts = []
    for begin in range(0, n - 1, own):
        end, first = min(begin + own, n - 1), max(0, begin - 6)
        parts.append(
            [figure[begin - first :] for figure in read_through(ids[first : end + 1])]
        )
    assert len(parts) == streams
    nats, correct = (np.concatenate(part) for part in zip(*parts, strict=True))
    scores = Scorer(REBUILD, ONE, "carried").text(PARAMS, ids)
    assert_scores(scores, nats, correct)
    again = Scorer(REBUILD, ONE, "carried").text(jax.tree.map(np.asarray, PARAMS), ids)
    assert again.nats.tolist() == scores.nats.tolist()
    # near its beginning, a stream knows less of the text than one pass does
    if streams > 1:
        assert np.abs(scores.nats - read_through(ids)[0]).max() > 1e-3


@pytest.mark.parametrize("n", [1, 7, 8, 21])
def test_activations(n, monkeypatch):
    """Activations are those of the model. After a reset, they are those of a text that
    begins there, at any place of a chunk.
    """
    monkeypatch.setattr(text_scores, "CHUNK", 8)
    ids = made_ids(n)
    cuts = np.array([5, 8, 15, 16])
    scorer = Scorer(REBUILD, ONE, "window", LENGTH)
    parts = np.split(ids, cuts[cuts < n])
    whole, by_parts = (
        np.concatenate(
            [
                REBUILD(PARAMS).hidden(
                    jnp.asarray(part, jnp.int32)[None], deterministic=True
                )[0][:, 0]
                for part in texts
            ]
        )
        for texts in ([ids], parts)
    )
    # the parameters of a loaded run are NumPy arrays
    for params in (PARAMS, jax.tree.map(np.asarray, PARAMS)):
        found = scorer.activations(params, ids)
        assert (found.dtype, found.shape) == (np.float32, (n, 6))
        np.testing.assert_allclose(found, whole, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        scorer.activations(PARAMS, ids, np.array([0, *cuts, 30])),
        by_parts,
        rtol=0,
        atol=1e-6,
    )
    assert len(parts) == 1 or np.abs(whole - by_parts).max() > 1e-2


def test_two_devices_as_one(small_streams):
    """Scores and activations on two devices equal those on one, up to rounding. As in
    training, the table is sharded by columns.
    """
    ids = made_ids(60)
    both = []
    for devices in (1, 2):
        mesh = sharding.make_mesh(devices)
        places = jax.tree_util.tree_map_with_path(
            lambda path, leaf, mesh=mesh: NamedSharding(
                mesh, sharding.param_spec(mesh.size, path, leaf)
            ),
            DEEP,
        )
        params = jax.device_put(DEEP, places)
        carried, window = (
            Scorer(DEEP_REBUILD, mesh, mode, LENGTH) for mode in ("carried", "window")
        )
        both.append(
            (
                carried.text(params, ids),
                window.text(params, ids),
                carried.activations(params, ids),
            )
        )
    for one, two in zip(both[0][:2], both[1][:2], strict=True):
        assert_scores(two, *one)
    np.testing.assert_allclose(both[0][2], both[1][2], rtol=0, atol=1e-6)
    assert np.abs(both[0][0].nats - both[0][1].nats).max() > 1e-3
    assert params["embedding/embedding"].addressable_shards[0].data.shape == (V, 3)
