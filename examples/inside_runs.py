r"""Measurements of how trained models use their inputs and states, computed over many
held-out examples.

    python examples/inside_runs.py --sentiment runs/sentiment \
        --generation runs/generation --forecast runs/forecast

Each flag names the folder of a training run. `lstm-jax inspect` shows similar results
for single examples.

- Sentiment run: how accurate the model is on reviews that end with a written rating,
  such as "7/10", and on all other reviews. How many words back the gradient of the
  logit reaches, and whether this number depends on the certainty of the model. Whether
  two methods of attribution (integrated gradients and leaving out single words) agree.
- Text-generation run: how many characters back the gradient reaches, and how many units
  keep a constant cell state.
- Forecasting run: which entries of the series the forecast depends on, and whether the
  cell state encodes how many entries have been read.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

from lstm_jax.base.errors import require
from lstm_jax.lab.forecast import task as forecast
from lstm_jax.lab.forecast.page import SeriesNetwork
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.generation.page import TextNetwork
from lstm_jax.lab.inspection.attribution import (
    gradient_norms,
    integrated_gradients,
    reach,
)
from lstm_jax.lab.inspection.common import kept_epochs
from lstm_jax.lab.inspection.trace import trace
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sentiment.page import ReviewNetwork

SETTLED = 60
"""Number of characters at the start of each text that the measurements of `characters`
leave out."""
EXTREME = 50
"""Largest number of reviews in each of the two groups that `ratings` measures: the
surest correct predictions and the worst errors."""


def ratings(trained: sentiment.Trained, rows: sentiment.Rows) -> dict[str, float]:
    """Measure how a sentiment model judges reviews that end with a written rating, such
    as "7/10".

    A slash separates words, so that the rating "7/10" is read as the two words "7" and
    "10". A review ends with a rating if its second last word is a number from 1 to 10
    and its last word is 10.

    Args:
        trained: trained model of a sentiment run.
        rows: padded reviews with labels.

    Returns:
        A dict from the name of each metric to its value. A rated review is one that
        ends with a rating. The surest correct predictions are the `EXTREME` correct
        predictions with the largest absolute logits. The worst errors are the `EXTREME`
        wrong predictions with the largest absolute logits. If there are fewer than
        `EXTREME` such predictions, all of them are used. The shares and accuracies of
        an empty group are NaN. The metrics are:

        - the share of rated reviews in all reviews
        - the accuracy on rated reviews, and the accuracy on all other reviews
        - the share of rated reviews in the surest correct predictions
        - the share of rated reviews in the worst errors
        - the share of the rated worst errors whose label contradicts the rating (a
          rating from 6 to 10 is positive)
        - for each rating that occurs, the mean predicted probability that a review with
          this rating is positive
    """
    index, ids, logits = (
        trained.vocabulary.index,
        np.asarray(rows.ids),
        trained.logits(rows),
    )
    tails = np.array([(0, 0, *row[row != 0])[-2:] for row in ids])  # id 0 is padding
    given, ends = tails[:, 0], tails[:, 1] == index.get("10", -1)
    marks = {n: ends & (given == index.get(str(n), -1)) for n in range(1, 11)}
    rated = np.any(list(marks.values()), axis=0)
    margin = np.where(rows.labels == 1, logits, -logits)
    order, right = np.argsort(-margin, kind="stable"), margin > 0
    surest, worst = order[right[order]][:EXTREME], order[~right[order]][::-1][:EXTREME]
    good = np.any([marks[n] for n in range(6, 11)], axis=0)
    contradicted = (good != (rows.labels == 1))[worst][rated[worst]]
    values = {
        "rated reviews": rated,
        "accuracy, rated": right[rated],
        "accuracy, others": right[~rated],
        "rated among the surest and right": rated[surest],
        "rated among the worst errors": rated[worst],
        "of these, labels that contradict the rating": contradicted,
    }
    values |= {
        f"mean probability, {n}/10 ({mark.sum()} reviews)": sentiment.probabilities(
            logits[mark]
        )
        for n, mark in marks.items()
        if mark.any()
    }
    return {
        name: float(np.mean(value)) if len(value) else np.nan
        for name, value in values.items()
    }


def evidence(
    trained: sentiment.Trained, rows: sentiment.Rows, count: int = 200
) -> dict[str, float]:
    """Measure how the gradients and attributions of a sentiment model depend on its
    certainty, which is the absolute value of its logit.

    The reach of a review says how many words back the gradient goes. For each word of
    the review, the norm of the gradient of the logit with respect to the vector of the
    word is computed. The reach is the smallest number n for which the norms of the last
    n + 1 words sum to at least 90 % of the sum over all words.

    The logit is attributed to the words by two methods: by integrated gradients, and by
    leaving out single words. The size of an attribution is the sum of its absolute
    values.

    Args:
        trained: trained model of a sentiment run.
        rows: padded reviews, of which `count` are chosen at random.
        count: number of reviews.

    Returns:
        A dict from the name of each metric to its value. The metrics are:

        - the median reach
        - the rank correlation of reach and certainty
        - the agreement: the rank correlation of the two attributions of a review, as
          the mean over reviews
        - the size of the attribution by integrated gradients divided by the size of the
          attribution by leaving out words, as the median over reviews

        The last two metrics are given twice: for the half of the reviews with the lower
        certainty, and for the half with the higher certainty.
    """
    network, params, found = ReviewNetwork(trained), jax.device_put(trained.params), []
    for n in np.random.default_rng(0).choice(
        rows.count, min(count, rows.count), replace=False
    ):
        review = rows.review(int(n))
        ids, words = jnp.asarray(review), np.flatnonzero(review)
        vectors = network.vectors(params, ids)
        steps = int(
            reach(
                np.asarray(gradient_norms(network.verdicts, vectors, params, ids))[
                    :, words
                ]
            )[0]
        )
        shares = integrated_gradients(network.verdict, vectors, params, ids).values[
            words
        ]
        logit = network.whole(params, review)
        left_out = logit - network.without_each(params, review)
        ratio = np.abs(shares).sum() / max(float(np.abs(left_out).sum()), 1e-12)
        found.append((abs(logit), steps, spearmanr(shares, left_out)[0], ratio))
    sure, steps, agreement, ratio = np.asarray(found).T
    torn = sure <= np.median(sure)
    metrics = {
        "median reach in words": np.median(steps),
        "rank correlation of reach and certainty": spearmanr(steps, sure)[0],
    }
    halves = {"least sure half": torn, "surest half": ~torn}
    metrics |= {
        f"agreement, {name}": agreement[half].mean() for name, half in halves.items()
    }
    metrics |= {
        f"integrated gradients / leaving out, {name}": np.median(ratio[half])
        for name, half in halves.items()
    }
    return {name: float(value) for name, value in metrics.items()}


def characters(
    trained: generation.Trained, params: Any, chars: int = 200, count: int = 20
) -> dict[str, float]:
    """Measure how far back, in characters, the gradients of a character model reach,
    and how many of its units keep a constant cell state.

    The texts are sections of the held-out text of the run. The model reads each text
    from a zero state. If the run was trained with `article_resets`, the state is reset
    at the start of each article too. Both measurements leave out the first `SETTLED`
    characters of each text.

    The reach of an output is the smallest number n for which the current and the n
    previous characters have at least 90 % of the sum of the gradient norms (see
    `reach`). A unit of the first LSTM layer is constant if its cell state hardly
    varies: the standard deviation of the cell state over all texts and characters is
    below a tenth of the absolute value of its mean.

    Args:
        trained: text-generation run. Its held-out text is read.
        params: parameters of the model after an epoch of the run.
        chars: number of characters of each text.
        count: number of texts.

    Returns:
        A dict with "median reach in characters" and "constant units" (the number of
        constant units).
    """
    held_out, starts = trained.read_text(most=count * (chars + 1))
    shape = (len(held_out) // (chars + 1), chars + 1)
    texts = held_out[: np.prod(shape)].astype(np.int32).reshape(shape)
    resets = (
        None
        if starts is None
        else jnp.asarray(np.isin(np.arange(texts.size), starts).reshape(shape)[:, :-1])
    )
    network, reached = TextNetwork(trained), []
    for n, text in enumerate(texts):
        vectors = network.vectors(params, jnp.asarray(text[:-1]))
        own = None if resets is None else resets[n]
        reached.append(
            reach(
                gradient_norms(
                    network.outputs, vectors, params, jnp.asarray(text[1:]), own
                )
            )[SETTLED:]
        )
    _, layers = trace(
        trained.rebuild(params),
        jnp.asarray(texts[:, :-1]),
        resets=resets,
        deterministic=True,
    )
    cell = np.asarray(layers[0].state["c"])[:, SETTLED:]
    constant = cell.std((0, 1)) < 0.1 * np.abs(cell.mean((0, 1)))
    return {
        "median reach in characters": float(np.median(reached)),
        "constant units": float(constant.sum()),
    }


def entries(trained: forecast.Trained, step: int = 4) -> dict[str, float]:
    """Measure which entries of a window a forecasting model depends on, and how well
    its cell state encodes the position in the window.

    The windows are those of the test split. The dependence on each entry is measured by
    integrated gradients. The position is predicted from the cell state by linear
    regression, which is fitted to the first half of the windows and tested on the
    second half.

    Args:
        trained: forecasting run.
        step: interval between the windows for which integrated gradients are computed.
            If it is 4, they are computed for every fourth window.

    Returns:
        A dict with three numbers:

        - the sum of the absolute attributions to the oldest sixth of the entries, as a
          fraction of the sum over all entries
        - the same fraction for the newest sixth of the entries
        - R2 (the coefficient of determination) of the predicted position
    """
    part = forecast.parts_of(trained.series(), trained.config)[0]["test"]
    params, network = jax.device_put(trained.params), SeriesNetwork(trained)
    chosen = range(0, len(part.last), step)
    windows = [
        (jnp.asarray(part.entries[n]), params, jnp.asarray(part.ahead[n]))
        for n in chosen
    ]
    sizes = np.abs(
        [integrated_gradients(network.mean, *window).values for window in windows]
    ).mean(0)
    share = sizes / sizes.sum()
    _, layers = trace(
        trained.rebuild(params),
        jnp.asarray(part.entries),
        jnp.asarray(part.ahead),
        deterministic=True,
    )
    cell = np.asarray(layers[0].state["c"], np.float64)
    features = np.concatenate([cell, np.ones((*cell.shape[:2], 1))], -1)
    position, half = (
        np.broadcast_to(np.arange(cell.shape[1]), cell.shape[:2]),
        len(cell) // 2,
    )
    weights = np.linalg.lstsq(
        features[:half].reshape(-1, features.shape[-1]),
        position[:half].ravel(),
        rcond=None,
    )[0]
    off = ((features[half:] @ weights - position[half:]) ** 2).mean()
    sixth = max(1, len(share) // 6)
    return {
        "share of the oldest sixth": float(share[:sixth].sum()),
        "share of the newest sixth": float(share[-sixth:].sum()),
        "R2 of the position": float(1 - off / position[half:].var()),
    }


def main() -> None:
    """Load the finished training runs that the command line names, measure what their
    networks do inside, and print the metrics.
    """
    parser = argparse.ArgumentParser(
        description="Measure over held-out data what lstm-jax inspect shows for single "
        "examples."
    )
    for name in ("sentiment", "generation", "forecast"):
        parser.add_argument(f"--{name}", type=Path)
    given = parser.parse_args()
    found: dict[str, float] = {}
    if given.sentiment:
        trained = sentiment.load(given.sentiment)
        rows = sentiment.padded_rows(trained.reviews(), trained.config).test
        require(
            isinstance(rows, sentiment.Rows),
            f"run {given.sentiment}",
            "no test split of padded reviews",
            "train it without --packed",
        )
        assert isinstance(rows, sentiment.Rows)
        found |= ratings(trained, rows) | evidence(trained, rows)
    if given.generation:
        trained = generation.load(given.generation)
        epochs = kept_epochs(trained, 2)
        for number, params in zip(epochs.numbers, epochs.params, strict=True):
            found |= {
                f"{name}, epoch {number}": value
                for name, value in characters(trained, params).items()
            }
    if given.forecast:
        found |= entries(forecast.load(given.forecast))
    for name, value in found.items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
