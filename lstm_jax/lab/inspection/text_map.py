"""Self-contained HTML pages that show a text with each character coloured by its
surprise or by the activation of a unit.

The surprise of a character is -log2 of its predicted probability, in bits. It is shown
in shades of one colour. The activation of a hidden unit is a number from -1 to 1. It is
shown in shades of two colours, as in Karpathy, Johnson and Li (2015).
"""

import html
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from string import Template

import numpy as np
from numpy import ndarray

from lstm_jax.base.errors import require
from lstm_jax.base.writing import MARK, write_atomically

_LEVELS, _MOST_BITS = 11, 8  # the page has a colour for each level
_PAGE = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))


def _write_page(path: Path, title: str, lead: str, body: str, force: bool) -> None:
    write_atomically(
        path,
        _PAGE.substitute(mark=MARK, title=html.escape(title), lead=lead, body=body),
        force,
    )


def _coloured(text: Sequence[str], values: ndarray) -> str:
    """Return HTML of a text whose characters have values from -1 to 1, with a <span>
    element for each run of characters of one colour.
    """
    levels = np.rint(np.clip(values, -1, 1) * _LEVELS).astype(int)
    parts = []
    for level, run in groupby(zip(levels, text, strict=True), itemgetter(0)):
        shown = html.escape("".join(character for _, character in run))
        parts.append(
            f'<span class="{"p" if level > 0 else "n"}{abs(level)}">{shown}</span>'
            if level
            else shown
        )
    return f"<pre>{''.join(parts)}</pre>"


def surprise_page(
    text: Sequence[str], bits: ndarray, path: Path, title: str, force: bool = True
) -> None:
    """Write an HTML page that shows a text of N characters, at least 2, with each
    character shaded by its surprise (see the module).

    `bits` (N - 1,) is the surprise of each character except the first. `force` tells
    whether to replace an existing file that lstm-jax has not written.

    Raises:
        InputError: if N is below 2, or if the file cannot be written.
    """
    require(len(text) >= 2, "text", f"{len(text)} characters", "give 2 or more")
    shades = "".join(
        f'<span class="n{level}">&nbsp;{level * _MOST_BITS / _LEVELS:.1f}&nbsp;</span>'
        for level in range(1, _LEVELS + 1)
    )
    lead = (
        f"{len(text):,} characters, {bits.mean():.3f} bits a character. Colour by "
        f"bits: {shades} or more."
    )
    _write_page(
        path, title, lead, _coloured(text, np.append(0, -bits / _MOST_BITS)), force
    )


def units_page(
    text: Sequence[str],
    activations: ndarray,
    units: Sequence[int],
    path: Path,
    title: str,
    force: bool = True,
) -> None:
    """Write an HTML page that shows a text of N characters once for each of the given
    units, with each character coloured by the unit's activation after it.

    `activations` is (N, H), for H units, from -1 to 1.

    Raises:
        InputError: if the file cannot be written.
    """
    sections = [
        f"<h2>unit {unit}</h2>{_coloured(text, activations[:, unit])}" for unit in units
    ]
    ends = (
        '<span class="n11">&nbsp;-1&nbsp;</span> to <span '
        'class="p11">&nbsp;1&nbsp;</span>'
    )
    lead = f"Each unit's output after each character, from {ends}."
    _write_page(path, title, lead, "\n".join(sections), force)


def most_active(activations: ndarray, count: int, over: int = 25) -> list[int]:
    """Return the indices of the `count` most active of the H units in `activations` (N, H),
    the most active first.

    The activity of a unit is the standard deviation of the moving average of its
    activation over `over` (at most N // 2) characters. It is large for a unit that, for
    example, is high inside quotations and low elsewhere.
    """
    over = min(over, max(1, len(activations) // 2))
    sums = np.cumsum(
        np.concatenate([np.zeros((1, activations.shape[1])), activations]), axis=0
    )
    activity = ((sums[over:] - sums[:-over]) / over).std(axis=0)
    return np.argsort(-activity, kind="stable")[:count].tolist()
