"""Pages of coloured text: self-contained, escaped, every character there, shades by value."""

import html
import re

import numpy as np
import pytest

from lstm_jax.errors import InputError
from lstm_jax.text_map import surprise_page, units_page

TEXT = 'if a < b & c:\n  "tag" </pre><script>'


def _shown(page: str) -> list[str]:
    return [html.unescape(re.sub(r"<[^>]*>", "", block)) for block in re.findall(r"<pre>(.*?)</pre>", page, flags=re.DOTALL)]


def test_surprise(tmp_path):
    bits = np.linspace(0, 9, len(TEXT) - 1)
    surprise_page(TEXT, bits, tmp_path / "page.html", "a <title>")
    page = (tmp_path / "page.html").read_text()
    assert _shown(page) == [TEXT]
    assert "<script" not in page
    assert "http" not in page
    assert f"{bits.mean():.3f} bits a character" in page
    assert 'class="s11"' in page  # the last ones are above 8 bits
    assert page.index('class="s1"') < page.index('class="s11"')


def test_units(tmp_path):
    activations = np.stack([np.linspace(-1, 1, len(TEXT)), np.zeros(len(TEXT))], axis=1)
    units_page(TEXT, activations, [1, 0], tmp_path / "page.html", "units")
    page = (tmp_path / "page.html").read_text()
    assert _shown(page) == [TEXT, TEXT]
    assert page.index("unit 1") < page.index("unit 0")
    assert page.index('class="n11"') < page.index('class="p11"')
    assert "span" not in page[page.index("unit 1") : page.index("unit 0")]  # a silent unit colours nothing


def test_sizes_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match="bits"):
        surprise_page("abc", np.zeros(3), tmp_path / "x.html", "t")
    with pytest.raises(InputError, match="activations"):
        units_page("abc", np.zeros((2, 1)), [0], tmp_path / "x.html", "t")
    assert not list(tmp_path.iterdir())
