"""Study of two questions: Does training on sentiment bring the embeddings of similar
words closer together? Which words become similar?

    # gensim, for word2vec
    pip install ".[experiments]"
    python -m experiments.embedding --preset toy                     # seconds
    # 12 minutes on two cores with 200 GFLOP/s together
    LSTM_JAX_DATA=... python -m experiments.embedding --workers 2

The study tests a claim of tutorials: a learned embedding serves to "minimize the
euclidean distance of the similar words". The model of the Keras example imdb_lstm is
trained on IMDB for two epochs, with three seeds. For groups of words with similar
meanings, two values are measured before and after training. The first is the mean
Euclidean distance between two words of the group. The second is the first value divided
by the mean distance to the words of the nearest other group. The nearest other group is
the one whose words have the smallest mean distance to the words of the group.

There are two controls. In the first control, the labels are shuffled, so that the loss
can only fall by memorising. The second control is gensim's word2vec (skip-grams with
negative sampling, Mikolov et al. 2013). It is trained on the same reviews without
labels, and its vectors are scaled to length 1.

Expected: Training makes the distances between words of praise smaller than those
between words of praise and words of blame. In the groups "family", "numbers" and
"roles", the distances stay near their random initial values, because the loss depends
only on the sentiment.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from typing import Any, Literal, get_args

import numpy as np
from scipy.spatial.distance import cdist, pdist

from experiments import runs
from experiments.study import (
    GREY,
    Metrics,
    Row,
    Rows,
    Study,
    flat,
    main,
    means,
    plot_means,
    rows_with,
)
from lstm_jax.lab import sweep
from lstm_jax.lab.inspection import embedding_space
from lstm_jax.lab.inspection.figures import BLUE, GREEN, INK, ORANGE, PINK, YELLOW
from lstm_jax.lab.sentiment import data
from lstm_jax.lab.sentiment.config import SentimentConfig
from lstm_jax.training.config import TrainConfig

GROUPS = {
    "praise": (
        "great excellent wonderful superb brilliant fantastic amazing perfect "
        "masterpiece favorite good"
    ),
    "blame": "awful terrible worst horrible poor boring waste stupid dull lame bad",
    "family": "mother father brother sister son daughter wife husband",
    "numbers": "two three four five six seven eight nine ten",
    "roles": "actor actress director writer producer cast",
    "small words": "the a of in on at by with from to",
}
WORD2VEC_EPOCHS = 5
QUERIES = ("great", "awful", "mother", "three")


Labels = Literal["own", "shuffled", "word2vec"]


@dataclass(frozen=True)
class Config:
    """Config of one run of the study: the kind of labels that the embedding is trained
    on, and the config of the sentiment task.
    """

    labels: Labels = "own"
    """Labels for training: "own" (the reviews' own labels), "shuffled" (shuffled
    labels) or "word2vec" (no labels; word2vec is trained)."""
    task: SentimentConfig = field(default_factory=SentimentConfig)


def distances(table: np.ndarray, ids: dict[str, list[int]]) -> list[tuple[str, float]]:
    """Return the mean Euclidean distances between words, within each group and between
    each pair of groups.
    """
    within = {name: float(pdist(table[words]).mean()) for name, words in ids.items()}
    between = {
        f"{one}/{two}": float(cdist(table[ids[one]], table[ids[two]]).mean())
        for one, two in combinations(ids, 2)
    }
    return [*within.items(), *between.items()]


def word2vec(
    reviews: data.EncodedReviews, task: SentimentConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Train gensim's word2vec on the training reviews, and return the embeddings before
    and after training.
    """
    from gensim.models import Word2Vec  # pyright: ignore[reportMissingImports]

    train = reviews.train
    texts = [
        [str(number) for number in train.values[a:b]]
        for a, b in pairwise(train.offsets)
    ]
    # one worker, because several threads would read the texts in a different order in
    # each run
    model = Word2Vec(
        vector_size=task.model.embed, min_count=1, sg=1, seed=task.train.seed, workers=1
    )
    model.build_vocab(texts)
    words: Any = model.wv.index_to_key

    def table():
        found = np.zeros((reviews.vocabulary.size, task.model.embed), np.float32)
        found[[int(word) for word in words]] = model.wv.get_normed_vectors()
        return found

    before = table()
    model.train(texts, total_examples=len(texts), epochs=WORD2VEC_EPOCHS)
    return before, table()


def run(config: Config) -> Metrics:
    """Train an embedding, and measure the distances between words before and after
    training.
    """
    from lstm_jax.lab.sentiment import task as sentiment
    from lstm_jax.training.parts import functional

    def shuffled(reviews):
        order = np.random.default_rng(config.task.train.seed).permutation(
            len(reviews.train)
        )
        return replace(
            reviews, train=replace(reviews.train, labels=reviews.train.labels[order])
        )

    accuracy = None
    if config.labels == "word2vec":
        reviews = runs.reviews_of(config.task)
        before, after = word2vec(reviews, config.task)
    else:
        reviews, result = runs.train_sentiment(
            config.task, shuffled if config.labels == "shuffled" else None
        )
        untrained = functional(
            sentiment.make_model(config.task, reviews.vocabulary.size)
        ).params
        before, after = (
            np.asarray(params["embedding/embedding"])
            for params in (untrained, result.params)
        )
        accuracy = result.rows[-1]["test_accuracy"]
    words = {
        word: number
        for word, number in reviews.vocabulary.index.items()
        if number < reviews.vocabulary.size
    }
    ids = {
        name: [words[word] for word in text.split() if word in words]
        for name, text in GROUPS.items()
    }
    ids = {name: found for name, found in ids.items() if len(found) > 1}
    grouped = [(number, name) for name, group in ids.items() for number in group]
    near = []
    for word in (word for word in QUERIES if word in words):
        found, _ = embedding_space.neighbours(
            after[: max(words.values()) + 1], words[word], 8, "euclidean"
        )
        near.append(
            (word, " ".join(reviews.vocabulary.word(int(number)) for number in found))
        )
    return {
        "before": distances(before, ids),
        "after": distances(after, ids),
        "neighbours": near,
        "map": embedding_space.project(
            after[[number for number, _ in grouped]]
        ).tolist(),
        "words": [[reviews.vocabulary.word(number), name] for number, name in grouped],
        "test_accuracy": accuracy,
    }


LABELS = {"own": "own labels", "shuffled": "shuffled labels", "word2vec": "word2vec"}


def within(row: Row, when: str, name: str) -> float:
    """Return the mean distance between two words of a group, before or after training."""
    return dict(row[when])[name]


def ratio(row: Row, when: str, name: str) -> float:
    """Return the mean distance between two words of a group, divided by the mean
    distance to the words of the nearest other group.
    """
    return within(row, when, name) / min(
        value for key, value in row[when] if "/" in key and name in key.split("/")
    )


def measured(rows: Rows) -> Rows:
    """Return a row for each measurement of a group of words: with each kind of labels,
    before and after training.
    """
    return [
        flat(
            {
                "trained": f"{row['labels']}, {when}",
                "group": name,
                "seed": row["task.train.seed"],
            },
            {"within": within(row, when, name), "ratio": ratio(row, when, name)},
        )
        for row in rows
        for when in ("before", "after")
        for name in GROUPS
        if name in dict(row[when])
    ]


def verdict(rows: Rows) -> Iterator[str]:
    """Return the conclusion of the study."""
    found = means(measured(rows), ("trained", "group"))
    for labels, title in LABELS.items():
        for name in (name for name in GROUPS if (f"{labels}, after", name) in found):
            before, after = (
                found[f"{labels}, {when}", name] for when in ("before", "after")
            )
            yield (
                f"{title}, {name}: mean distance within "
                f"{before['within'].mean:.3f} before, "
                f"{after['within'].mean:.3f} after; "
                "that to the nearest other group over it: "
                f"{1 / before['ratio'].mean:.2f}, "
                f"{1 / after['ratio'].mean:.2f}"
            )
    for labels, title in LABELS.items():
        for word, neighbours in next(
            (row["neighbours"] for row in rows_with(rows, "labels", labels)), ()
        ):
            yield f"{title}, near {word}: {neighbours}"


def draw(rows: Rows, figure) -> None:
    """Draw two panels: the distances between similar words, and a map of the words."""
    bars, plane = figure.subplots(2, 1, height_ratios=[1, 1.7])
    inks = dict(zip(GROUPS, (BLUE, ORANGE, GREEN, PINK, YELLOW, GREY), strict=True))
    names = [name for name in GROUPS if name in dict(rows[0]["after"])]
    marks = {
        trained: {
            "marker": mark,
            "color": ink,
            "label": title,
            "markersize": 10,
            "markeredgewidth": 2,
        }
        for trained, mark, ink, title in (
            ("own, before", "_", GREY, "untrained"),
            ("own, after", "o", BLUE, "trained on sentiment"),
            ("shuffled, after", "x", ORANGE, "trained on shuffled labels"),
            ("word2vec, after", "+", GREEN, "word2vec"),
        )
    }
    plot_means(
        bars,
        [row for row in measured(rows) if row["trained"] in marks],
        "ratio",
        "group",
        "trained",
        marks,
    )
    bars.axhline(1, color=INK, linewidth=0.8)
    bars.set(
        xlabel="",
        ylabel="mean distance within the group,\nin distances to the nearest other "
        "group",
    )
    first = rows_with(rows, "labels", "own")[0]
    placed, across = [], np.asarray(first["map"])
    for name in names:
        plane.plot(
            *across[[group == name for _, group in first["words"]]].T,
            "o",
            color=inks[name],
            markersize=4,
            label=name,
        )
    plane.set(
        xlabel="first principal component of the trained vectors",
        ylabel="second principal component",
    )
    bars.legend()
    plane.legend()
    # the places of the words are known after the layout
    figure.draw_without_rendering()
    for (word, name), point in zip(first["words"], first["map"], strict=True):
        label = plane.annotate(
            word,
            point,
            (0, 3),
            textcoords="offset points",
            color=inks[name],
            fontsize=9,
            ha="center",
        )
        label.set_in_layout(False)
        while any(label.get_window_extent().overlaps(box) for box in placed):
            label.xyann = 0, label.xyann[1] + 1  # words do not overlap
        placed.append(label.get_window_extent())


def configs(base: SentimentConfig, seeds: int) -> list[Config]:
    """Return the configs of all runs, one for every combination of a seed and a value
    of `Config.labels`, such as "shuffled".
    """
    return sweep.grid(
        Config(task=base),
        **{"labels": get_args(Labels), "task.train.seed": range(seeds)},
    )


FULL = configs(SentimentConfig(train=TrainConfig(epochs=2)), 3)
STUDY = Study(
    "embedding",
    run,
    {"toy": configs(runs.SMALL_SENTIMENT, 1), "full": FULL},
    draw,
    (10.0, 10.0),
    verdict,
    needs="gensim",
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
