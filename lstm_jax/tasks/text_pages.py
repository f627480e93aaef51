"""HTML pages that show a text with coloured characters.

The colour of a character shows either its surprise or the output of a hidden unit. The surprise of a character is the negative
log-probability that the model gives it.
"""

from pathlib import Path

import numpy as np

from lstm_jax import data
from lstm_jax.errors import require
from lstm_jax.training.loop import FitResult
from lstm_jax.training.run_folder import RunFolder
from lstm_jax.training.scoring import Scorer, Scores

SHOWN = 3000
"""Number of characters that the HTML pages of a run show. They are the first characters of the held-out text, or of the training text if no
text is held out."""
UNITS = 12
"""Number of hidden units in the HTML page of the most active hidden units."""


def draw_surprise(characters: data.Characters, ids: np.ndarray, scores: Scores, path: Path, title: str, force: bool = True) -> None:
    """Write an HTML page that shows a text, with each character coloured by its surprise in bits."""
    from lstm_jax.inspection import text_map

    text_map.surprise_page(_shown(characters, ids), scores.nats / np.log(2), path, title, force)


def draw_units(characters: data.Characters, ids: np.ndarray, activations: np.ndarray, path: Path, count: int, force: bool = True) -> None:
    """Write an HTML page that shows a text once for each of the most active hidden units."""
    from lstm_jax.inspection import text_map

    require(count >= 1, "count", count, "give 1 unit or more")
    units = text_map.most_active(activations, count)
    title = f"The {len(units)} most active of {activations.shape[1]} units"
    text_map.units_page(_shown(characters, ids), activations, units, path, title, force)


def _shown(characters: data.Characters, ids: np.ndarray) -> str:
    return "".join(characters.characters[int(i)] for i in ids)


def draw_figures(run: RunFolder, result: FitResult, corpus: data.Corpus, scorer: Scorer, article_resets: bool = False) -> None:
    """Draw the learning curves, and write two HTML pages that show a coloured text."""
    from lstm_jax.inspection import plots

    plots.learning_curves(list(result.rows), run.figures / "learning_curves.png", "Learning curves", ("bits", "accuracy"))
    held_out = len(corpus.validation) > 0
    ids = (corpus.validation if held_out else corpus.train)[:SHOWN]
    which = "held-out" if held_out else "training"
    starts = (corpus.validation_starts if held_out else corpus.train_starts) if article_resets else None
    scores, activations = scorer.text(result.params, ids, starts), scorer.activations(result.params, ids, starts)
    draw_surprise(corpus.characters, ids, scores, run.figures / "surprise.html", f"Surprise, {which} text")
    draw_units(corpus.characters, ids, activations, run.figures / "units.html", UNITS)
