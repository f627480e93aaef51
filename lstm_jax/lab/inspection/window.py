"""Self-contained HTML page that shows what a recurrent network does at each step of
some examples.

The page opens without a network connection. The mouse pointer, clicks and the arrow
keys choose a step and a unit.

T is the number of steps of an example, H the number of units of a layer, and K the
number of outputs whose gradients are shown.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import require
from lstm_jax.base.writing import MARK, write_atomically
from lstm_jax.lab.files.text import digits_for

MOST_BYTES = 5_000_000
"""Largest size of a page in bytes."""
LEAST_UNITS = 8
"""Smallest number of units of each layer that a page may show. If the smallest layer
has fewer units, its size replaces this number for all layers."""
_DIVERGED = (
    "the network has diverged: inspect another run, or train it with a lower "
    "learning rate"
)
_TEMPLATE = Path(__file__).with_name("window.html")


@frozen
class Strip:
    """Values that colour the text of an example in the HTML page, one for each step,
    such as the attribution of the output to each word.
    """

    name: str
    values: Sequence[float]
    about: str = ""
    """Sentence that explains the values."""


@frozen
class Curve:
    """Curve with one value for each step of an example, for instance the probability of
    a positive review after each word.
    """

    name: str
    values: Sequence[float]
    bounds: tuple[float, float] | None = None
    """Lower and upper end of the vertical axis. None means the smallest and largest
    value of the curve."""
    ahead: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Forecast for the steps after the last step: a dict with the keys "mean", "low",
    "high" and, if the true values are known, "truth"."""


@frozen
class Layer:
    """Gates and states of one recurrent layer for one example: `arrays` maps the name
    of each gate and state to an array (T, H).
    """

    name: str
    arrays: Mapping[str, ndarray]


@frozen
class Frame:
    """Results of the network for one example, computed with the parameters of one
    epoch.
    """

    verdict: str
    """Sentence with the result of the network."""
    curve: Curve
    layers: Sequence[Layer]
    strips: Sequence[Strip] = ()
    norms: ndarray | None = None
    """Norms (K, T) of the gradients of K outputs with respect to the T steps. The
    outputs come after the last step or, if `each_step` is true, one after each."""
    each_step: bool = False
    reach: Sequence[float] = ()
    """Number of steps that each output reaches back (see `attribution.reach`), if
    `each_step` is true."""
    likely: Sequence[Sequence[tuple[str, float]]] = ()
    """For each step, the likeliest next characters with their probabilities."""


@frozen
class Example:
    """Example that the page shows: its name, its steps as texts, and its results (a
    `Frame`) for each epoch.
    """

    name: str
    steps: Sequence[str]
    frames: Sequence[Frame]


@frozen
class Window:
    """Content of an HTML page that shows the results of a recurrent network for some
    examples at some epochs of its training.
    """

    title: str
    about: str
    kind: str
    """Kind of the steps: "word", "character" or "entry"."""
    epochs: Sequence[int]
    """Numbers of the epochs, one for each frame of an example."""
    shown: int
    """Index of the epoch that the page shows first."""
    examples: Sequence[Example]
    neighbours: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)
    """Dict from a word to the words nearest to it, with their cosine similarities."""


def page(window: Window, most_bytes: int = MOST_BYTES) -> str:
    """Return the HTML text of the page that shows what a recurrent network does at each
    step of some examples.

    If the page with all units would exceed `most_bytes`, it shows only those units of
    each layer whose outputs vary most.

    Raises:
        InputError: if a value is not finite, or if the page would be larger than
            `most_bytes` even with `LEAST_UNITS` units of each layer.
    """
    for example in window.examples:
        for number, frame in zip(window.epochs, example.frames, strict=True):
            require(
                _is_finite(asdict(frame)),
                f"epoch {number}",
                "values that are not finite",
                _DIVERGED,
            )
    require(
        _is_finite(dict(window.neighbours)),
        "neighbours",
        "values that are not finite",
        _DIVERGED,
    )
    text = _text(window, _units_that_fit(window, most_bytes))
    size = len(text.encode())
    remedy = (
        f"give fewer or shorter examples, or fewer epochs: at most {most_bytes:,} bytes"
    )
    require(size <= most_bytes, "page", f"{size:,} bytes", remedy)
    return text


def _is_finite(value) -> bool:
    return all(
        np.isfinite(leaf).all()
        for leaf in jax.tree.leaves(value)
        if not isinstance(leaf, str)
    )


def write_page(window: Window, path: Path, force: bool = True) -> None:
    """Write the page of `page` to a file. `force` tells whether to replace a file that
    lstm-jax has not written.
    """
    write_atomically(path, page(window), force)


def clustered(series: ndarray) -> ndarray:
    """Return an order of the units with the outputs `series` (T, H) in which units with
    similar outputs are neighbours: the optimal order of the leaves (Bar-Joseph et al.
    2001) of a tree by average linkage of the distance 1 - |correlation|.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering

    count = series.shape[1]
    if count < 3 or series.shape[0] < 2:
        return np.arange(count)
    centred = series - series.mean(0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-12)
    distance = np.clip(1 - np.abs(unit.T @ unit), 0, None)[np.triu_indices(count, 1)]
    return leaves_list(optimal_leaf_ordering(linkage(distance, "average"), distance))


def _text(window: Window, kept: list[ndarray]) -> str:
    shown = sum(map(len, kept))
    total = sum(
        layer.arrays["h"].shape[1] for layer in window.examples[0].frames[0].layers
    )
    note = (
        f" Shown are {shown} of {total} units, those whose outputs vary most."
        if shown < total
        else ""
    )
    content = asdict(replace(window, about=window.about + note, examples=()))
    content["examples"] = [
        {
            "name": example.name,
            "steps": list(example.steps),
            "frames": [_frame(frame, kept) for frame in example.frames],
        }
        for example in window.examples
    ]
    return fill_template(_TEMPLATE, content)


def _units_that_fit(window: Window, most_bytes: int) -> list[ndarray]:
    """Choose the units of each layer to show in a page of at most `most_bytes` bytes:
    those whose outputs vary most.
    """
    layers = window.examples[0].frames[0].layers
    sizes = [layer.arrays["h"].shape[1] for layer in layers]
    steps = sum(len(example.steps) for example in window.examples) * len(window.epochs)
    frames = len(window.examples) * len(window.epochs)
    arrays = sum(len(layer.arrays) for layer in layers)
    # base64 has 4 characters for 3 bytes, and up to 4 more for an array; the index of a
    # unit and its place in the order have up to 12
    rest = (
        len(_text(window, [np.arange(0)] * len(sizes)).encode()) + 4 * arrays * frames
    )
    each = arrays * steps * 4 / 3 + 12 * len(layers) * frames
    fit = max(int((most_bytes - rest) / each), min(LEAST_UNITS, *sizes))
    chosen = []
    for n in range(len(layers)):
        outputs = np.concatenate(
            [
                example.frames[window.shown].layers[n].arrays["h"]
                for example in window.examples
            ]
        )
        chosen.append(np.sort(np.argsort(-outputs.std(0), kind="stable")[:fit]))
    return chosen


def _frame(frame: Frame, kept: list[ndarray]) -> dict[str, Any]:
    record = {
        "verdict": frame.verdict,
        "curve": _rounded(frame.curve),
        "strips": [*map(_rounded, frame.strips)],
        "layers": [
            _layer(layer, units)
            for layer, units in zip(frame.layers, kept, strict=True)
        ],
        "reach": list(frame.reach),
        "likely": [
            [(character, round(float(p), 4)) for character, p in row]
            for row in frame.likely
        ],
    }
    if frame.norms is not None:
        top = frame.norms.max(axis=1, keepdims=True)
        shares = frame.norms / np.where(top > 0, top, 1)
        record["norms"] = {
            "rows": len(frame.norms),
            "each_step": frame.each_step,
            "data": _bytes(shares, 0.0, 1.0),
        }
    return record


def _layer(layer: Layer, units: ndarray) -> dict[str, Any]:
    arrays = {}
    for name, whole in layer.arrays.items():
        values = whole[:, units]
        top = float(np.abs(values).max(initial=0.0)) or 1.0
        low, high = (
            (0.0, 1.0)
            if name in ("input", "forget", "output", "update", "reset")
            else (-top, top)
        )
        arrays[name] = {"low": low, "high": high, "data": _bytes(values, low, high)}
    return {
        "name": layer.name,
        "units": units.tolist(),
        "order": clustered(layer.arrays["h"][:, units]).tolist(),
        "arrays": arrays,
    }


def _bytes(values: ndarray, low: float, high: float) -> str:
    scaled = np.rint((np.asarray(values, np.float64) - low) / (high - low) * 255)
    return base64.b64encode(np.clip(scaled, 0, 255).astype(np.uint8).tobytes()).decode()


def _rounded(plotted: Curve | Strip) -> dict[str, Any]:
    digits = digits_for(plotted.values, 5)
    return asdict(plotted) | {
        "values": [float(f"{float(value):.{digits}g}") for value in plotted.values]
    }


def fill_template(template: Path, data) -> str:
    """Return the HTML text of a template in which `SHARED_STYLE` becomes offline.css,
    `SHARED_SCRIPT` offline.js, and `DATA` before `</script>` the data as JSON, with the
    mark of lstm-jax.
    """
    text = template.read_text(encoding="utf-8").replace(
        "<!doctype html>", f"<!doctype html>\n<!-- {MARK} -->", 1
    )
    for name, file in (
        ("SHARED_STYLE", "offline.css"),
        ("SHARED_SCRIPT", "offline.js"),
    ):
        text = text.replace(
            name, Path(__file__).with_name(file).read_text(encoding="utf-8").rstrip(), 1
        )
    # "<" is escaped, because "</script" in the data would end the script and
    # "<!--<script" would prevent its end
    return text.replace(
        "DATA</script>",
        json.dumps(data, allow_nan=False).replace("<", "\\u003c") + "</script>",
        1,
    )
