"""The reviews as a TensorFlow Datasets data set, without TensorFlow.

The stock `imdb_reviews` builder needs TensorFlow to prepare. This one, `lstm_jax_imdb`, reads through `load_reviews` and stores
array_record files, which `as_data_source()` reads back.
"""

import contextlib
import functools
import importlib
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.data.reviews.archive import download_archive
from lstm_jax.data.reviews.sources import Source, load_reviews
from lstm_jax.data.reviews.written import CLASSES, TextSplit, check_splits, review_name
from lstm_jax.errors import InputError, require
from lstm_jax.files.writing import user_path

TFDS_NAME = "lstm_jax_imdb"
TFDS_VERSION = "1.0.0"
BUILD = "build it with `lstm-jax data prepare --data PATH --tfds`"
NAME = re.compile(r"(?:pos|neg)/(\d+)_(\d+)\.txt")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS draws progress bars and its dependencies warn; neither is about what the user did."""
    tfds, logger = _tfds(), logging.getLogger("absl")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        tfds.disable_progress_bar()
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _tfds() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("array_record")
            import tensorflow_datasets
    except ImportError as error:
        raise InputError("data tfds", error, 'pip install "lstm-jax[tfds]"') from error
    return tensorflow_datasets


def tfds_dir(data_dir: str | Path | None = None) -> Path:
    """Where TFDS keeps data sets: the argument, else `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return user_path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


@functools.cache
def _builder_class() -> Any:
    tfds = _tfds()

    with tfds.core.registered.skip_registration():

        class LstmJaxImdb(tfds.core.GeneratorBasedBuilder):
            """Large Movie Review Dataset, labelled part, with ids, ratings and movies."""

            name = TFDS_NAME
            VERSION = tfds.core.Version(TFDS_VERSION)
            MANUAL_DOWNLOAD_INSTRUCTIONS = "`build_tfds` hands the reviews over; nothing is fetched by TFDS."
            reviews: Mapping[str, TextSplit]

            def _info(self) -> Any:
                features = {
                    "text": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=list(CLASSES)),
                    "id": np.int64,
                    "rating": np.int64,
                    "movie": tfds.features.Text(),
                }
                return tfds.core.DatasetInfo(
                    builder=self,
                    description="Large Movie Review Dataset (Maas et al., ACL 2011): labelled reviews with id, rating and movie.",
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("text", "label"),
                    homepage="http://ai.stanford.edu/~amaas/data/sentiment/",
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager: Any) -> Any:
                return {name: self._generate_examples(name) for name in self.reviews}

            def _generate_examples(self, split: str) -> Any:
                reviews = self.reviews[split]
                for row, (text, label, name) in enumerate(zip(reviews.texts, reviews.labels, reviews.names, strict=True)):
                    match = NAME.fullmatch(name)
                    identity, rating = map(int, match.groups()) if match else (-1, -1)
                    movie = reviews.groups[row] if reviews.groups else ""
                    yield row, {"text": text, "label": int(label), "id": identity, "rating": rating, "movie": movie}

    return LstmJaxImdb


def _builder(data_dir: str | Path | None) -> tuple[Any, bool]:
    """The builder, and whether its data set is there."""
    with _quiet():
        builder = _builder_class()(data_dir=str(tfds_dir(data_dir)), file_format="array_record")
        return builder, builder.is_prepared()


def build_tfds(source: str | Path | None = None, data_dir: str | Path | None = None, verify: bool = True) -> Any:
    """Prepare `lstm_jax_imdb`; one that is there already is kept.

    Args:
        source: any local form that `load_reviews` reads; None: the archive is downloaded beside the data set.
        data_dir: TFDS' folder; None: `$TFDS_DATA_DIR`, else TFDS' default.
        verify: check a file named aclImdb_v1.tar.gz.

    Returns:
        The `tfds.core.DatasetBuilder`; `.as_data_source()` reads it.

    Raises:
        InputError: without tensorflow-datasets, for a source that cannot be read, or a folder that cannot be written.
    """
    builder, there = _builder(data_dir)
    if there:
        return builder
    path = download_archive(tfds_dir(data_dir) / "downloads") if source is None else Path(source)
    builder.reviews = load_reviews(path, verify=verify)
    tfds = _tfds()
    config = tfds.download.DownloadConfig(try_download_gcs=False, manual_dir=str(path.parent))
    try:
        with _quiet():
            builder.download_and_prepare(download_config=config)
    except OSError as error:
        raise InputError(f"TFDS folder {tfds_dir(data_dir)}", error, "free some space or set TFDS_DATA_DIR to another folder") from error
    return builder


def _prepared(data_dir: str | Path | None) -> Any:
    builder, there = _builder(data_dir)
    require(there, f"data set {TFDS_NAME} in {tfds_dir(data_dir)}", "not built yet", BUILD)
    return builder


def tfds_source(data_dir: str | Path | None = None) -> Source:
    """The prepared data set as a source: its files decide the cache's key.

    Raises:
        InputError: without tensorflow-datasets, or where the set is not built.
    """
    folder = Path(_prepared(data_dir).data_path)
    return Source("tfds", folder, {path.name: path for path in folder.iterdir() if path.is_file()})


def reviews_from_tfds(data_dir: str | Path | None = None) -> dict[str, TextSplit]:
    """The reviews of the prepared data set, in its order, with the names that Keras' order needs.

    Raises:
        InputError: without tensorflow-datasets, or where the set is not built or cannot be read.
    """
    builder = _prepared(data_dir)
    splits = {}
    for name in ("train", "test"):
        if name not in builder.info.splits:
            continue
        with _quiet():
            rows = list(builder.as_data_source(split=name))
        labels = np.asarray([row["label"] for row in rows], np.int32)
        known = [(None, None) if row["rating"] < 0 else (row["id"], row["rating"]) for row in rows]
        names = tuple(review_name(int(label), row, *known[row]) for row, label in enumerate(labels))
        groups = tuple(bytes(row["movie"]).decode() for row in rows)
        splits[name] = TextSplit(tuple(bytes(row["text"]) for row in rows), labels, names, groups if any(groups) else None)
    check_splits(splits, builder.data_path)
    return splits
