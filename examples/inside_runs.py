"""What the page of `lstm-jax inspect` suggests for single examples, measured over the held-out data of trained runs.

    python examples/inside_runs.py --sentiment runs/sentiment --generation runs/generation --forecast runs/forecast

Sentiment: how much of the accuracy comes from ratings that are written in a review, such as "7/10"; how many words back the gradient of the
verdict reaches, and whether this depends on how sure the network is; and whether integrated gradients and leaving a word out agree.
Generation: how far back the gradient reaches, and how many units keep a constant cell state. Forecast: which entries the forecast depends
on, and whether the cell state encodes how many entries have been read.

W is the number of words, T the number of steps and H the number of units.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

from lstm_jax.errors import require
from lstm_jax.inspection.attribution import gradient_norms, integrated_gradients, reach
from lstm_jax.inspection.trace import trace
from lstm_jax.tasks import forecast, forecast_windows, generation, sentiment
from lstm_jax.tasks.running import check_own_data

SETTLED = 60
"""Number of characters after which the cell state of a unit must be constant."""


def ratings(trained: sentiment.Trained, rows: sentiment.Rows) -> dict[str, float]:
    """Return the accuracy on reviews whose last two words are a number from 1 to 10 and "10", and on the other reviews."""
    index, ids = trained.vocabulary.index, np.asarray(rows.ids)
    right = (trained.logits(rows) > 0) == (rows.labels == 1)
    rated = (ids[:, -1] == index.get("10", -1)) & np.isin(ids[:, -2], [index.get(str(n), -1) for n in range(1, 11)])
    means = {"with": right[rated].mean() if rated.any() else np.nan, "without": right[~rated].mean()}
    return {"share": float(rated.mean())} | {f"accuracy {name}": float(mean) for name, mean in means.items()}


def evidence(trained: sentiment.Trained, rows: sentiment.Rows, count: int = 200) -> dict[str, float]:
    """Return how the gradients and attributions of the verdict depend on how sure the network is.

    Args:
        trained: a run of unpacked reviews, whose model reads in one direction and without pooling.
        rows: the reviews, padded in front.
        count: number of reviews, which are drawn at random.
    """
    model = trained.config.model
    require(model.pooling == "last" and not model.bidirectional, "model", "pooling or two directions", "give a run of the default model")

    def logit(vectors: jax.Array, params: dict[str, jax.Array], ids: jax.Array) -> jax.Array:
        return trained.rebuild(params)(ids[None], vectors=vectors[:, None], deterministic=True)[0]

    def verdict(vectors: jax.Array, params: dict[str, jax.Array], ids: jax.Array) -> jax.Array:
        return logit(vectors, params, ids)[None]

    params, found = jax.device_put(trained.params), []
    for n in np.random.default_rng(0).choice(rows.count, min(count, rows.count), replace=False):
        ids = np.asarray(rows.ids[n])
        words, vectors = np.flatnonzero(ids), params["embedding/embedding"][ids]
        steps = int(reach(np.asarray(gradient_norms(verdict, vectors, params, jnp.asarray(ids)))[:, words])[0])
        shares = integrated_gradients(logit, vectors, params, jnp.asarray(ids)).values[words]
        without = np.stack([ids, *(np.concatenate([[0], np.delete(ids, word)]) for word in words)])
        full = np.zeros((len(ids) + 1, len(ids)), np.int32)
        full[: len(without)] = without
        logits = trained.logits(full)[: len(without)].astype(np.float64)
        left_out = logits[0] - logits[1:]
        ratio = np.abs(shares).sum() / max(float(np.abs(left_out).sum()), 1e-12)
        found.append((abs(logits[0]), steps, spearmanr(shares, left_out).statistic, ratio))
    sure, steps, agreement, ratio = np.asarray(found).T
    torn = sure <= np.median(sure)
    return {
        "median reach in words": float(np.median(steps)),
        "rank correlation of reach and certainty": float(spearmanr(steps, sure).statistic),
        "agreement, least sure half": float(agreement[torn].mean()),
        "agreement, surest half": float(agreement[~torn].mean()),
        "integrated gradients / leaving out, least sure half": float(np.median(ratio[torn])),
        "integrated gradients / leaving out, surest half": float(np.median(ratio[~torn])),
    }


def characters(trained: generation.Trained, chars: int = 200, count: int = 20) -> dict[str, float]:
    """Return how far back the gradients of a character model reach, and how many of its units keep a constant cell state.

    A unit is constant if, after `SETTLED` characters, the standard deviation of its cell state over texts and steps is below a tenth of the
    absolute mean.
    """
    held_out = generation.read_ids(trained, most=count * (chars + 1)).astype(np.int32)
    texts = held_out[: len(held_out) // (chars + 1) * (chars + 1)].reshape(-1, chars + 1)
    size, params = trained.characters.size, jax.device_put(trained.params)

    def nats(vectors: jax.Array, params: dict[str, jax.Array], following: jax.Array) -> jax.Array:
        model = trained.rebuild(params)
        hidden, _ = model.recurrent(vectors[:, None], deterministic=True, time_major=True)
        return -jax.nn.log_softmax(model.logits(hidden)[:, 0])[jnp.arange(len(following)), following]

    one_hot = [jax.nn.one_hot(text[:-1], size) for text in texts]
    norms = [np.asarray(gradient_norms(nats, x, params, jnp.asarray(text[1:]))) for x, text in zip(one_hot, texts, strict=True)]
    _, layers = trace(trained.rebuild(params), jnp.asarray(texts[:, :-1]), deterministic=True)
    cell = np.asarray(layers[0].state["c"])[:, SETTLED:]
    constant = cell.std((0, 1)) < 0.1 * np.abs(cell.mean((0, 1)))
    return {"median reach in characters": float(np.median([reach(n)[SETTLED:] for n in norms])), "constant units": float(constant.sum())}


def entries(trained: forecast.Trained, step: int = 4) -> dict[str, float]:
    """Return on which entries the forecasts of the test split depend, and how well the cell state encodes the position in the window."""
    part = forecast_windows.parts_of(trained.series(), trained.config)[0]["test"]
    params = jax.device_put(trained.params)

    def mean(window: jax.Array, params: dict[str, jax.Array], ahead: jax.Array) -> jax.Array:
        return trained.rebuild(params)(window[None], ahead[None], deterministic=True)[0, 0].mean()

    chosen = range(0, len(part.last), step)
    shares = [integrated_gradients(mean, jnp.asarray(part.entries[n]), params, jnp.asarray(part.ahead[n])).values for n in chosen]
    share = np.abs(shares).mean(0) / np.abs(shares).mean(0).sum()
    _, layers = trace(trained.rebuild(params), jnp.asarray(part.entries), jnp.asarray(part.ahead), deterministic=True)
    cell = np.asarray(layers[0].state["c"], np.float64)
    features = np.concatenate([cell, np.ones((*cell.shape[:2], 1))], -1).reshape(-1, cell.shape[-1] + 1)
    position, half = np.tile(np.arange(cell.shape[1]), len(cell)), len(features) // 2
    weights = np.linalg.lstsq(features[:half], position[:half], rcond=None)[0]
    off = ((features[half:] @ weights - position[half:]) ** 2).mean()
    sixth = max(1, len(share) // 6)
    return {
        "share of the oldest sixth": float(share[:sixth].sum()),
        "share of the newest sixth": float(share[-sixth:].sum()),
        "R2 of the position": float(1 - off / position[half:].var()),
    }


def main() -> None:
    """Print what the given runs show."""
    parser = argparse.ArgumentParser(description="Measure over held-out data what lstm-jax inspect shows for single examples.")
    for name in ("sentiment", "generation", "forecast"):
        parser.add_argument(f"--{name}", type=Path)
    given = parser.parse_args()
    found: dict[str, float] = {}
    if given.sentiment:
        trained = sentiment.load(given.sentiment)
        reviews = sentiment.load_reviews(trained.config)
        check_own_data(trained.run, reviews.fingerprint)
        rows = sentiment.padded_rows(reviews, trained.config).test
        assert isinstance(rows, sentiment.Rows)
        found |= ratings(trained, rows) | evidence(trained, rows)
    if given.generation:
        found |= characters(generation.load(given.generation))
    if given.forecast:
        found |= entries(forecast.load(given.forecast))
    for name, value in found.items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
