"""Analysis of an embedding table: nearest neighbours, projection to a plane, polarity
of words, and export to other programs.

The table is a NumPy array (V, E), where V is the size of the vocabulary and E the
number of features of a word.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np
from jaxtyping import Float, Int, Integer, Shaped
from numpy import ndarray

from lstm_jax.base.errors import InputError, require
from lstm_jax.base.writing import write_atomically

Vectors = Float[ndarray, "N E"]
Tokens = Integer[ndarray, "tokens"]
Offsets = Integer[ndarray, "boundaries"]
Labels = Shaped[ndarray, "reviews"]
Counts = Int[ndarray, "V"]
# ids that are not words: padding, start of a review, word outside the vocabulary,
# unused
RESERVED_IDS = 4


def lookup(words_index: Mapping[str, int], word: str) -> int:
    """Return the id of a word. If it is unknown, an `InputError` names words with a
    similar spelling.
    """
    if word not in words_index:
        close = difflib.get_close_matches(word, words_index, n=5)
        remedy = (
            "nothing is spelt like it; words are lower-case and hold no punctuation"
        )
        if close:
            remedy = f"close spellings: {', '.join(close)}"
        raise InputError("unknown word", word, remedy)
    return words_index[word]


def neighbours(
    table: Float[ndarray, "V E"],
    index: int,
    count: int = 10,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> tuple[Int[ndarray, "found"], Float[ndarray, "found"]]:
    """Return the ids and the scores of the nearest neighbours of a word in an embedding
    table, the nearest first.

    The word itself and the ids below 4, which do not stand for words, are left out. Words
    with equal scores are sorted by id.

    Args:
        table: the embedding table.
        index: id of the word.
        count: largest number of neighbours.
        metric: "cosine" (cosine similarity, 1 is nearest) or "euclidean" (distance, 0
            is nearest). The similarity with a zero vector is 0.

    Raises:
        InputError: if `index` is outside the table, `count` is below 1, or `metric` is
            neither "cosine" nor "euclidean".
    """
    require(0 <= index < len(table), "word id", index, f"give 0 to {len(table) - 1}")
    require(count >= 1, "count of neighbours", count, "give 1 or more")
    wide = table.astype(np.float64)
    word = wide[index]
    if metric == "cosine":
        norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(word)
        scores = np.divide(wide @ word, norms, out=np.zeros(len(wide)), where=norms > 0)
    else:
        require(metric == "euclidean", "metric", metric, "choose cosine or euclidean")
        scores = np.linalg.norm(wide - word, axis=1)
    order = np.argsort(-scores if metric == "cosine" else scores, kind="stable")
    ids = order[(order >= RESERVED_IDS) & (order != index)][:count]
    return ids, scores[ids]


def project(rows: Vectors) -> Float[ndarray, "N 2"]:
    """Project N vectors (N, E) on their first two principal directions, and return
    their coordinates (N, 2), in float64 and with mean 0.

    The sign of a direction is arbitrary: here the entry with the largest absolute value
    is positive.

    Raises:
        InputError: if there are fewer than 2 vectors or features, or a value is not
            finite.
    """
    subject = "vectors to project"
    remedy = "give at least 2 rows of at least 2 features"
    require(min(rows.shape) >= 2, subject, f"shape {rows.shape}", remedy)
    remedy = "the model has diverged: lower the learning rate"
    require(np.isfinite(rows).all(), subject, "not finite", remedy)
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:2]
    at = np.abs(directions).argmax(axis=1, keepdims=True)
    signs = np.sign(np.take_along_axis(directions, at, axis=1))
    return centred @ (directions * signs).T


def word_counts(
    values: Tokens, offsets: Offsets, labels: Labels, vocabulary_size: int
) -> tuple[Counts, Counts]:
    """Return two arrays (V,): the number of positive reviews and the number of all
    reviews that contain each word.

    Args:
        values: word ids of all reviews, concatenated.
        offsets: offsets of the reviews in `values`. Review r is values[offsets[r] :
            offsets[r + 1]].
        labels: label of each review, 0 (negative) or 1 (positive).
        vocabulary_size: number V of word ids.
    """
    reviews = np.repeat(np.arange(len(labels)), np.diff(offsets))
    pairs = np.sort(reviews * vocabulary_size + values.astype(np.int64))
    # np.unique uses a hash table since NumPy 2.3: ten times slower for 6 million ids
    once = pairs[np.diff(pairs, prepend=-1) > 0]
    ids = once % vocabulary_size
    positive = ids[labels[once // vocabulary_size] == 1]
    return (
        np.bincount(positive, minlength=vocabulary_size),
        np.bincount(ids, minlength=vocabulary_size),
    )


WORD2VEC = rb"\A\d+ \d+\n"
"""Regular expression for the beginning of a file that `export_word2vec` writes."""


def export_word2vec(path: Path, words: Sequence[str], vectors: Vectors) -> None:
    """Write word vectors in the text format of word2vec, which gensim, spaCy and other
    programs read.

    The first line is "N E", and each of the N lines after it "word v1 v2 ...". The
    features have 9 significant digits, so that every float32 can be restored exactly.

    Raises:
        InputError: if there are no vectors, if a word is empty or occurs twice after
            `escape`, or if the file cannot be written.
    """
    written = _checked_words(words, vectors)
    lines = [
        f"{word} {_numbers(vector, ' ')}"
        for word, vector in zip(written, vectors, strict=True)
    ]
    _write_lines(path, [f"{vectors.shape[0]} {vectors.shape[1]}", *lines])


PROJECTOR = {
    "vectors.tsv": rb"\A-?\d[-+.e\d]*[\t\n]",
    "metadata.tsv": rb"\Aword\t",
    "projector_config.pbtxt": rb'\Aembeddings \{\n  tensor_name: "embedding"',
}
"""Names of the files that `export_projector` writes, each with a regular expression for
the beginning of the file."""


def export_projector(
    folder: Path,
    words: Sequence[str],
    vectors: Vectors,
    columns: Mapping[str, ndarray],
) -> None:
    """Write word vectors as files for TensorBoard's embedding projector: vectors.tsv,
    metadata.tsv and projector_config.pbtxt.

    `tensorboard --logdir FOLDER` shows the embedding. The web page
    projector.tensorflow.org loads the two .tsv files.

    Args:
        folder: folder of the files. It is created if it does not exist.
        words: the N words, which label the points. White space and control characters
            in them are percent-encoded (see `escape`).
        vectors: (N, E) the vector of each word.
        columns: one or more further columns of metadata: a dict from the name of a
            column to its N numbers.

    Raises:
        InputError: for the reasons of `export_word2vec`.
    """
    table = {"word": _checked_words(words, vectors)}
    table |= {name: [*map(str, column)] for name, column in columns.items()}
    rows = [tuple(table), *zip(*table.values(), strict=True)]
    config = (
        "embeddings {",
        '  tensor_name: "embedding"',
        *(f"  tensor_shape: {size}" for size in vectors.shape),
        '  tensor_path: "vectors.tsv"',
        '  metadata_path: "metadata.tsv"',
        "}",
    )
    contents = (
        (_numbers(vector, "\t") for vector in vectors),
        map("\t".join, rows),
        config,
    )
    for name, lines in zip(PROJECTOR, contents, strict=True):
        _write_lines(folder / name, lines)


def escape(word: str) -> str:
    """Percent-encode the white space, the control characters and the invalid UTF-8 in a
    word, as in URLs: "a b" becomes "a%20b". A "%" is not changed.

    Keras' vocabulary has words with a no-break space or NEL, which many programs read
    as a line break.

    Raises:
        InputError: if the word is empty, or contains a surrogate that the error handler
            "surrogateescape" does not produce.
    """
    require(word != "", "word", "empty", "leave words without letters out")
    try:
        return "".join(
            c if c.isprintable() and c != " " else quote(c, errors="surrogateescape")
            for c in word
        )
    except UnicodeEncodeError as error:
        raise InputError("word", repr(word), "give valid Unicode") from error


def _checked_words(words: Sequence[str], vectors: ndarray) -> list[str]:
    remedy = "give at least one, with at least one feature"
    require(vectors.size > 0, "vectors", f"shape {vectors.shape}", remedy)
    written = [escape(word) for word in words]
    word, count = Counter(written).most_common(1)[0]
    remedy = "give each word once: readers keep only one of a spelling"
    require(count == 1, "word", repr(word), remedy)
    return written


def _numbers(vector: ndarray, separator: str) -> str:
    return separator.join(f"{value:.9g}" for value in vector.tolist())


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    write_atomically(path, "".join(f"{line}\n" for line in lines))
