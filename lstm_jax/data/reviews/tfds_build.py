"""Preparation of the data set `lstm_jax_imdb` of TensorFlow Datasets, without TensorFlow."""

from pathlib import Path
from typing import Any

from lstm_jax.data.reviews.archive import download_archive
from lstm_jax.data.reviews.sources import load_reviews
from lstm_jax.data.reviews.tfds_dataset import load_tfds, quiet_tfds, tfds_builder, tfds_dir
from lstm_jax.errors import InputError


def build_tfds(source: str | Path | None = None, data_dir: str | Path | None = None, verify: bool = True) -> Any:
    """Prepare the data set `lstm_jax_imdb`, unless it is prepared already.

    Args:
        source: path of any form that `load_reviews` reads; None: the archive is downloaded beside the data set.
        data_dir: TFDS' folder; None: `$TFDS_DATA_DIR`, else TFDS' default.
        verify: check a file named aclImdb_v1.tar.gz.

    Returns:
        The `tfds.core.DatasetBuilder`; `.as_data_source()` reads it.

    Raises:
        InputError: without tensorflow-datasets, for a source that cannot be read, or a folder that cannot be written.
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
