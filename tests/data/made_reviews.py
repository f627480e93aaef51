"""Small made reviews that look like the real data set."""

ROWS = 24
WORDS = ["the", "film", "was", "good", "bad", "a", "plot", "not"]


def made_rows(split: str) -> list[dict]:
    """24 rows, half of them positive, three to a movie, ids and ratings as in the real data."""
    rows = []
    for number in range(ROWS):
        label = number % 2
        text = f"The {split} film no. {number} was {'GOOD' if label else 'bad'}: a {WORDS[number % 8]} plot!"
        rows.append({"id": number // 2, "rating": 9 if label else 2, "label": label, "movie": f"tt{number // 3:07d}", "text": text})
    return rows


def members() -> dict[str, bytes]:
    """The files of a small `aclImdb` folder."""
    files = {"README": b"read me", "train/unsup/0_0.txt": b"no label"}
    for split in ("train", "test"):
        urls: dict[str, list[str]] = {"pos": [], "neg": []}
        for row in made_rows(split):
            side = "pos" if row["label"] else "neg"
            files[f"{split}/{side}/{row['id']}_{row['rating']}.txt"] = row["text"].encode()
            urls[side].append(f"http://www.imdb.com/title/{row['movie']}/usercomments\n")
        files |= {f"{split}/urls_{side}.txt": "".join(lines).encode() for side, lines in urls.items()}
    return files
