"""Tokenisation of the sentiment reviews before any training, for the command `lstm-jax data prepare`."""

from rich.console import Console

from lstm_jax import data
from lstm_jax.config import DataConfig, SentimentConfig
from lstm_jax.tasks import sentiment


def prepare(config: DataConfig, tfds: bool, console: Console) -> None:
    """Tokenise the reviews that a config names, store them in the cache, and print the size of each split."""
    if tfds:
        builder = data.build_tfds(config.data or None)
        console.print(f"built {builder.info.full_name} in {builder.data_dir}", highlight=False)
        config = DataConfig(**{**vars(config), "data": "tfds"})
    reviews = sentiment.load_reviews(SentimentConfig(data=config))
    for name, split in (("train", reviews.train), ("test", reviews.test)):
        if split is not None:
            lengths = split.lengths
            console.print(
                f"{name}: {len(split):,} reviews, {int(split.labels.sum()):,} positive, {lengths.mean():.1f} ids on average",
                highlight=False,
            )
    console.print(f"vocabulary: {reviews.vocabulary.kind}, {reviews.vocabulary.size:,} ids", highlight=False)
