"""`clean` returns the text that results if the whole text is cleaned at once, for any
block size.

The default recipe "source" cleans as a variant of the Keras example
lstm_text_generation does. This project reproduces that variant.
"""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from refused import refused

from lstm_jax.lab.generation.data import clean, sources

TEXTS = st.text(
    st.sampled_from("abZ .,'!;?\n\t-é☃Σ\u00a0\u2028İ0")
    | st.characters(exclude_categories=("Cs",)),
    max_size=80,
)


def naive(text):
    """Return the result of the recipe "source" for a text, computed for the whole text
    at once.
    """
    text = re.sub(r"[^a-zA-Z .,'!;?]", " ", text).lower()
    return " ".join(text.split())


@pytest.fixture(params=[1, 7, 1 << 20], ids="block{}".format, scope="module")
def block(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_BLOCK", request.param)
        yield request.param


@given(TEXTS)
@example("  A - \n b\u00a0")
@example("---")
@example("ΑΣ ΣΑΣ")
def test_recipes(block, text):
    assert clean(text, "source") == clean(text) == naive(text)
    assert clean(text, "source-cased").lower() == naive(text)
    assert clean(text, "source-cased") == " ".join(
        re.sub(r"[^a-zA-Z .,'!;?]", " ", text).split()
    )
    assert clean(text, "lower") == text.lower()
    assert clean(text, "none") == text


@given(TEXTS)
def test_bytes(block, text):
    raw = text.encode()
    assert clean(raw, "source") == naive(text).encode()
    assert clean(raw, "lower") == raw.lower()
    assert clean(raw, "none") == raw


def test_examples():
    assert (
        clean("The House—it's on fire!\n\n  (2019)  Ünder\tIt")
        == "the house it's on fire! nder it"
    )
    assert clean(b"caf\xe9 \xff au LAIT") == b"caf au lait"
    refused(
        r"clean: lowered; give one of source, source-cased, lower, none",
        clean,
        "x",
        "lowered",
    )
