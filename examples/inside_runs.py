"""Measurements, over the held-out data of trained runs, of what `lstm-jax inspect` shows for single examples.

    python examples/inside_runs.py --sentiment runs/sentiment --generation runs/generation --forecast runs/forecast

For a sentiment run: how much of the accuracy comes from ratings that are written in a review, such as "7/10"; how many words back the
gradient of the verdict reaches, and whether this depends on how sure the network is; and whether integrated gradients and leaving a word
out agree. For a text-generation run: how far back the gradient reaches, and how many units keep a constant cell state. For a forecasting
run: which entries the forecast depends on, and whether the cell state encodes how many entries have been read.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

from lstm_jax.inspection.attribution import gradient_norms, integrated_gradients, reach
from lstm_jax.inspection.trace import trace
from lstm_jax.tasks import forecast, forecast_windows, generation, sentiment
from lstm_jax.tasks.inspecting.common import kept_epochs
from lstm_jax.tasks.inspecting.forecasts import SeriesNetwork
from lstm_jax.tasks.inspecting.reviews import Review, ReviewNetwork
from lstm_jax.tasks.inspecting.texts import TextNetwork
from lstm_jax.tasks.running import check_own_data

SETTLED = 60
"""Number of characters after which the cell state of a unit must be constant."""
EXTREME = 50
"""Number of reviews that count as the surest, and of those that count as the worst errors."""


def ratings(trained: sentiment.Trained, rows: sentiment.Rows) -> dict[str, float]:
    """Return the accuracy on reviews that end with a rating and on the other reviews, and the mean probability for each rating.

    A review ends with a rating if its last two words are a number from 1 to 10 and "10". The result also has the share of rated reviews
    among the surest reviews and among the worst errors, and the share of the rated worst errors whose label contradicts the rating.
    """
    index, ids, logits = trained.vocabulary.index, np.asarray(rows.ids), trained.logits(rows)
    given, ends = ids[:, -2], ids[:, -1] == index.get("10", -1)
    marks = {n: ends & (given == index.get(str(n), -1)) for n in range(1, 11)}
    rated = np.any(list(marks.values()), axis=0)
    margin = np.where(rows.labels == 1, logits, -logits)
    order, right = np.argsort(-margin, kind="stable"), margin > 0
    worst = order[::-1][:EXTREME]
    good = np.any([marks[n] for n in range(6, 11)], axis=0)
    contradicted = (good != (rows.labels == 1))[worst][rated[worst]]
    found = {
        "rated reviews": rated.mean(),
        "accuracy, rated": right[rated].mean() if rated.any() else np.nan,
        "accuracy, others": right[~rated].mean(),
        "rated among the surest and right": rated[order[:EXTREME]].mean(),
        "rated among the worst errors": rated[worst].mean(),
        "of these, labels that contradict the rating": contradicted.mean() if len(contradicted) else np.nan,
    }
    found |= {
        f"mean probability, {n}/10 ({mark.sum()} reviews)": sentiment.probabilities(logits[mark]).mean()
        for n, mark in marks.items()
        if mark.any()
    }
    return {name: float(value) for name, value in found.items()}


def evidence(trained: sentiment.Trained, rows: sentiment.Rows, count: int = 200) -> dict[str, float]:
    """Return how the gradients and attributions of the verdict depend on how sure the network is, for `count` random reviews."""
    network, params, found = ReviewNetwork(trained), jax.device_put(trained.params), []

    def verdict(vectors: jax.Array, params: Any, ids: jax.Array) -> jax.Array:
        return network.verdict(vectors, params, ids)[None]

    for n in np.random.default_rng(0).choice(rows.count, min(count, rows.count), replace=False):
        review = Review(str(n), np.asarray(rows.ids[n]))
        ids, vectors = jnp.asarray(review.ids), network.vectors(params, jnp.asarray(review.ids))
        steps = int(reach(np.asarray(gradient_norms(verdict, vectors, params, ids))[:, review.words])[0])
        shares = integrated_gradients(network.verdict, vectors, params, ids).values[review.words]
        logit = network.whole(params, review)
        left_out = logit - network.without_each(params, review)
        ratio = np.abs(shares).sum() / max(float(np.abs(left_out).sum()), 1e-12)
        found.append((abs(logit), steps, spearmanr(shares, left_out)[0], ratio))
    sure, steps, agreement, ratio = np.asarray(found).T
    torn = sure <= np.median(sure)
    return {
        "median reach in words": float(np.median(steps)),
        "rank correlation of reach and certainty": float(spearmanr(steps, sure)[0]),
        "agreement, least sure half": float(agreement[torn].mean()),
        "agreement, surest half": float(agreement[~torn].mean()),
        "integrated gradients / leaving out, least sure half": float(np.median(ratio[torn])),
        "integrated gradients / leaving out, surest half": float(np.median(ratio[~torn])),
    }


def characters(trained: generation.Trained, params: Any, chars: int = 200, count: int = 20) -> dict[str, float]:
    """Return how far back the gradients of a character model reach, and how many of its units keep a constant cell state.

    A unit is constant if, after `SETTLED` characters, the standard deviation of its cell state over texts and steps is below a tenth of the
    absolute mean.

    Args:
        trained: the run, whose held-out text is read.
        params: parameters of one of its epochs.
        chars: number of characters of each text.
        count: number of texts.
    """
    held_out = generation.read_ids(trained, most=count * (chars + 1)).astype(np.int32)
    texts = held_out[: len(held_out) // (chars + 1) * (chars + 1)].reshape(-1, chars + 1)
    network, reached = TextNetwork(trained), []
    for text in texts:
        vectors = network.vectors(params, jnp.asarray(text[:-1]))
        reached.append(reach(gradient_norms(network.outputs, vectors, params, jnp.asarray(text[1:])))[SETTLED:])
    _, layers = trace(trained.rebuild(params), jnp.asarray(texts[:, :-1]), deterministic=True)
    cell = np.asarray(layers[0].state["c"])[:, SETTLED:]
    constant = cell.std((0, 1)) < 0.1 * np.abs(cell.mean((0, 1)))
    return {"median reach in characters": float(np.median(reached)), "constant units": float(constant.sum())}


def entries(trained: forecast.Trained, step: int = 4) -> dict[str, float]:
    """Return on which entries the forecasts of the test split depend, and how well the cell state encodes the position in the window.

    The attribution is that of every `step`-th window. The position is read from the cell state by linear regression, which is fitted to the
    first half of the windows and tested on the others.
    """
    part = forecast_windows.parts_of(trained.series(), trained.config)[0]["test"]
    params, network = jax.device_put(trained.params), SeriesNetwork(trained)
    chosen = range(0, len(part.last), step)
    windows = [(jnp.asarray(part.entries[n]), params, jnp.asarray(part.ahead[n])) for n in chosen]
    sizes = np.abs([integrated_gradients(network.mean, *window).values for window in windows]).mean(0)
    share = sizes / sizes.sum()
    _, layers = trace(trained.rebuild(params), jnp.asarray(part.entries), jnp.asarray(part.ahead), deterministic=True)
    cell = np.asarray(layers[0].state["c"], np.float64)
    features = np.concatenate([cell, np.ones((*cell.shape[:2], 1))], -1)
    position, half = np.broadcast_to(np.arange(cell.shape[1]), cell.shape[:2]), len(cell) // 2
    weights = np.linalg.lstsq(features[:half].reshape(-1, features.shape[-1]), position[:half].ravel(), rcond=None)[0]
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
        trained = generation.load(given.generation)
        epochs = kept_epochs(trained, 2)
        for number, params in zip(epochs.numbers, epochs.params, strict=True):
            found |= {f"{name}, epoch {number}": value for name, value in characters(trained, params).items()}
    if given.forecast:
        found |= entries(forecast.load(given.forecast))
    for name, value in found.items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
