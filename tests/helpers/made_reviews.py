"""Made-up reviews, in the form of the IMDB data set or drawn from a grammar, and
functions that write them to files.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lstm_jax.lab.sentiment import data

ROWS = 24
WORDS = ["the", "film", "was", "good", "bad", "a", "plot", "not"]


def made_rows(split: str) -> list[dict]:
    """Return 24 reviews, as dicts with the id, rating, label, movie and text that a
    review of the IMDB data set has.

    Half of the reviews are positive. Each movie has three reviews.
    """
    rows = []
    for number in range(ROWS):
        label = number % 2
        text = (
            f"The {split} film no. {number} was {'GOOD' if label else 'bad'}: a "
            f"{WORDS[number % 8]} plot!"
        )
        rows.append(
            {
                "id": number // 2,
                "rating": 9 if label else 2,
                "label": label,
                "movie": f"tt{number // 3:07d}",
                "text": text,
            }
        )
    return rows


def members() -> dict[str, bytes]:
    """Return the files of a small `aclImdb` folder as a dict from path to content."""
    files = {"README": b"read me", "train/unsup/0_0.txt": b"no label"}
    for split in ("train", "test"):
        urls: dict[str, list[str]] = {"pos": [], "neg": []}
        for row in made_rows(split):
            label = "pos" if row["label"] else "neg"
            files[f"{split}/{label}/{row['id']}_{row['rating']}.txt"] = row[
                "text"
            ].encode()
            urls[label].append(
                f"http://www.imdb.com/title/{row['movie']}/usercomments\n"
            )
        files |= {
            f"{split}/urls_{label}.txt": "".join(lines).encode()
            for label, lines in urls.items()
        }
    return files


def write_csv(
    path: Path,
    rows: Iterable[Mapping[str, object]],
    columns: Sequence[str] = ("text", "label"),
) -> Path:
    """Write the given columns of rows to a CSV file, and return its path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_csvs(folder: Path, train: int = 240, test: int = 80) -> Path:
    """Write `train` synthetic reviews to train.csv and `test` to test.csv in a folder,
    and return the folder.

    The folder is created if it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in data.synthetic_splits(train, test, seed=4).items():
        rows = zip(split.texts, split.labels, strict=True)
        write_csv(
            folder / f"{name}.csv",
            ({"text": text.decode(), "label": label} for text, label in rows),
        )
    return folder
