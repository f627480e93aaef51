"""Small made-up text, a small config for training on it, and the equations of the
trained model in NumPy.
"""

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from lstm_jax.lab.generation.config import (
    GenerationConfig,
    GenerationModelConfig,
    SampleConfig,
    TextConfig,
)
from lstm_jax.training.config import TrainConfig

SENTENCES = (
    "the cat sat on the mat. a dog ran to the red house, and the cat was not there!"
)
TEXT = " ".join([SENTENCES] * 12)
CUT = len(TEXT) - round(0.1 * len(TEXT))
LENGTH, STEP, BATCH, EPOCHS, PROMPT, CHARS = 8, 2, 8, 3, 6, 20


def small_config(
    path: Path,
    regime: str = "windows",
    sample: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    **text,
):
    return GenerationConfig(
        TextConfig(
            **(
                {"data": (str(path),), "regime": regime, "length": LENGTH, "step": STEP}
                | text
            )
        ),
        GenerationModelConfig(units=8),
        TrainConfig(
            **(
                {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 0.03}
                | (train or {})
            )
        ),
        SampleConfig(
            **(
                {
                    "sample_chars": CHARS,
                    "sample_prompt": PROMPT,
                    "sample_temperatures": (0.0, 1.0),
                }
                | (sample or {})
            )
        ),
    )


def read(params: dict[str, np.ndarray], ids) -> tuple[np.ndarray, np.ndarray]:
    """Run the model over ids (N,) from a zero state, and return the outputs (N, H) and
    log p (N + 1, V) of the next character.

    Row n of log p is for the character that follows the first n ids.
    """
    p = {name: np.asarray(array, np.float64) for name, array in params.items()}
    h, c = np.zeros(8), np.zeros(8)
    outputs = [h]
    for identity in ids:
        i, f, g, o = np.split(
            p["recurrent/0/kernel"][identity]
            + h @ p["recurrent/0/recurrent_kernel"]
            + p["recurrent/0/bias"],
            4,
        )
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        outputs.append(h)
    logits = np.array(outputs) @ p["head/kernel"] + p["head/bias"]
    return np.array(outputs[1:]), logits - np.log(np.exp(logits).sum(1, keepdims=True))


def log_p_by_hand(params, ids, window: int | None) -> np.ndarray:
    """Return log p (N - 1, V) for the characters at the positions 1 to N - 1.

    Each character is predicted from the `window` ids before it, or from all ids before
    it if `window` is None.
    """
    if window is None:
        return read(params, ids)[1][1:-1]
    return np.array(
        [read(params, ids[max(0, n - window) : n])[1][-1] for n in range(1, len(ids))]
    )


def nats_by_hand(params, ids, window: int | None) -> np.ndarray:
    return -log_p_by_hand(params, ids, window)[np.arange(len(ids) - 1), ids[1:]]


def greedy_by_hand(params, prompt, chars: int, window: int | None) -> list[int]:
    text = list(prompt)
    for _ in range(chars):
        known = text if window is None else text[-window:]
        text.append(int(read(params, known)[1][-1].argmax()))
    return text[len(prompt) :]


def window_of(regime: str) -> int | None:
    return LENGTH if regime == "windows" else None


def ids_of(text: str) -> list[int]:
    known = sorted(set(TEXT))
    return [known.index(character) for character in text]


def shown(path: Path) -> list[str]:
    """Return the texts of the pre blocks of an HTML page, without the markup in them."""
    blocks = re.findall(r"<pre>(.*?)</pre>", path.read_text(), flags=re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]*>", "", block)) for block in blocks]
