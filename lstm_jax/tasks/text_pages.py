"""HTML pages that show a text coloured by the surprise or by the hidden units of a model."""

from pathlib import Path

import numpy as np

from lstm_jax import data
from lstm_jax.errors import require
from lstm_jax.training.scoring import Scores


def draw_surprise(characters: data.Characters, ids: np.ndarray, scores: Scores, path: Path, title: str, force: bool = True) -> None:
    """Write a page of the text in which each character is coloured by its surprise in bits."""
    from lstm_jax.inspection import text_map

    text_map.surprise_page(_shown(characters, ids), scores.nats / np.log(2), path, title, force)


def draw_units(characters: data.Characters, ids: np.ndarray, activations: np.ndarray, path: Path, count: int, force: bool = True) -> None:
    """Write a page that shows the text once for each of the `count` most active hidden units, coloured by the output of the unit."""
    from lstm_jax.inspection import text_map

    require(count >= 1, "count", count, "give 1 unit or more")
    units = text_map.most_active(activations, count)
    title = f"The {len(units)} most active of {activations.shape[1]} units"
    text_map.units_page(_shown(characters, ids), activations, units, path, title, force)


def _shown(characters: data.Characters, ids: np.ndarray) -> str:
    """Return exactly one character per id, so that each character has its colour.

    If ids are bytes, a byte outside ASCII is shown as the Unicode character with the same number.
    """
    return "".join(characters.characters[int(i)] for i in ids)
