"""Texts as arrays of ids: sources, cleaning, alphabet, windows and streams.

This package does not need JAX.
"""

from lstm_jax.lab.generation.data.characters import Characters, Words
from lstm_jax.lab.generation.data.corpus import (
    Corpus,
    chunks,
    one_hot,
    prepare_corpus,
    sharded_corpus,
    some_windows,
    stream_chunks,
    window_count,
    windows,
)
from lstm_jax.lab.generation.data.shards import ShardedText, read_shards, write_shards
from lstm_jax.lab.generation.data.sources import (
    clean,
    embedded_articles,
    read_articles,
    read_byte_articles,
    unix_line_ends,
)
