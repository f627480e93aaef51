"""Synthetic reviews from a small grammar, which serve as training data without a
download.

Each text has a verdict, positive or negative, which follows from its words.
The verdict depends on the order of the words. After "not", a word of praise counts as
blame, and a word of blame as praise. A word in a concession does not count. Examples of
concessions are "despite its dull start", "i expected a bore , yet", "it starts well ,
then" and "the acting was brilliant , but". A classifier that only counts words is
therefore hardly better than chance.
"""

import random

import numpy as np

from lstm_jax.base.errors import require
from lstm_jax.lab.sentiment.data.reviews import (
    Review,
    TextSplit,
    TextSplits,
    text_split,
)


def _words(text: str, between: str = " ") -> list[str]:
    return text.split(between)


PRAISE = _words(
    "good great wonderful superb brilliant gripping charming funny clever "
    "moving fresh lovely delightful powerful"
    " memorable touching witty elegant thrilling honest"
)
BLAME = _words(
    "bad awful terrible dreadful dull boring clumsy tedious stupid shallow "
    "stale ugly annoying weak forgettable"
    " cheap lifeless messy bland pointless"
)
WELL = _words("well beautifully brightly strongly")
BADLY = _words("badly poorly feebly sadly")
HIT = _words("masterpiece triumph treat gem")
MISS = _words("bore mess failure disaster")
ASPECT = _words(
    "acting plot story script music camera cast dialogue ending direction "
    "pacing lighting editing hero villain"
    " romance humour scenery soundtrack performance"
)
PART = _words("start opening beginning premise title trailer poster finale middle")
WORK = _words("film movie picture show drama comedy thriller")
DEGREE = _words("very really quite truly rather utterly so")
WHO = _words(
    "my brother|my sister|a friend|our neighbour|my mother|an old "
    "colleague|the whole family|my class",
    "|",
)
WHERE = _words(
    "in paris|in a small town|at sea|on a farm|in the desert|in a hotel|under "
    "the city|in the mountains|on a train",
    "|",
)
ABOUT = _words(
    "a detective|two sisters|a lost dog|a young painter|an old sailor|three "
    "thieves|a quiet teacher|a stranger|a lonely king",
    "|",
)
WHEN = _words(
    "last night|on sunday|in the cinema|at home|on a plane|two weeks "
    "ago|after work|during the holidays",
    "|",
)
NEUTRAL = (
    "{who} and i saw this {work} {when}",
    "{who} picked the {work} {when}",
    "it tells of {about} {where}",
    "the {work} follows {about} {where}",
    "we meet {about} and later {about} {where}",
    "it lasts about two hours",
    "the {aspect} came up when i talked to {who}",
)
FILLED = {
    "who": WHO,
    "work": WORK,
    "when": WHEN,
    "about": ABOUT,
    "where": WHERE,
    "aspect": ASPECT,
}
LONGEST, SHORTEST = 60, 8


def synthetic_reviews(count: int, seed: int) -> TextSplit:
    """Return `count` synthetic reviews of 8 to 60 words, which all differ from each
    other.

    Half of the reviews are positive; if `count` is odd, one more is negative. Equal
    seeds give equal reviews. `InputError` is raised if `count` is below 2.
    """
    require(count >= 2, "synthetic reviews", count, "give 2 or more")
    draw = random.Random(seed)
    labels = [row % 2 for row in range(count)]
    draw.shuffle(labels)
    texts = {}
    for label in labels:
        before = len(texts)
        while len(texts) == before:
            text = _review(draw, label)
            if (
                SHORTEST
                <= len(text.replace(",", "").replace(".", "").split())
                <= LONGEST
            ):
                texts[text] = None
    return text_split(
        Review(text.encode(), label, f"synthetic/{row}")
        for row, (text, label) in enumerate(zip(texts, labels, strict=True))
    )


def synthetic_splits(train: int, test: int, seed: int) -> TextSplits:
    """Return synthetic reviews as a dict with the keys "train" and "test". The two
    splits have no text in common.

    The splits have `train` and `test` reviews, at least 2 each, else `InputError` is
    raised. Equal seeds and sizes give equal splits.
    """
    require(
        min(train, test) >= 2,
        "synthetic reviews",
        f"{train} and {test}",
        "give 2 or more of each",
    )
    half = (train + 1) // 2
    whole = synthetic_reviews(2 * (half + (test + 1) // 2), seed)
    by_label = [np.flatnonzero(whole.labels == label) for label in (0, 1)]
    splits = {}
    for name, part, count in (
        ("train", slice(half), train),
        ("test", slice(half, None), test),
    ):
        kept = np.sort(np.concatenate([rows[part] for rows in by_label]))[:count]
        splits[name] = text_split(
            Review(whole.texts[row], int(whole.labels[row]), whole.names[row])
            for row in kept
        )
    return splits


def _review(draw: random.Random, label: int) -> str:
    sentences = [_judgement(draw, label) for _ in range(draw.choice((1, 1, 2, 2, 3)))]
    for _ in range(draw.choice((0, 1, 1, 2))):
        sentences.append(
            draw.choice(NEUTRAL).format(
                **{key: draw.choice(words) for key, words in FILLED.items()}
            )
        )
    draw.shuffle(sentences)
    return " ".join(f"{sentence} ." for sentence in sentences)


def _judgement(draw: random.Random, label: int) -> str:
    main, form = _clause(draw, label), draw.randrange(10)
    if form < 2:
        concession = (
            f"despite its {draw.choice((PRAISE, BLAME)[label])} {draw.choice(PART)}"
        )
        return f"{main} {concession}" if form == 0 else f"{concession} , {main}"
    if form == 2:
        return f"i expected a {draw.choice((HIT, MISS)[label])} , yet {main}"
    if form == 3:
        first, last = (WELL, BADLY) if label == 0 else (BADLY, WELL)
        return (
            f"the {draw.choice(WORK)} starts {draw.choice(first)} , then it ends "
            f"{draw.choice(last)}"
        )
    if form == 4:
        return f"{_clause(draw, 1 - label)} , but {main}"
    if form == 5:
        return draw.choice(
            ("{main} , though {other}", "though {other} , {main}")
        ).format(main=main, other=_clause(draw, 1 - label))
    return main


def _clause(draw: random.Random, label: int) -> str:
    negated = draw.random() < 0.3
    sign = 1 - label if negated else label
    negation = "not " if negated else ""
    if draw.random() < 0.2:
        return f"it is {negation}a {draw.choice((MISS, HIT)[sign])}"
    degree = f"{draw.choice(DEGREE)} " if draw.random() < 0.5 else ""
    return (
        f"the {draw.choice((ASPECT, WORK)[draw.random() < 0.3])} was "
        f"{negation}{degree}{draw.choice((BLAME, PRAISE)[sign])}"
    )
