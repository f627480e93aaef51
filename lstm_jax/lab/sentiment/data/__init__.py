"""Movie reviews as arrays of ids: sources, vocabulary, encoding and splits.

This package needs neither JAX nor TensorFlow. It imports tensorflow-datasets and SciPy
only inside the functions that use them.
"""

from lstm_jax.lab.sentiment.data.dataset import (
    EncodedReviews,
    EncodedSplit,
    build_tfds,
    encode_reviews,
    find_word_index,
    grouped_split,
    keras_vocabulary,
    prepare,
)
from lstm_jax.lab.sentiment.data.grammar import (
    synthetic_reviews,
    synthetic_splits,
)
from lstm_jax.lab.sentiment.data.reviews import (
    ARCHIVE_BYTES,
    ARCHIVE_SHA256_PREFIX,
    ARCHIVE_URL,
    TextSplit,
    download_archive,
    verify_archive,
)
from lstm_jax.lab.sentiment.data.shards import (
    PaddedReviews,
    read_review_shards,
    write_review_shards,
)
from lstm_jax.lab.sentiment.data.sources import find_imdb, load_reviews
from lstm_jax.lab.sentiment.data.tfds_dataset import reviews_from_tfds
from lstm_jax.lab.sentiment.data.vocabulary import (
    Vocabulary,
    build_vocabulary,
    tokenize,
)
