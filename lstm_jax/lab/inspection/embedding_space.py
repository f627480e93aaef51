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
        none = "nothing is spelt like it; words are lower-case and hold no punctuation"
        raise InputError(
            "unknown word",
            word,
            f"close spellings: {', '.join(close)}" if close else none,
        )
    return words_index[word]


def neighbours(
    table: Float[ndarray, "V E"],
    index: int,
    count: int = 10,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> tuple[Int[ndarray, "found"], Float[ndarray, "found"]]:
    """Return the ids and the scores of the nearest neighbours of a word in an embedding
    table, the nearest first.

    Scores are computed in float64, and words with equal scores are sorted by id. The
    word itself is left out, and so are the ids below 4, which do not stand for words.

    Args:
        table: the embedding table.
        index: id of the word.
        count: number of neighbours. There are fewer if the vocabulary is too small.
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


def project(
    rows: Vectors,
    method: Literal["pca", "pca+axis"] = "pca",
    axis: Float[ndarray, "E"] | None = None,
) -> Float[ndarray, "N 2"]:
    """Project N vectors to a plane and return their coordinates (N, 2), in float64 and
    with mean 0.

    The principal directions are orthogonal unit vectors, sorted by the variance along
    them, the greatest first. The sign of a direction is arbitrary. It is chosen here so
    that, of the E entries of the direction, the one with the largest absolute value is
    positive.

    Args:
        rows: (N, E) the vectors.
        method: "pca" (the projections on the first two principal directions) or
            "pca+axis" (the first coordinate is the projection on `axis`, the second on
            the direction of greatest variance among those that are orthogonal to
            `axis`).
        axis: (E,) a direction of any length for the method "pca+axis", for example the
            kernel of a linear head, or the mean vector of positive words minus the mean
            vector of negative words. With the method "pca" the axis must be None.

    Raises:
        InputError: if there are fewer than 2 vectors or features, a value is not
            finite, `method` is unknown, `axis` is given with "pca", or it is missing,
            zero or not finite with "pca+axis".
    """
    require(method in ("pca", "pca+axis"), "method", method, "choose pca or pca+axis")
    require(
        min(rows.shape) >= 2,
        "vectors to project",
        f"shape {rows.shape}",
        "give at least 2 rows of at least 2 features",
    )
    require(
        np.isfinite(rows).all(),
        "vectors to project",
        "not finite",
        "the model has diverged: lower the learning rate",
    )
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    if method == "pca":
        require(axis is None, "axis", "given", "choose the method pca+axis for it")
        return centred @ _principal(centred, 2).T
    if axis is None:
        raise InputError(
            "axis",
            None,
            "give the direction that x shall follow, or choose the method pca",
        )
    direction = axis.astype(np.float64)
    length = np.linalg.norm(direction)
    require(
        0 < length < np.inf,
        "axis",
        f"length {length}",
        "give a direction that is finite and not zero",
    )
    unit = direction / length
    x = centred @ unit
    # orthogonal to the axis but for rounding errors, whose direction is arbitrary
    rest = centred - np.outer(x, unit)
    y = rest @ _principal(rest, 1)[0]
    return np.stack([x, y], axis=1)


def _principal(centred: ndarray, count: int) -> ndarray:
    directions = np.linalg.svd(centred, full_matrices=False)[2][:count]
    largest = np.take_along_axis(
        directions, np.abs(directions).argmax(axis=1, keepdims=True), axis=1
    )
    return directions * np.sign(largest)


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

    Raises:
        InputError: if `offsets` does not fit `values` and `labels`, an id is not
            between 0 and V - 1, or a label is neither 0 nor 1.
    """
    lengths = np.diff(offsets.astype(np.int64))
    fits = (
        len(offsets) == len(labels) + 1
        and offsets[0] == 0
        and offsets[-1] == len(values)
        and (lengths >= 0).all()
    )
    remedy = "give one a review and the end: 0 to the count of ids"
    require(fits, "offsets", f"{len(offsets)} of them for {len(labels)} labels", remedy)
    inside = ((values >= 0) & (values < vocabulary_size)).all()
    require(
        inside, "word ids", "outside the vocabulary", f"give 0 to {vocabulary_size - 1}"
    )
    require(
        np.isin(labels, (0, 1)).all(), "labels", "other than 0 and 1", "give 0 or 1"
    )
    reviews = np.repeat(np.arange(len(labels)), lengths)
    pairs = np.sort(reviews * vocabulary_size + values.astype(np.int64))
    # np.unique uses a hash table since NumPy 2.3: ten times slower for 6 million ids
    once = pairs[np.diff(pairs, prepend=-1) > 0]
    ids, is_positive = once % vocabulary_size, labels[once // vocabulary_size] == 1
    return np.bincount(ids[is_positive], minlength=vocabulary_size), np.bincount(
        ids, minlength=vocabulary_size
    )


def word_polarity(
    values: Tokens, offsets: Offsets, labels: Labels, vocabulary_size: int
) -> tuple[Float[ndarray, "V"], Counts]:
    """Return two arrays (V,): the polarity of each word, and the number of reviews that
    contain each word.

    The polarity of a word is the share of positive reviews among the reviews that
    contain it, or NaN if there are none. `word_counts` explains the arguments and
    errors.
    """
    positive, count = word_counts(values, offsets, labels, vocabulary_size)
    with np.errstate(invalid="ignore"):
        return positive / count, count


WORD2VEC = rb"\A\d+ \d+\n"
"""Regular expression for the beginning of a file that `export_word2vec` writes."""


def export_word2vec(path: Path, words: Sequence[str], vectors: Vectors) -> None:
    """Write word vectors in the text format of word2vec, which gensim, spaCy and other
    programs read.

    The first line is "N E", and each of the N lines after it "word v1 v2 ...". The
    features have 9 significant digits, so that every float32 can be restored exactly.
    White space and control characters in words are percent-encoded (see `escape`).

    Raises:
        InputError: if there are no vectors, if a word is empty or occurs twice, if the
            numbers of words and vectors differ, if a value is not finite, or if the
            file cannot be written.
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
    columns: Mapping[str, Sequence[object] | ndarray],
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
        columns: further columns of metadata: a dict from the name of a column, such as
            "polarity", to its N values.

    Raises:
        InputError: if a column is named "word", does not have N values, or has a name
            or a value that is empty or contains a tab or a line break, and for the
            reasons of `export_word2vec`.
    """
    written = _checked_words(words, vectors)
    table = {"word": written} | {
        name: [str(value) for value in column] for name, column in columns.items()
    }
    require(
        len(table) == len(columns) + 1,
        "column",
        "word",
        "choose another name: it is taken by the words",
    )
    for name, column in table.items():
        require(
            len(column) == len(words),
            f"column {name}",
            f"{len(column)} values for {len(words)} words",
            "give one a word",
        )
        for cell in (name, *column):
            require(
                not set(cell) & set("\t\r\n") and cell != "",
                f"column {name}",
                repr(cell),
                "give text without tabs and line breaks",
            )
    # The projector takes the first line as the names of the columns only if there are
    # two or more columns.
    rows = [*([tuple(table)] if columns else []), *zip(*table.values(), strict=True)]
    config = (
        "embeddings {",
        '  tensor_name: "embedding"',
        *(f"  tensor_shape: {size}" for size in vectors.shape),
        '  tensor_path: "vectors.tsv"',
        '  metadata_path: "metadata.tsv"',
        "}",
    )
    for name, lines in zip(
        PROJECTOR,
        ([_numbers(vector, "\t") for vector in vectors], map("\t".join, rows), config),
        strict=True,
    ):
        _write_lines(folder / name, lines)


def escape(word: str) -> str:
    """Percent-encode the white space, the control characters and the invalid UTF-8 in a
    word, as in URLs: "a b" becomes "a%20b".

    Keras' vocabulary has words with a no-break space or NEL, which many programs read
    as a line break. A "%" is not changed.

    Args:
        word: the word, in which Python's error handler "surrogateescape" has decoded
            bytes that are not valid UTF-8.

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
    require(
        len(words) == len(vectors),
        "words",
        f"{len(words)} for {len(vectors)} vectors",
        "give one a vector",
    )
    require(
        vectors.size > 0,
        "vectors",
        f"shape {vectors.shape}",
        "give at least one, with at least one feature",
    )
    written = [escape(word) for word in words]
    for word, count in Counter(written).most_common(1):
        require(
            count == 1,
            "word",
            repr(word),
            "give each word once: readers keep only one of a spelling",
        )
    return written


def _numbers(vector: ndarray, separator: str) -> str:
    return separator.join(f"{value:.9g}" for value in vector.tolist())


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    write_atomically(path, "".join(f"{line}\n" for line in lines))
