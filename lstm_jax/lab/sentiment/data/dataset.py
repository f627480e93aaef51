"""Encoded reviews: their division into a training and a validation split that have no
movie and no text in common, Keras' files of IMDB, and the preparation of any source.

A cache file is an .npz file that contains the reviews of one source, encoded with
certain options. Its name contains a hash of the source and the options. The checksums
of its arrays are verified whenever the file is read.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import checked, frozen
from lstm_jax.base.errors import InputError, parsing, require, system_errors
from lstm_jax.base.reading import open_input
from lstm_jax.base.types import AnyPath
from lstm_jax.base.writing import default_cache_dir, user_path, write_atomically
from lstm_jax.lab.files.padding import joined_rows, pad_rows, ragged
from lstm_jax.lab.files.reading import download, file_digest, read_input
from lstm_jax.lab.sentiment.config import Kind
from lstm_jax.lab.sentiment.data.reviews import (
    ARCHIVE_NAME,
    TextSplits,
    check_classes,
    check_size,
    check_splits,
    download_archive,
)
from lstm_jax.lab.sentiment.data.sources import find_source, load_reviews, read_source
from lstm_jax.lab.sentiment.data.tfds_dataset import (
    load_tfds,
    quiet_tfds,
    tfds_builder,
    tfds_dir,
)
from lstm_jax.lab.sentiment.data.vocabulary import (
    FIRST_WORD,
    START,
    UNKNOWN,
    Vocabulary,
    build_vocabulary,
    content_hashes,
    tokenize,
)

BLOCK = 4096
"""Number of reviews that `EncodedSplit.blocks` reads at a time."""


@frozen
class EncodedSplit:
    """N encoded reviews. Their word ids are in memory or, if they were read by
    `read_review_shards`, in memory-mapped files.
    """

    values: Any
    """One-dimensional int32 array of the ids of all reviews, concatenated. Each review
    begins with the start id 1. For reviews in files, the `MappedIds` of the file."""
    offsets: ndarray
    """(N + 1,) int64: review n is `values[offsets[n]:offsets[n + 1]]`. For reviews in
    files, the offsets of all reviews of the file."""
    labels: ndarray
    """(N,) int32: 0 negative, 1 positive."""
    groups: ndarray
    """(N,) int32: index of the movie of each review, or -1 if the movie is unknown. A
    movie has the same index in every split."""
    digests: ndarray | None = None
    """(N,) uint64: hash of the words of each review, or None if only the ids are known.
    """
    places: Any = ...
    """For reviews in files, the index (N,) of each review in `offsets`."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def mapped(self) -> bool:
        """Whether the ids are in memory-mapped files."""
        return not isinstance(self.values, ndarray)

    @cached_property
    def starts(self) -> ndarray:
        """Index in `values` of the first id of each review, as an array (N,)."""
        return self.offsets[:-1][self.places]

    @cached_property
    def lengths(self) -> ndarray:
        """Number of ids of each review, including the start id, as an array (N,)."""
        return self.offsets[1:][self.places] - self.starts

    def row(self, number: int) -> ndarray:
        """Return the ids (T,) of the review with the index `number`."""
        begin = self.starts[number]
        return self.values[begin : begin + self.lengths[number]]

    def padded(
        self, maxlen: int, padding: str = "pre", truncating: str = "pre"
    ) -> ndarray:
        """Pad the reviews with 0 or cut them to the same length, and return them as an
        int32 array (N, maxlen); see `pad_ragged`.
        """
        return pad_rows(
            self.values, self.starts, self.lengths, maxlen, padding, truncating
        )

    def in_memory(self) -> "EncodedSplit":
        """Return the same reviews, with their ids in memory."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        values = joined_rows(self.values, self.starts, self.lengths)
        return EncodedSplit(values, offsets, self.labels, self.groups, self.digests)

    def select(self, rows: ndarray | slice) -> "EncodedSplit":
        """Return the reviews with the indices `rows`, in the order of `rows`. Ids in
        files are not read.
        """
        places = self.places if self.mapped else np.arange(len(self))
        digests = None if self.digests is None else self.digests[rows]
        chosen = EncodedSplit(
            self.values,
            self.offsets,
            self.labels[rows],
            self.groups[rows],
            digests,
            places[rows],
        )
        return chosen if self.mapped else chosen.in_memory()

    def blocks(self) -> "Iterator[EncodedSplit]":
        """Yield the reviews in blocks of `BLOCK` (4096) reviews, with their ids in
        memory. The last block may be smaller.
        """
        for begin in range(0, len(self), BLOCK):
            yield self.select(slice(begin, begin + BLOCK)).in_memory()

    def hashes(self) -> ndarray:
        """Return a hash of the words of each review, or of its ids if `digests` is
        None, as a uint64 array (N,). Copies of a review have equal hashes.
        """
        if self.digests is not None:
            return self.digests
        return content_hashes(self.row(number).data for number in range(len(self)))


@frozen
class EncodedReviews:
    """Data set of encoded reviews, in memory or in files, with the vocabulary that
    encoded them.
    """

    train: EncodedSplit
    test: EncodedSplit | None
    vocabulary: Vocabulary
    fingerprint: str
    """SHA-256 of the content of the source, or of the index of the shards, and of every
    option that affects the ids or the order of the reviews."""


def grouped_split(
    labels: ndarray,
    groups: ndarray,
    fraction: float,
    seed: int,
    text_hashes: ndarray | None = None,
) -> tuple[ndarray, ndarray]:
    """Divide N rows (labelled reviews) into a training and a validation split.

    Rows of the same group or the same text are in the same split. The validation split
    therefore has only about the share `fraction` of the rows of each class.

    Args:
        labels: (N,) class of each row, 0 or 1.
        groups: (N,) index of the group (movie) of each row. A row with the index -1 is
            a group of its own.
        fraction: share of the rows in the validation split, above 0 and below 1.
        seed: seed of the random choice of the groups in the validation split.
        text_hashes: (N,) integers that are equal for rows with equal texts, such as
            `EncodedSplit.hashes()`. If None, texts are not compared.

    Returns:
        The indices of the rows in the training split, and the indices of the rows in
        the validation split, as sorted int64 arrays.

    Raises:
        InputError: if `fraction` is not between 0 and 1, or if the groups are so large
            that one of the classes is missing in a split.
    """
    require(0 < fraction < 1, "validation", fraction, "give a share between 0 and 1")
    counts, component = row_sets(labels, groups, text_hashes)
    order = np.random.default_rng(seed).permutation(len(counts))
    chosen = _choose(counts, fraction, order, {})
    if min(counts[chosen].sum(axis=0).min(), counts[~chosen].sum(axis=0).min()) == 0:
        chosen = _choose(counts, fraction, order, _pinned(counts, order))
    mask = chosen[component]
    parts = np.flatnonzero(~mask), np.flatnonzero(mask)
    for name, part in zip(("training", "validation"), parts, strict=True):
        check_classes(
            labels[part],
            f"{name} part of {len(labels)} reviews",
            "give more reviews or movies, or another share",
        )
    return parts


def row_sets(
    labels: ndarray, groups: ndarray, text_hashes: ndarray | None
) -> tuple[ndarray, ndarray]:
    """Divide N rows into C sets of rows that must be in the same split.

    Returns:
        The number of rows of each class in each set (C, 2), and the index of the set of
        each row (N,).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.arange(len(labels))
    edges = []  # each row is connected with the first row of the same key
    for key in (
        np.where(groups < 0, -1 - rows, groups),
        *(() if text_hashes is None else (text_hashes,)),
    ):
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        edges.append(
            coo_array(
                (np.ones(len(rows)), (rows, first[inverse])),
                shape=(len(rows), len(rows)),
            )
        )
    count, component = connected_components(sum(edges), directed=False)
    return np.bincount(2 * component + labels, minlength=2 * count).reshape(
        -1, 2
    ), component


def _choose(
    counts: ndarray, fraction: float, order: ndarray, pinned: dict[int, bool]
) -> ndarray:
    """Choose sets of rows for the validation split, so that it has about `fraction` of
    the rows of each class.
    """
    chosen = np.zeros(len(counts), bool)
    chosen[list(pinned)] = list(pinned.values())
    missing = np.round(counts.sum(axis=0) * fraction).astype(np.int64) - counts[
        chosen
    ].sum(axis=0)
    free = order[~np.isin(order, list(pinned))]
    for number in free.tolist():
        if (counts[number] <= missing).all():
            chosen[number] = True
            missing -= counts[number]
    # No remaining set fits. Now add or remove the one set that brings both shares
    # nearest to their aim, until no set improves them.
    while len(free):
        signs = np.where(chosen[free], -1, 1)
        costs = np.abs(missing - signs[:, None] * counts[free]).sum(axis=1)
        best = costs.argmin()
        if costs[best] >= np.abs(missing).sum():
            break
        chosen[free[best]] = signs[best] > 0
        missing -= signs[best] * counts[free[best]]
    return chosen


def _pinned(counts: ndarray, order: ndarray) -> dict[int, bool]:
    """Choose sets of rows for the validation split (True) and the training split
    (False), so that both have rows of each class.
    """
    pinned = {}
    sizes = counts.sum(axis=1)
    for label in (0, 1):
        holders = sorted(
            (number for number in order.tolist() if counts[number, label]),
            key=sizes.__getitem__,
        )[:2]
        if len(holders) == 2:
            first, second = holders
            if pinned.get(first) is False or pinned.get(second):
                first, second = second, first
            pinned |= {first: True, second: False}
    return pinned


SHA256 = "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"
"""Checksum of the published imdb.npz, which `keras.datasets.imdb.load_data` checks too.
No other file is read, since a pickle can run code."""
WORD_INDEX_NAME = "imdb_word_index.json"
WORD_INDEX_MD5 = "bfafd718b763782e994055a2d397834f"
WORD_INDEX_URL = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/imdb_word_index.json"
)
REMEDY = f"put Keras' {WORD_INDEX_NAME} beside the data, or use --vocabulary frequency"


def read_keras_npz(path: Path) -> dict[str, EncodedSplit]:
    """Return the reviews in Keras' imdb.npz, as a dict from the name of each split to
    its reviews, without a limit of the ids.
    """
    content = read_input(path)
    digest = hashlib.sha256(content).hexdigest()
    remedy = (
        "give the imdb.npz that keras.datasets.imdb.load_data() downloads, or a "
        "table of texts; no other pickle is read"
    )
    require(
        digest == SHA256,
        f"file {path}",
        f"not the published imdb.npz: its sha256 is {digest[:16]}...",
        remedy,
    )
    with np.load(io.BytesIO(content), allow_pickle=True) as file:
        return {
            split: _with_starts(file[f"x_{split}"], file[f"y_{split}"])
            for split in ("train", "test")
        }


def _with_starts(rows: ndarray, labels: ndarray) -> EncodedSplit:
    ranks, offsets = ragged(rows)
    ids = np.insert(ranks + FIRST_WORD - 1, offsets[:-1], START)
    return EncodedSplit(
        ids,
        offsets + np.arange(len(offsets)),
        labels.astype(np.int32),
        np.full(len(labels), -1, np.int32),
    )


def _verify(path: Path):
    digest = file_digest(path, "md5")
    require(
        digest == WORD_INDEX_MD5,
        f"md5 of word index {path}",
        f"{digest} instead of {WORD_INDEX_MD5}",
        REMEDY,
    )


def keras_vocabulary(
    word_index_path: Path, num_words: int | None = None, check: bool = True
) -> Vocabulary:
    """Return the vocabulary of `keras.datasets.imdb`, which has 88,584 words.

    Args:
        word_index_path: path of Keras' `imdb_word_index.json`.
        num_words: number of ids; see `Vocabulary.capped`.
        check: whether the MD5 of the file is compared with that of Keras' file.

    Raises:
        InputError: if the file cannot be read, its MD5 differs, the ranks of its words
            are not 1, 2, 3, ..., or `num_words` is below 4 and not 0.
    """
    if check:
        _verify(word_index_path)
    subject = f"word index {word_index_path}"
    content = read_input(word_index_path, subject, REMEDY)
    with parsing(subject, REMEDY):
        ranks = json.loads(content)
        words = sorted(ranks, key=ranks.__getitem__)
        if [ranks[word] for word in words] != list(range(1, len(words) + 1)) or not all(
            words
        ):
            raise ValueError("the ranks are not 1, 2, 3, ... of words")
    # which sets the number of ids
    return Vocabulary(tuple(words), FIRST_WORD, "keras").capped(num_words)


def find_word_index(near: Path, cache_dir: Path | None = None) -> Path:
    """Return the path of Keras' word index. If the file is not found on this machine,
    download it to the cache.

    It is searched for in the folder `near` of the data (or of their file) and its
    parent, in `$LSTM_JAX_DATA/imdb`, in `~/.keras/datasets` and in the folder of the
    cache (by default, `default_cache_dir()`), in this order.

    Raises:
        InputError: if the file is not found and the download fails.
    """
    root = os.environ.get("LSTM_JAX_DATA", "")
    cache = cache_dir or default_cache_dir()
    own = [user_path(root) / "imdb"] if root else []
    # unlike Path.home(), raises nothing for a user without a home
    keras = Path(os.path.expanduser("~")) / ".keras" / "datasets"
    for folder in (near, near.parent, *own, keras, cache):
        if os.path.isfile(folder / WORD_INDEX_NAME):
            return folder / WORD_INDEX_NAME
    download(WORD_INDEX_URL, cache / WORD_INDEX_NAME, _verify, REMEDY)
    return cache / WORD_INDEX_NAME


CACHE_FORMAT = 1
KERAS_SEED = 113
Arrays = Mapping[str, ndarray]
PARTS = "values", "offsets", "labels", "groups", "digests"
"""Arrays of a split in a cache file."""
Progress = Callable[[str, int, int], None]


def prepare(
    *,
    data: str = "",
    test_data: str = "",
    text_column: str = "text",
    label_column: str = "label",
    vocabulary: Kind = "keras",
    num_words: int | None = 20_000,
    cache_dir: str = "",
    verify: bool = True,
    on_progress: Progress | None = None,
) -> EncodedReviews:
    """Return the reviews of any source as ids, with their vocabulary. Reviews that have
    been encoded before are read from the cache.

    With the vocabulary "keras", the words have the ids of Keras' word index. If the
    source is IMDB, the ids, the labels and the order of the reviews then equal those of
    `keras.datasets.imdb.load_data(num_words=num_words)`. With the vocabulary
    "frequency", the vocabulary is built from the training texts, and the reviews keep
    the order of the source.

    Args:
        data: a path that `load_reviews` reads, the path of Keras' imdb.npz, or "tfds"
            for the data set that `build_tfds` made. If empty, the path is
            `$LSTM_JAX_DATA/imdb`.
        test_data: path of a second file of the same form as `data`, which has the test
            split. Not every form has one: see the page "Sources of data".
        text_column: name of the column of the texts in a table.
        label_column: name of the column of the labels in a table.
        vocabulary: "keras" (Keras' word index) or "frequency" (built from the training
            texts).
        num_words: number of ids; see `Vocabulary.capped`.
        cache_dir: folder of the cache; by default, `default_cache_dir()`.
        verify: whether two files are checked against the published checksums: a file
            named aclImdb_v1.tar.gz, and Keras' word index.
        on_progress: function that is called with the name of the current stage and the
            numbers of finished stages and of all stages.

    Raises:
        InputError: if an argument is out of range, if the source cannot be read or
            changes while it is read, if Keras' word index is needed but neither found
            nor can be downloaded, or if the cache cannot be written.
    """
    checked("vocabulary", vocabulary, Kind)
    report = on_progress or (lambda stage, done, total: None)
    report("hashing the source", 0, 4)
    cache = user_path(cache_dir) if cache_dir else default_cache_dir()
    form, found = find_source(data, test_data)
    if verify and found.path.name == ARCHIVE_NAME:
        check_size(found.path)  # before the word index is downloaded
    word_index = find_word_index(found.path, cache) if vocabulary == "keras" else None
    files = found.files | ({"word index": word_index} if word_index else {})

    def key_now():
        rows = [f"{name}\0{file_digest(path)}" for name, path in sorted(files.items())]
        options = form.name, text_column, label_column, vocabulary, str(verify)
        return hashlib.sha256(repr((CACHE_FORMAT, rows, options)).encode()).hexdigest()

    key = key_now()

    # The cache holds ids without the limit num_words, so that one file serves every
    # num_words.
    path = cache / f"reviews-{key[:32]}.npz"
    arrays = load_cache(path, key)
    if arrays is None:
        known = keras_vocabulary(word_index, check=verify) if word_index else None
        if form.read:
            report("reading reviews", 1, 4)
            texts = read_source(form, found, text_column, label_column, verify)
            report("encoding reviews", 2, 4)
            words = known or build_vocabulary(texts["train"].texts)
            splits = _encode(texts, words)
        else:
            if known is None:
                raise InputError(
                    f"data {found.path}",
                    "holds Keras' word ranks",
                    "use --vocabulary keras",
                )
            words, splits = known, read_keras_npz(found.path)
        if known:
            rng = np.random.RandomState(KERAS_SEED)
            splits = {
                name: split.select(rng.permutation(len(split)))
                for name, split in splits.items()
            }
        arrays = _pack(words, splits)
        report("writing the cache", 3, 4)
        require(
            key_now() == key,
            f"data {found.path}",
            "changed while it was read",
            "read it when nothing writes to it",
        )
        save_cache(path, key, arrays)
    report("done", 4, 4)
    return _unpack(arrays, key, num_words)


def encode_reviews(splits: TextSplits, num_words: int | None = None) -> EncodedReviews:
    """Encode reviews that are given as texts, and return them as ids. The reviews keep
    their order.

    The vocabulary is built from the training texts by `build_vocabulary`.

    Args:
        splits: dict with the splits "train" and, if there are test reviews, "test".
        num_words: number of ids; see `Vocabulary.capped`.

    Raises:
        InputError: if there is no training split, if a split lacks reviews of a class,
            or if `num_words` is below 4 and not 0.
    """
    check_splits(splits, "memory")
    words = build_vocabulary(splits["train"].texts)
    arrays = _pack(words, _encode(splits, words))
    content = [
        name.encode() + array.tobytes()
        for name, array in sorted(arrays.items())
        if not name.endswith("_digests")
    ]
    return _unpack(arrays, hashlib.sha256(b"".join(content)).hexdigest(), num_words)


def save_cache(path: Path, key: str, arrays: Arrays) -> None:
    """Write arrays to a cache file, together with their key. NumPy adds a checksum of
    each array.
    """
    write_atomically(path, lambda file: np.savez(file, key=key, **arrays))  # pyright: ignore[reportArgumentType]


def load_cache(path: Path, key: str) -> Arrays | None:
    """Return the arrays in a cache file by name, or None if the file is missing,
    damaged or of another key.
    """
    with (
        contextlib.suppress(InputError),
        parsing(f"cache {path}", "delete it"),
        open_input(path) as file,
        np.load(file) as archive,
    ):
        arrays = dict(archive)
        return arrays if arrays.pop("key") == key else None


def _encode(texts: TextSplits, words: Vocabulary) -> dict[str, EncodedSplit]:
    known = sorted(
        {"", *(group for split in texts.values() for group in split.groups or ())}
    )
    # a review of an unknown movie has -1
    numbers = {group: number for number, group in enumerate(known, -1)}
    encoded = {}
    for name, split in texts.items():
        values, offsets = words.encode_all(split.texts)
        groups = np.asarray(
            [numbers[group] for group in split.groups or [""] * len(split)], np.int32
        )
        digests = content_hashes(b" ".join(tokenize(text)) for text in split.texts)
        encoded[name] = EncodedSplit(values, offsets, split.labels, groups, digests)
        if words.kind == "keras":
            remedy = (
                "use --vocabulary frequency, whose words are those of the "
                "training reviews"
            )
            # each has a start id
            require(
                len(values) > len(split),
                f"{name} reviews",
                "no word is in Keras' word index",
                remedy,
            )
            by_name = sorted(
                range(len(split)),
                key=lambda row: (-split.labels[row], split.names[row]),
            )
            # the order that Keras' data set had before it was shuffled
            encoded[name] = encoded[name].select(np.asarray(by_name))
    return encoded


def _pack(words: Vocabulary, splits: dict[str, EncodedSplit]) -> Arrays:
    arrays = {"vocabulary": np.frombuffer(words.to_json(), np.uint8)}
    for name, split in splits.items():
        whole = replace(split, digests=split.hashes())
        arrays |= {f"{name}_{part}": getattr(whole, part) for part in PARTS}
    return arrays


def _unpack(arrays: Arrays, key: str, num_words: int | None) -> EncodedReviews:
    words = Vocabulary.from_json(arrays["vocabulary"].tobytes()).capped(num_words)

    def split(name: str):
        values, *others = (arrays[f"{name}_{part}"] for part in PARTS)
        return EncodedSplit(
            np.where(values >= words.num_words, np.int32(UNKNOWN), values), *others
        )

    train = split("train")
    test = split("test") if "test_labels" in arrays else None
    fingerprint = hashlib.sha256(f"{key} {words.num_words}".encode()).hexdigest()
    return EncodedReviews(train, test, words, fingerprint)


def build_tfds(
    source: AnyPath | None = None, data_dir: AnyPath | None = None, verify: bool = True
) -> Any:
    """Prepare the TFDS data set `lstm_jax_imdb`, unless it is prepared already, and
    return its builder.

    Args:
        source: path of reviews that `load_reviews` reads. If None, the archive
            aclImdb_v1.tar.gz of the Large Movie Review Dataset is downloaded.
        data_dir: see `reviews_from_tfds`.
        verify: whether a file named aclImdb_v1.tar.gz is checked against the published
            size and checksum.

    Raises:
        InputError: if tensorflow-datasets is not installed, the source cannot be read,
            or the folder cannot be written.
    """
    builder = tfds_builder(data_dir, prepared=False)
    if builder.is_prepared():
        return builder
    builder.reviews = load_reviews(
        source or download_archive(tfds_dir(data_dir) / "downloads"), verify=verify
    )
    config = load_tfds().download.DownloadConfig(try_download_gcs=False)
    remedy = "free some space or set TFDS_DATA_DIR to another folder"
    with system_errors(f"TFDS folder {tfds_dir(data_dir)}", remedy), quiet_tfds():
        builder.download_and_prepare(download_config=config)
    return builder
