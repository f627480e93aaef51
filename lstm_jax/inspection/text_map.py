"""Self-contained HTML pages of text coloured by one number for each character.

Surprise (bits of each character) has shades of one colour; activations of hidden units (-1 to 1) have two colours, as in Karpathy, Johnson,
Li 2015.
"""

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lstm_jax.errors import require
from lstm_jax.files.writing import MARK, write_atomically

_LEVELS = 12

_PAGE = (
    f"<!doctype html>\n<!-- {MARK} -->\n"
    + """\
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1d1d1f; --paper: #fcfcfa; --high: 230 97 1; --low: 0 114 178 }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8e6e3; --paper: #17181a; --high: 255 141 60; --low: 86 180 255 }} }}
body {{ margin: 2rem auto; max-width: 54rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif }}
body {{ color: var(--ink); background: var(--paper) }}
pre {{ font: 14px/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere }}
h1 {{ font-size: 1.3rem }} h2 {{ font-size: 1rem; margin-top: 2rem }} span {{ border-radius: 2px }}
{rules}
</style></head><body><h1>{title}</h1><p>{lead}</p>
{body}
</body></html>
"""
)


def _rules(prefix: str, colour: str) -> str:
    return " ".join(f".{prefix}{n} {{ background: rgb(var(--{colour}) / {n / (_LEVELS - 1):.2f}) }}" for n in range(1, _LEVELS))


def _runs(characters: Sequence[str], classes: Sequence[str]) -> str:
    """Return the escaped text with a span over each run of one class."""
    parts, begin = [], 0
    for n in range(1, len(characters) + 1):
        if n == len(characters) or classes[n] != classes[begin]:
            text = html.escape("".join(characters[begin:n]))
            parts.append(f'<span class="{classes[begin]}">{text}</span>' if classes[begin] else text)
            begin = n
    return "".join(parts)


def surprise_page(text: str, bits: np.ndarray, path: Path, title: str, force: bool = True) -> None:
    """Write `text` with each character shaded by its bits.

    Args:
        text: N characters.
        bits: (N - 1,) bits of characters 1 .. N - 1.
        path: the page.
        title: title of the page.
        force: see `files.writing.check_output`.

    Raises:
        InputError: if the sizes do not fit, or the file cannot be written.
    """
    require(len(bits) == len(text) - 1, "bits", len(bits), f"give one less than the text's {len(text)} characters")
    top = 8.0
    levels = np.clip(np.rint(np.minimum(bits, top) / top * (_LEVELS - 1)), 0, _LEVELS - 1).astype(int)
    classes = ["", *(f"s{n}" if n else "" for n in levels)]
    lead = f"{len(text):,} characters, {bits.mean():.3f} bits a character. No colour: expected; full colour: {top:.0f} bits or more."
    page = _PAGE.format(title=html.escape(title), lead=lead, rules=_rules("s", "high"), body=f"<pre>{_runs(text, classes)}</pre>")
    write_atomically(path, page, force)


def units_page(text: str, activations: np.ndarray, units: Sequence[int], path: Path, title: str, force: bool = True) -> None:
    """Write `text` once for each unit, coloured by the unit's activation after each character.

    Args:
        text: N characters.
        activations: (N, H), between -1 and 1.
        units: columns to show, in order.
        path: the page.
        title: title of the page.
        force: see `files.writing.check_output`.

    Raises:
        InputError: if the sizes do not fit, or the file cannot be written.
    """
    require(len(activations) == len(text), "activations", len(activations), f"give one row for each of {len(text)} characters")
    sections = []
    for unit in units:
        values = np.clip(activations[:, unit], -1, 1)
        levels = np.rint(np.abs(values) * (_LEVELS - 1)).astype(int)
        classes = [("p" if v > 0 else "n") + str(n) if n else "" for v, n in zip(values, levels, strict=True)]
        sections.append(f"<h2>unit {unit}</h2><pre>{_runs(text, classes)}</pre>")
    lead = "Each unit's output after each character: orange towards 1, blue towards -1."
    rules = _rules("p", "high") + "\n" + _rules("n", "low")
    write_atomically(path, _PAGE.format(title=html.escape(title), lead=lead, rules=rules, body="\n".join(sections)), force)


def most_active(activations: np.ndarray, count: int, over: int = 25) -> list[int]:
    """Return the `count` most active units (columns), the most active first.

    A unit's activity is the standard deviation over the text of its mean over `over` characters. It is small for a unit that stays at one
    value or flickers with every character, and large for one that is on within a quotation and off outside.

    Args:
        activations: (N, H), N at least 1.
        count: count of units.
        over: characters of the mean; at most half of the text.
    """
    over = min(over, max(1, len(activations) // 2))
    sums = np.cumsum(np.concatenate([np.zeros((1, activations.shape[1])), activations.astype(np.float64)]), axis=0)
    activity = ((sums[over:] - sums[:-over]) / over).std(axis=0)
    return [int(unit) for unit in np.argsort(-activity, kind="stable")[:count]]
