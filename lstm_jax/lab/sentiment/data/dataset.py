"""Preparation of reviews, which are read from any source, encoded as ids, put in order
and stored in a cache.

A cache file is an .npz file that contains the reviews of one source, encoded with
certain options. Its name contains a hash of the source and the options. The checksums
of its arrays are verified whenever the file is read.
"""

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import checked
from lstm_jax.base.errors import InputError, require, system_errors
from lstm_jax.base.reading import file_digest, open_input, parsing
from lstm_jax.base.types import AnyPath
from lstm_jax.base.writing import default_cache_dir, user_path, write_atomically
from lstm_jax.lab.sentiment.config import Kind
from lstm_jax.lab.sentiment.data.acl_imdb import (
    ARCHIVE_NAME,
    check_size,
    download_archive,
)
from lstm_jax.lab.sentiment.data.form import TextSplits, check_splits
from lstm_jax.lab.sentiment.data.keras_imdb import (
    find_word_index,
    keras_vocabulary,
    read_keras_npz,
)
from lstm_jax.lab.sentiment.data.sources import find_source, load_reviews, read_source
from lstm_jax.lab.sentiment.data.splits import EncodedReviews, EncodedSplit, row_sets
from lstm_jax.lab.sentiment.data.tfds_dataset import (
    load_tfds,
    quiet_tfds,
    tfds_builder,
    tfds_dir,
)
from lstm_jax.lab.sentiment.data.vocabulary import (
    FIRST_WORD,
    UNKNOWN,
    Vocabulary,
    build_vocabulary,
    content_hashes,
    tokenize,
)

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
            split. It may be given only if `data` has none, and if its form allows a
            second file (see the page "Sources of data" of the documentation).
        text_column: name of the column of the texts in a table.
        label_column: name of the column of the labels in a table.
        vocabulary: "keras" (Keras' word index) or "frequency" (built from the training
            texts).
        num_words: number of ids; see `Vocabulary.capped`.
        cache_dir: folder of the cache. If empty, it is the folder that
            `default_cache_dir` returns.
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
            rank = max(split.values.max() for split in splits.values()) - FIRST_WORD + 1
            require(
                rank <= len(words.words),
                f"data {found.path}",
                f"rank {rank}",
                "give Keras' own word index",
            )
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

    The vocabulary is built from the training texts by `build_vocabulary`. More frequent
    words have smaller ids.

    Args:
        splits: dict with the splits "train" and, if there are test reviews, "test", as
            `synthetic_splits` and `load_reviews` return it.
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

    train, test = split("train"), split("test") if "test_labels" in arrays else None
    # Older versions compared the ids of the reviews. Where that gives the same sets,
    # the fingerprint is theirs.
    of_words, of_ids = (
        row_sets(train.labels, train.groups, own.hashes())[1]
        for own in (train, replace(train, digests=None))
    )
    content = (
        f"{key} {words.num_words}{'' if np.array_equal(of_words, of_ids) else ' words'}"
    )
    return EncodedReviews(
        train, test, words, hashlib.sha256(content.encode()).hexdigest()
    )


def build_tfds(
    source: AnyPath | None = None, data_dir: AnyPath | None = None, verify: bool = True
) -> Any:
    """Prepare the TFDS data set `lstm_jax_imdb`, unless it is prepared already, and
    return its builder.

    Args:
        source: path of reviews that `load_reviews` reads. If None, the archive
            aclImdb_v1.tar.gz of the Large Movie Review Dataset is downloaded to the
            subfolder `downloads` of the folder that `data_dir` gives.
        data_dir: see `reviews_from_tfds`.
        verify: whether a file named aclImdb_v1.tar.gz is checked against the published
            size and checksum.

    Returns:
        The `tfds.core.DatasetBuilder`, whose method `as_data_source()` reads the data
        set.

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
