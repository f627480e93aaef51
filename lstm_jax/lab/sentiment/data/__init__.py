"""Movie reviews as arrays of ids: sources, vocabulary, encoding and splits.

This package needs neither JAX nor TensorFlow. It imports tensorflow-datasets and SciPy
only inside the functions that use them.
"""

from lstm_jax.lab.sentiment.data.acl_imdb import (
    ARCHIVE_BYTES,
    ARCHIVE_SHA256_PREFIX,
    ARCHIVE_URL,
    download_archive,
    verify_archive,
)
from lstm_jax.lab.sentiment.data.dataset import build_tfds, encode_reviews, prepare
from lstm_jax.lab.sentiment.data.form import TextSplit
from lstm_jax.lab.sentiment.data.grammar import (
    judge,
    synthetic_reviews,
    synthetic_splits,
)
from lstm_jax.lab.sentiment.data.keras_imdb import find_word_index, keras_vocabulary
from lstm_jax.lab.sentiment.data.shards import (
    PaddedReviews,
    read_review_shards,
    write_review_shards,
)
from lstm_jax.lab.sentiment.data.sources import find_imdb, load_reviews
from lstm_jax.lab.sentiment.data.splits import (
    EncodedReviews,
    EncodedSplit,
    grouped_split,
    keras_check_hash,
)
from lstm_jax.lab.sentiment.data.tfds_dataset import reviews_from_tfds
from lstm_jax.lab.sentiment.data.vocabulary import (
    Vocabulary,
    build_vocabulary,
    tokenize,
)
