"""HTML pages that show a text with coloured characters.

The colour of a character shows either its surprise or the output of a hidden unit. The surprise of a character is the negative
log-probability that the model gives it.
"""

from pathlib import Path

import numpy as np

from lstm_jax import data
from lstm_jax.errors import require
from lstm_jax.training.scoring import Scores


def draw_surprise(characters: data.Characters, ids: np.ndarray, scores: Scores, path: Path, title: str, force: bool = True) -> None:
    """Write an HTML page that shows a text, with each character coloured by its surprise in bits.

    The surprise of a character is the negative log-probability that the model gives it.

    Args:
        characters: vocabulary of the text.
        ids: character ids (N,) of the text.
        scores: result of `Scorer.text` for this text. It holds the negative log-probability of each character except the first.
        path: path of the page.
        title: title of the page.
        force: whether an existing file that lstm-jax did not write may be replaced. A file that lstm-jax wrote may always be
            replaced; see `files.writing.check_output`.
    """
    from lstm_jax.inspection import text_map

    text_map.surprise_page(_shown(characters, ids), scores.nats / np.log(2), path, title, force)


def draw_units(characters: data.Characters, ids: np.ndarray, activations: np.ndarray, path: Path, count: int, force: bool = True) -> None:
    """Write an HTML page that shows a text once for each of the most active hidden units.

    Each copy of the text belongs to one unit. A character is coloured by the output of this unit after the model has read the character.

    Args:
        characters: vocabulary of the text.
        ids: character ids (N,) of the text.
        activations: outputs (N, H) of the H hidden units after the model has read each character.
        path: path of the page.
        count: number of hidden units to show.
        force: whether an existing file that lstm-jax did not write may be replaced. A file that lstm-jax wrote may always be
            replaced; see `files.writing.check_output`.

    Raises:
        InputError: if `count` is below 1, or if the file cannot be written.
    """
    from lstm_jax.inspection import text_map

    require(count >= 1, "count", count, "give 1 unit or more")
    units = text_map.most_active(activations, count)
    title = f"The {len(units)} most active of {activations.shape[1]} units"
    text_map.units_page(_shown(characters, ids), activations, units, path, title, force)


def _shown(characters: data.Characters, ids: np.ndarray) -> str:
    """Return the text that character ids stand for, as a string with exactly one character for each id.

    If the ids stand for bytes, each byte appears as the Unicode character whose code point is the value of the byte.
    """
    return "".join(characters.characters[int(i)] for i in ids)
