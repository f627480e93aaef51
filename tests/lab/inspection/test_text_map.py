"""Pages of coloured text are self-contained, escape HTML, show every character, and
colour characters by value.
"""

import numpy as np
import pytest
from made_texts import shown

from lstm_jax.base.errors import InputError
from lstm_jax.lab.inspection.text_map import most_active, surprise_page, units_page

TEXT = 'if a < b & c:\n  "tag" </pre><script>'


def test_surprise(tmp_path):
    bits = np.linspace(0, 9, len(TEXT) - 1)
    surprise_page(TEXT, bits, tmp_path / "page.html", "a <title>")
    page = (tmp_path / "page.html").read_text()
    coloured = page[page.index("<pre>") :]
    assert shown(tmp_path / "page.html") == [TEXT]
    assert "<script" not in page
    assert "http" not in page
    assert f"{bits.mean():.3f} bits a character" in page
    # the last characters have more than 8 bits
    assert coloured.index('class="n1"') < coloured.index('class="n11"')


def test_units(tmp_path):
    activations = np.stack([np.linspace(-1, 1, len(TEXT)), np.zeros(len(TEXT))], axis=1)
    units_page(TEXT, activations, [1, 0], tmp_path / "page.html", "units")
    page = (tmp_path / "page.html").read_text()
    assert shown(tmp_path / "page.html") == [TEXT, TEXT]
    assert page.index("unit 1") < page.index("unit 0")
    coloured = page[page.index("<pre>") :]
    assert coloured.index('class="n11"') < coloured.index('class="p11"')
    # a unit whose activation is 0 colours nothing
    assert "span" not in page[page.index("unit 1") : page.index("unit 0")]


def test_a_text_of_one_character(tmp_path):
    with pytest.raises(InputError, match="text: 1"):
        surprise_page("a", np.zeros(0), tmp_path / "x.html", "t")


def by_hand(column, over):
    return float(
        np.std(
            [
                np.mean(column[at : at + over], dtype=np.float64)
                for at in range(len(column) - over + 1)
            ]
        )
    )


def test_activity_is_the_deviation_of_the_mean_over_some_characters():
    activations = (
        np.random.default_rng(0)
        .uniform(-1, 1, (40, 8))
        .cumsum(axis=0)
        .astype(np.float32)
    )
    for over in (1, 7, 20):
        activity = [by_hand(activations[:, unit], over) for unit in range(8)]
        assert most_active(activations, 8, over) == np.argsort(activity)[::-1].tolist()


def test_in_a_short_text_the_mean_is_over_half_of_it():
    activations = np.stack(
        [np.zeros(8), np.array([1, -1] * 4), np.repeat([1, -1], 4)], axis=1
    )
    assert most_active(activations, 3, over=25) == [2, 0, 1]
    # with one character, the activity of all units is 0
    assert most_active(activations[:1], 2) == [0, 1]
