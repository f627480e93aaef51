"""Data sets: movie reviews and character corpora as arrays of ids, and time series as
arrays of floats.

This package needs neither JAX nor TensorFlow. It imports tensorflow-datasets and SciPy
only inside the functions that use them.
"""

from lstm_jax.data.padding import pad_ragged, pad_sequences
from lstm_jax.data.reviews.acl_imdb import (
    ARCHIVE_BYTES,
    ARCHIVE_SHA256_PREFIX,
    ARCHIVE_URL,
    download_archive,
    verify_archive,
)
from lstm_jax.data.reviews.dataset import build_tfds, encode_reviews, prepare
from lstm_jax.data.reviews.form import TextSplit
from lstm_jax.data.reviews.grammar import judge, synthetic_reviews, synthetic_splits
from lstm_jax.data.reviews.keras_imdb import find_word_index, keras_vocabulary
from lstm_jax.data.reviews.shards import (
    PaddedReviews,
    Reviews,
    ShardedReviews,
    ShardedSplit,
    read_review_shards,
    write_review_shards,
)
from lstm_jax.data.reviews.sources import find_imdb, load_reviews
from lstm_jax.data.reviews.splits import (
    EncodedReviews,
    EncodedSplit,
    grouped_split,
    keras_check_hash,
)
from lstm_jax.data.reviews.tfds_dataset import reviews_from_tfds
from lstm_jax.data.reviews.vocabulary import Vocabulary, build_vocabulary, tokenize
from lstm_jax.data.series import Series, SeriesWindows, read_series, series_windows
from lstm_jax.data.shard_folder import verify_shards
from lstm_jax.data.text.characters import Characters, Words
from lstm_jax.data.text.cleaning import clean, unix_line_ends
from lstm_jax.data.text.corpus import Corpus, prepare_corpus, sharded_corpus
from lstm_jax.data.text.shards import ShardedText, read_shards, write_shards
from lstm_jax.data.text.sources import (
    embedded_articles,
    read_articles,
    read_byte_articles,
)
from lstm_jax.data.text.windows import (
    chunks,
    one_hot,
    some_windows,
    stream_chunks,
    window_count,
    window_starts,
    windows,
)
