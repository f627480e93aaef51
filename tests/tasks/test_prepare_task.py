"""The command `data prepare` prints the sizes of the splits and of the vocabulary."""

import io

from made_reviews import write_csvs
from made_runs import small_config
from rich.console import Console

from lstm_jax.tasks import prepare, sentiment


def test_sizes_of_a_csv(tmp_path):
    write_csvs(tmp_path / "reviews", 30, 20)
    config = small_config(tmp_path / "reviews", tmp_path / "cache")
    said = io.StringIO()
    prepare.prepare(config.data, False, Console(file=said, width=200))
    reviews = sentiment.load_reviews(config)
    assert said.getvalue().splitlines() == [
        f"train: 30 reviews, 15 positive, {reviews.train.lengths.mean():.1f} ids on average",
        f"test: 20 reviews, 10 positive, {reviews.test.lengths.mean():.1f} ids on average" if reviews.test else "",
        f"vocabulary: frequency, {reviews.vocabulary.size:,} ids",
    ]
    assert len(list((tmp_path / "cache").glob("reviews-*.npz"))) == 1
