"""Tests of the bounds of numeric flags: a value out of bounds or not a number is
refused in one line, before the command starts.
"""

import dataclasses
import math
import struct
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import jax.numpy as jnp
import numpy as np
import pytest
from command_line import required

from lstm_jax.base import checks as bounds
from lstm_jax.base.checks import Bounds, check_fields
from lstm_jax.base.errors import InputError
from lstm_jax.lab.commands import COMMANDS

OWN_RULES = {"top_p"}
"""Numeric fields that are checked by other code than `Bounds`."""


def numbers(kind: Any) -> Iterator[tuple[str, type, Bounds]]:
    """Yield a tuple (flag, type, bounds) for each numeric flag of a command."""
    for field in dataclasses.fields(kind):
        hint = (
            get_args(field.type)[0] if get_origin(field.type) is tuple else field.type
        )
        plain, *notes = get_args(hint) or (hint,)
        if dataclasses.is_dataclass(plain):
            yield from numbers(plain)
        elif plain in (int, float) and field.name not in OWN_RULES:
            limits = [note for note in notes if isinstance(note, Bounds)]
            assert limits, f"{kind}: {field.name} has no bounds"
            yield f"--{field.name.replace('_', '-')}", plain, limits[0]


@pytest.mark.slow(keep=5)
@pytest.mark.parametrize(
    "command", [command for command, kind in COMMANDS.items() if list(numbers(kind))]
)
def test_every_number_has_bounds(command, ask):
    for flag, kind, limits in numbers(COMMANDS[command]):
        value = 2**63 if kind is int else "1e400"
        code, out, err = ask(*command.split(), *required(command), f"{flag}={value}")
        assert (code, out, err.count("\n")) == (2, "", 1), (flag, err)
        assert err.startswith(f"error: {flag}"), (flag, err)
        assert limits.high <= (2**32 if kind is int else 1e18)
        for odd in (
            [limits.low - 1, 2**63, -(2**63)]
            if kind is int
            else [math.nan, math.inf, -math.inf, -1e-320]
        ):
            with pytest.raises(InputError):
                limits.check(flag, odd, kind)


@pytest.mark.parametrize("value", ["", "0x10", "9" * 5000, "1.5"])
def test_what_is_no_count(value, ask):
    code, out, err = ask("units", f"--count={value}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: --count: ")


def test_the_remedy_for_what_is_too_large():
    limits = Bounds(1, 5, "give 1 or more")
    for value, remedy in (
        (0, "give 1 or more"),
        (6, "give 1 or more, at most 5"),
        (2.0, "give 1 or more"),
        (True, "give 1 or more"),
    ):
        with pytest.raises(InputError) as error:
            limits.check("n", value, int)
        assert str(error.value) == f"n: {value}; {remedy}"
    Bounds(2, 3, "", zero=True).check("n", 0, float)
    for value in (2, 2.5, 3):
        Bounds(2, 3, "").check("n", value, float)


def test_shares_and_rates_are_what_they_are_in_float32():
    def single(value: float) -> float:
        return struct.unpack("f", struct.pack("f", value))[0]

    for kind in (bounds.Share, bounds.Rate, bounds.RateOrNone):
        limits = get_args(kind)[1]
        assert single(limits.high) < (1 if kind is bounds.Share else 3e38)
        assert limits.low == 0 or single(limits.low) ** 2 > 1.2e-38


def test_each_entry_of_a_tuple_is_checked():
    @dataclasses.dataclass
    class Config:
        counts: tuple[bounds.Count, ...] = (1, 2)

    check_fields(Config())
    with pytest.raises(InputError, match=r"^counts: 0; give 1 or more"):
        check_fields(Config((1, 0)))


def test_numpy_numbers_become_numbers_of_python():
    @dataclasses.dataclass(frozen=True)
    class Config:
        count: bounds.Count
        shares: tuple[bounds.Share, ...]

    config = Config(np.int64(3), (np.float32(0.5), 0, np.float64(0.25)))
    check_fields(config)
    assert dataclasses.astuple(config) == (3, (0.5, 0, 0.25))
    assert [type(value) for value in (config.count, *config.shares)] == [
        int,
        float,
        int,
        float,
    ]
    for value in (np.array(3), jnp.int32(3)):
        found = bounds.check_number("count", value, bounds.Count)
        assert (found, type(found)) == (3, int)
    for wrong in (
        np.float32(3),
        np.bool_(True),
        np.int64(0),
        np.array([3]),
        np.array(3.5),
        np.array(True),
    ):
        with pytest.raises(InputError, match=r"^count: "):
            bounds.check_number("count", wrong, bounds.Count)
    with pytest.raises(
        InputError, match=r"^share: 1\.0; give a share from 0 to below 1$"
    ):
        # 1 - 1e-6 is 1 in float16
        bounds.check_number("share", np.float16(1), bounds.Share)
