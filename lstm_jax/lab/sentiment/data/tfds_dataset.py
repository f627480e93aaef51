"""Data set `lstm_jax_imdb` for TensorFlow Datasets (TFDS), which can be written and
read without TensorFlow.

The builder `imdb_reviews` of TFDS, in contrast, needs TensorFlow to prepare the data.
The function `build_tfds` gives the reviews to the builder class in this module, which
stores them in array_record files. The builder's method `as_data_source()` reads these
files.
"""

import contextlib
import functools
import importlib
import io
import itertools
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.base.errors import parsing, require
from lstm_jax.base.types import AnyPath
from lstm_jax.base.writing import user_path
from lstm_jax.lab.sentiment.data.reviews import (
    CLASSES,
    Found,
    Review,
    TextSplit,
    TextSplits,
    check_splits,
    review_name,
    text_split,
)

TFDS_NAME = "lstm_jax_imdb"
TFDS_VERSION = "1.0.0"
BUILD = "build it with `lstm-jax data prepare --data PATH --tfds`"
# numbers that an int64 holds
NAME = re.compile(r"(?:pos|neg)/([0-9]{1,18})_([0-9]{1,18})\.txt")


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Suppress the output and the warnings of TFDS and its dependencies during a
    with-statement.
    """
    tfds, logger = load_tfds(), logging.getLogger("absl")
    level = logger.level
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        tfds.disable_progress_bar()
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def load_tfds() -> Any:
    """Import the module tensorflow_datasets and return it."""
    with (
        parsing("data tfds", 'pip install ".[tfds]"', ImportError),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        importlib.import_module("array_record")
        import tensorflow_datasets
    return tensorflow_datasets


def tfds_dir(data_dir: AnyPath | None = None) -> Path:
    """Return the folder in which TFDS keeps data sets."""
    return user_path(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    )


@functools.cache
def _builder_class() -> Any:
    tfds = load_tfds()

    with tfds.core.registered.skip_registration():

        class LstmJaxImdb(tfds.core.GeneratorBasedBuilder):
            """Builder of the labelled reviews of the Large Movie Review Dataset, with
            ids, ratings and movies.
            """

            name = TFDS_NAME
            VERSION = tfds.core.Version(TFDS_VERSION)
            reviews: TextSplits

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
                    description="Large Movie Review Dataset (Maas et al., ACL 2011): "
                    "labelled reviews with id, rating and movie.",
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("text", "label"),
                    homepage="http://ai.stanford.edu/~amaas/data/sentiment/",
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager) -> Any:
                return {
                    name: self._generate_examples(reviews)
                    for name, reviews in self.reviews.items()
                }

            def _generate_examples(self, reviews: TextSplit) -> Any:
                for row, (text, label, name) in enumerate(
                    zip(reviews.texts, reviews.labels, reviews.names, strict=True)
                ):
                    match = NAME.fullmatch(name)
                    identity, rating = map(int, match.groups()) if match else (-1, -1)
                    movie = reviews.groups[row] if reviews.groups else ""
                    yield (
                        row,
                        {
                            "text": text,
                            "label": int(label),
                            "id": identity,
                            "rating": rating,
                            "movie": movie,
                        },
                    )

    return LstmJaxImdb


def tfds_builder(data_dir: AnyPath | None, prepared: bool = True) -> Any:
    """Return the builder of the data set `lstm_jax_imdb` after checking, if `prepared`
    is true, that it is prepared.
    """
    with quiet_tfds():
        builder = _builder_class()(
            data_dir=str(tfds_dir(data_dir)), file_format="array_record"
        )
    require(
        not prepared or builder.is_prepared(),
        f"data set {TFDS_NAME} in {tfds_dir(data_dir)}",
        "not built yet",
        BUILD,
    )
    return builder


def find_tfds(_: Path) -> Found:
    """Return the location of the prepared TFDS data set `lstm_jax_imdb`."""
    folder = Path(tfds_builder(None).data_path)
    return Found(
        folder, {path.name: path for path in folder.iterdir() if path.is_file()}
    )


def _review(row: int, example: Mapping) -> Review:
    label = int(example["label"])
    known = (example["id"], example["rating"]) if example["rating"] >= 0 else ()
    return Review(
        bytes(example["text"]),
        label,
        review_name(label, row, *known),
        bytes(example["movie"]).decode(),
    )


def reviews_from_tfds(data_dir: AnyPath | None = None) -> TextSplits:
    """Return the reviews in the prepared TFDS data set `lstm_jax_imdb`, in its order, as a
    dict from the name of each split to its reviews.

    Args:
        data_dir: folder in which TFDS keeps data sets. If None, it is `$TFDS_DATA_DIR`
            or, without that variable, `~/tensorflow_datasets`.

    Raises:
        InputError: if tensorflow-datasets is not installed, if the data set is not
            prepared, or if a split has no positive or no negative reviews.
    """
    builder = tfds_builder(data_dir)
    names = (name for name in ("train", "test") if name in builder.info.splits)
    with quiet_tfds():
        splits = {
            name: text_split(
                map(_review, itertools.count(), builder.as_data_source(split=name))
            )
            for name in names
        }
    check_splits(splits, builder.data_path)
    return splits
