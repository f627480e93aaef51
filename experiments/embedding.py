"""Does training bring similar words nearer to each other, and which are similar to it?

    python -m experiments.embedding --preset toy        # seconds
    LSTM_JAX_DATA=... python -m experiments.embedding --workers 2       # 12 minutes on two cores at 200 GFLOP/s

The source says that an embedding learned in context is to "minimize the euclidean distance of the similar words". Put to the test on IMDB
with the source's model, two epochs, three seeds: mean Euclidean distance of pairs within groups of words that people call similar, and over
that of pairs across to the nearest other group, before and after training; against the same with the labels shuffled, where nothing can be
learned but by heart, and against skip-grams with negative samples (word2vec, Mikolov et al. 2013, by gensim) of the same reviews without
labels, whose vectors are scaled to length 1.

Expected: words that praise come nearer to each other than to words that blame; family, numbers and roles stay where chance put them, for
the loss sees the verdict alone.
"""

import sys
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from experiments import runs, study
from lstm_jax import data
from lstm_jax.config import DataConfig, SentimentConfig, SentimentModelConfig, TrainConfig
from lstm_jax.errors import InputError
from lstm_jax.inspection import embedding_space
from lstm_jax.inspection.figures import write_figure

GROUPS = {
    "praise": "great excellent wonderful superb brilliant fantastic amazing perfect masterpiece favorite good",
    "blame": "awful terrible worst horrible poor boring waste stupid dull lame bad",
    "family": "mother father brother sister son daughter wife husband",
    "numbers": "two three four five six seven eight nine ten",
    "roles": "actor actress director writer producer cast",
    "small words": "the a of in on at by with from to",
}
WORD2VEC_EPOCHS = 5
ASKED = ("great", "awful", "mother", "three")


Labels = Literal["own", "shuffled", "word2vec"]


@dataclass(frozen=True)
class Config:
    """labels: the reviews' own, or the same in a random order; or word2vec instead, which needs none; task: the run."""

    labels: Labels = "own"
    task: SentimentConfig = field(default_factory=SentimentConfig)


def distances(table: np.ndarray, ids: dict[str, list[int]]) -> dict[str, float]:
    """Group, or two groups joined by /, -> the mean Euclidean distance of its pairs, or across them."""
    found = {}
    for name, words in ids.items():
        pairs = [np.linalg.norm(table[a] - table[b]) for a, b in combinations(words, 2)]
        found[name] = float(np.mean(pairs))
    for one, other in combinations(ids, 2):
        found[f"{one}/{other}"] = float(np.mean([np.linalg.norm(table[a] - table[b]) for a, b in product(ids[one], ids[other])]))
    return found


def word2vec(reviews: data.EncodedReviews, task: SentimentConfig) -> tuple[np.ndarray, np.ndarray]:
    """Tables (V, E) before and after training on the training reviews, rows of length 1; words that they lack, zeros.

    Raises:
        InputError: without gensim.
    """
    try:
        from gensim.models import Word2Vec  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("gensim", "not installed", 'pip install ".[experiments]"') from error
    train = reviews.train
    texts = [[str(number) for number in train.values[a:b]] for a, b in pairwise(train.offsets)]
    # with several threads each run would read them in another order
    model = Word2Vec(vector_size=task.model.embed, min_count=1, sg=1, seed=task.train.seed, workers=1)
    model.build_vocab(texts)
    tables = []
    for epochs in (0, WORD2VEC_EPOCHS):
        if epochs:
            model.train(texts, total_examples=len(texts), epochs=epochs)
        table = np.zeros((reviews.vocabulary.size, task.model.embed), np.float32)
        words: Any = model.wv.index_to_key
        table[[int(word) for word in words]] = model.wv.get_normed_vectors()
        tables.append(table)
    return tables[0], tables[1]


def run(config: Config) -> dict[str, Any]:
    """Distances before and after, neighbours, and a plane of the groups' words."""
    from lstm_jax.models import functional
    from lstm_jax.tasks import sentiment

    def shuffled(reviews: data.EncodedReviews) -> data.EncodedReviews:
        order = np.random.default_rng(config.task.train.seed).permutation(len(reviews.train))
        return replace(reviews, train=replace(reviews.train, labels=reviews.train.labels[order]))

    result = None
    if config.labels == "word2vec":
        reviews = runs.reviews_of(config.task)
        before, after = word2vec(reviews, config.task)
    else:
        reviews, result = runs.train_sentiment(config.task, shuffled if config.labels == "shuffled" else None)
        before = np.asarray(functional(sentiment.make_model(config.task, reviews.vocabulary.size)).params["embedding/embedding"])
        after = np.asarray(result.params["embedding/embedding"])
    words = {word: number for word, number in reviews.vocabulary.index.items() if number < reviews.vocabulary.size}
    ids = {name: [words[word] for word in text.split() if word in words] for name, text in GROUPS.items()}
    ids = {name: found for name, found in ids.items() if len(found) > 1}
    every = [number for group in ids.values() for number in group]
    near = {}
    for word in (word for word in ASKED if word in words):
        found, _ = embedding_space.neighbours(after[: max(words.values()) + 1], words[word], 8, "euclidean")
        near[word] = " ".join(reviews.vocabulary.word(int(number)) for number in found)
    return {
        "before": list(distances(before, ids).items()),
        "after": list(distances(after, ids).items()),
        "neighbours": list(near.items()),
        "map": embedding_space.project(after[every]).tolist(),
        "words": [[reviews.vocabulary.word(number), name] for name, group in ids.items() for number in group],
        "test_accuracy": result.rows[-1]["test_accuracy"] if result else None,
    }


LABELS = {"own": "own labels", "shuffled": "shuffled labels", "word2vec": "word2vec"}


def ratio(pairs: Any, name: str) -> float:
    """Mean distance within a group over that to the nearest other group."""
    found = dict(pairs)
    return found[name] / min(value for key, value in found.items() if "/" in key and name in key.split("/"))


def verdict(rows: study.Rows) -> str:
    """A line a group, and neighbours of the first seed."""
    lines = []
    for labels, said in LABELS.items():
        those = [row for row in rows if row["labels"] == labels]
        for name in (name for name in GROUPS if those and name in dict(those[0]["after"])):
            ratios = [np.mean([ratio(row[when], name) for row in those]) for when in ("before", "after")]
            within = [np.mean([dict(row[when])[name] for row in those]) for when in ("before", "after")]
            told = "{:.3f} before, {:.3f} after; that to the nearest other group over it: {:.2f}, {:.2f}"
            lines.append(f"{said}, {name}: mean distance within {told.format(*within, *(1 / one for one in ratios))}")
    for labels, said in LABELS.items():
        first = next((row for row in rows if row["labels"] == labels), None)
        lines += [f"{said}, near {word}: {found}" for word, found in first["neighbours"]] if first else []
    return "\n".join(lines)


def draw(rows: study.Rows, path: Path) -> object:
    """Ratios before, after, after shuffled labels and by word2vec; the words in a plane."""

    def fill(figure: Any) -> None:
        bars, plane = figure.subplots(1, 2, width_ratios=[1, 1.3])
        inks = dict(zip(GROUPS, ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#777777"), strict=True))
        own, shuffled, skips = ([row for row in rows if row["labels"] == labels] for labels in LABELS)
        names = [name for name in GROUPS if name in dict(rows[0]["after"])]
        for place, name in enumerate(names):
            for those, when, mark in ((own, "before", "|"), (own, "after", "o"), (shuffled, "after", "x"), (skips, "after", "+")):
                if those:
                    bars.plot(np.mean([ratio(row[when], name) for row in those]), place, mark, color=inks[name], markersize=9)
        bars.set_yticks(range(len(names)), names)
        bars.invert_yaxis()
        bars.axvline(1, color="#222222", linewidth=0.8)
        bars.set_xlabel(
            "distance within the group over that to the nearest other\n| untrained   o trained   x on shuffled labels   + word2vec"
        )
        first = (own or rows)[0]
        for (word, name), (x, y) in zip(first["words"], first["map"], strict=True):
            plane.text(x, y, word, color=inks[name], fontsize=8, ha="center", va="center")
        at = np.asarray(first["map"])
        plane.set_xlim(at[:, 0].min() * 1.1, at[:, 0].max() * 1.1)
        plane.set_ylim(at[:, 1].min() * 1.1, at[:, 1].max() * 1.1)
        plane.set_title("trained vectors, first two principal components")

    return write_figure(path, (11.0, 4.8), fill)


def configs(base: SentimentConfig, seeds: int) -> list[Config]:
    """Own and shuffled labels, and word2vec."""
    seeded = [replace(base, train=replace(base.train, seed=seed)) for seed in range(seeds)]
    return [Config(labels, task) for labels in get_args(Labels) for task in seeded]


SMALL = SentimentConfig(DataConfig("synthetic", maxlen=8), SentimentModelConfig(embed=4, units=4), TrainConfig(epochs=1))
FULL = configs(SentimentConfig(train=TrainConfig(epochs=2)), 3)
STUDY = study.Study("embedding", run, {"toy": configs(SMALL, 1), "full": FULL}, draw, verdict)

if __name__ == "__main__":
    sys.exit(study.main(STUDY))
