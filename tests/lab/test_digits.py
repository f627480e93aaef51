"""Tests of `digits_for`: numbers that differ little get as many digits as their
difference needs, and other numbers get `least`.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lstm_jax.lab.files.text import MOST, digits_for


@pytest.mark.parametrize(
    ("values", "least", "digits"),
    [
        ([1233996.1, 1234003.5], 3, 8),
        ([0.1, 0.9], 5, 5),
        ([], 5, 5),
        ([math.nan, 1.0, math.inf, 1.001], 3, 6),
        ([1.0, 1.0 + 1e-14], 5, MOST),
        ([-1.7e308, 1.7e308], 5, 5),
    ],
)
def test_known_numbers(values, least, digits):
    assert digits_for(values, least) == digits


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e3), st.integers(3, 6))
def test_the_difference_keeps_its_digits(low, width, least):
    """The difference of two numbers that are written with `digits_for` digits has at
    least `least` - 1 correct digits.

    The difference may have a further error of up to 1e-5, because no number is written
    with more than 15 digits.
    """
    high = low + width
    digits = digits_for([low, high], least)
    written = float(f"{high:.{digits}g}") - float(f"{low:.{digits}g}")
    assert abs(written - (high - low)) <= 10.0 ** (2 - least) * (high - low) + 1e-5
