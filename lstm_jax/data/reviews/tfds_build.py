"""Preparation of the data set `lstm_jax_imdb` for TensorFlow Datasets (TFDS), without TensorFlow."""

from pathlib import Path
from typing import Any

from lstm_jax.data.reviews.acl_imdb import download_archive
from lstm_jax.data.reviews.sources import load_reviews
from lstm_jax.data.reviews.tfds_dataset import load_tfds, quiet_tfds, tfds_builder, tfds_dir
from lstm_jax.errors import InputError


def build_tfds(source: str | Path | None = None, data_dir: str | Path | None = None, verify: bool = True) -> Any:
    """Prepare the TFDS data set `lstm_jax_imdb`, unless it is prepared already, and return its builder.

    Args:
        source: path of reviews that `load_reviews` reads. If None, the archive aclImdb_v1.tar.gz of the Large Movie Review Dataset is
            downloaded to the subfolder `downloads` of the folder that `data_dir` gives.
        data_dir: folder in which TFDS keeps data sets. If None, it is `$TFDS_DATA_DIR` or, without that variable, `~/tensorflow_datasets`.
        verify: whether a file named aclImdb_v1.tar.gz is checked against the published size and checksum.

    Returns:
        The `tfds.core.DatasetBuilder`, whose method `as_data_source()` reads the data set.

    Raises:
        InputError: if tensorflow-datasets is not installed, the source cannot be read, or the folder cannot be written.
    """
    builder, prepared = tfds_builder(data_dir)
    if prepared:
        return builder
    path = download_archive(tfds_dir(data_dir) / "downloads") if source is None else Path(source)
    builder.reviews = load_reviews(path, verify=verify)
    tfds = load_tfds()
    config = tfds.download.DownloadConfig(try_download_gcs=False, manual_dir=str(path.parent))
    try:
        with quiet_tfds():
            builder.download_and_prepare(download_config=config)
    except OSError as error:
        raise InputError(f"TFDS folder {tfds_dir(data_dir)}", error, "free some space or set TFDS_DATA_DIR to another folder") from error
    return builder
