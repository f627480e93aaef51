"""Sources of reviews: the forms that a source can have (such as a table or an archive),
and functions that recognise and read a source.
"""

import os
from functools import partial
from pathlib import Path

from lstm_jax.base.errors import InputError, require
from lstm_jax.base.types import AnyPath
from lstm_jax.lab.files.reading import locate
from lstm_jax.lab.files.tables import ENDINGS
from lstm_jax.lab.sentiment.data.reviews import (
    ARCHIVE_NAME,
    Form,
    Found,
    TextSplits,
    check_splits,
    find_file,
    find_folder,
    find_tables,
    read_archive,
    read_folder,
    read_tables,
)
from lstm_jax.lab.sentiment.data.tfds_dataset import find_tfds, reviews_from_tfds

FORMS = (
    Form(
        "folder",
        find_folder,
        read_folder,
        description="an aclImdb/ folder",
        content="the archive when it is extracted, or the folder that contains this "
        "folder",
    ),
    Form(
        "table",
        find_tables,
        read_tables,
        takes_test_file=True,
        description=f"a folder with train{ENDINGS[0]} and test{ENDINGS[0]} (or .xz)",
        endings=(".jsonl", ".csv"),
        content="a text and a label (0 or 1, neg or pos, negative or positive, false "
        "or true) in each row, in the columns that "
        "`--text-column` and `--label-column` name; .jsonl.xz and .csv.xz are "
        "read, too",
        example=(
            "reviews.jsonl",
            '{"text": "A fine film.", "label": 1}\n{"text": "A bore.", "label": 0}\n',
        ),
    ),
    Form(
        "archive",
        partial(find_file, "archive", ARCHIVE_NAME, (".tar.gz", ".tgz")),
        read_archive,
        description=ARCHIVE_NAME,
        content="the reviews as published, in this or another .tar.gz or .tgz file, "
        "or a folder with aclImdb_v1.tar.gz; nothing is "
        "extracted to the disk",
    ),
    Form(
        "npz",
        partial(find_file, "npz", "imdb.npz", ".npz"),
        endings=(".npz",),
        content="imdb.npz, which Keras downloads, with ids of words, or its folder",
    ),
    Form(
        "tfds",
        find_tfds,
        lambda *_: reviews_from_tfds(),
        keyword="tfds",
        content="the data set that `lstm-jax data prepare --tfds` makes; TensorFlow "
        "is not needed to read it",
    ),
)
"""All forms of reviews. The form of a path is the first one that has no `keyword` and
whose function `find` returns a location for the path."""


_PHRASES = ", ".join(
    form.description or form.keyword
    for form in FORMS
    if form.description or form.keyword
)
DESCRIPTION = (
    f"{_PHRASES}, or a file that ends in "
    f"{' or '.join(ending for form in FORMS for ending in form.endings)}"
)


def find_imdb(explicit: str = "") -> Path:
    """Return the path of the reviews that a user names, after checking that it exists.

    Args:
        explicit: path of the reviews. If empty, the path is `$LSTM_JAX_DATA/imdb`.

    Raises:
        InputError: if the path does not exist, or if `explicit` is empty and
            LSTM_JAX_DATA is not set.
    """
    root = os.environ.get("LSTM_JAX_DATA", "")
    require(
        explicit or root,
        "data",
        "not given",
        "give --data, or set LSTM_JAX_DATA to the folder that holds imdb/: "
        f"{DESCRIPTION}",
    )
    return locate(explicit or Path(root) / "imdb", "data", f"give {DESCRIPTION}")


def find_source(data: str = "", test_data: str = "") -> tuple[Form, Found]:
    """Recognise the form of the reviews that a user names by a path or a keyword. They
    are not read.
    """
    keyword = data if data in {form.keyword for form in FORMS} else ""
    path = Path(data) if keyword else find_imdb(data)
    for form in FORMS:
        if form.keyword == keyword and (found := form.find(path)):
            if test_data:
                found.files["test"] = _test_file(form, found, test_data)
            return form, found
    if path.suffix.lower() == ".zip" and not path.is_dir():
        raise InputError(
            f"data {path}",
            "a .zip archive",
            f"unzip it and give its folder or file: {DESCRIPTION}",
        )
    raise InputError(
        f"data {path}", "no reviews of a known form", f"give {DESCRIPTION}"
    )


def _test_file(form: Form, found: Found, test_data: str) -> Path:
    takes = form.takes_test_file and "test" not in found.files
    remedy = (
        f"leave it out: {found.path} has a test split of its own, or a form that "
        "takes no second file"
    )
    require(takes, "test_data", test_data, remedy)
    remedy = f"give a file that ends in one of {', '.join(form.endings)}"
    test = locate(test_data, "test_data", remedy)
    require(test.is_file() and form.find(test), "test_data", test_data, remedy)
    own = any(test.samefile(file) for file in found.files.values())
    require(
        not own,
        "test_data",
        test_data,
        "it has the training reviews: give another file",
    )
    return test


def read_source(
    form: Form, found: Found, text_column: str, label_column: str, verify: bool
) -> TextSplits:
    """Return the texts of the reviews of a source: a dict from the name of each split
    to the reviews of the split.
    """
    if form.read is None:
        raise InputError(
            f"data {found.path}",
            "holds word ranks, not texts",
            f"give {ARCHIVE_NAME} or another form with texts",
        )
    splits = form.read(found, text_column, label_column, verify)
    check_splits(splits, found.path)
    return splits


def load_reviews(
    path: AnyPath,
    test_path: str = "",
    text_column: str = "text",
    label_column: str = "label",
    verify: bool = True,
) -> TextSplits:
    """Return the reviews at a path as texts: a dict with the key "train" and, if there are
    test reviews, "test".

    Args:
        path: path of a source of texts, of one of the forms in `FORMS`.
        test_path: path of a second file, as `test_data` of `prepare`.
        text_column: name of the column of the texts.
        label_column: name of the column of the labels.
        verify: whether a file named `aclImdb_v1.tar.gz` is checked.

    Raises:
        InputError: if a path does not exist or has no known form, if the source is
            damaged or holds word ranks instead of texts, or if a split has no positive or
            no negative reviews.
    """
    return read_source(
        *find_source(os.fspath(path), test_path), text_column, label_column, verify
    )
