"""Bounds of the numbers in a config or a command, stated in the types of their fields.

Example: `units: Annotated[int, Bounds(1, MOST, "give 1 or more")]`.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from lstm_jax.errors import InputError

MOST = 2**31 - 1
"""Largest count that is allowed, since JAX counts in int32."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of a number, which must lie from `low` to `high`."""

    low: int | float
    high: int | float
    remedy: str
    """Remedy shown for a number outside the bounds."""
    above: str = ""
    """Remedy shown for a number above `high`. If empty, it consists of `remedy` and `high`."""
    zero: bool = False
    """Whether 0 is allowed in addition."""

    def check(self, name: str, value: Any, kind: type) -> None:
        """Raise `InputError` unless `value` is a number of type `kind` within the bounds; if `kind` is float, an int is allowed too."""
        number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        if number and (self.low <= value <= self.high or (self.zero and value == 0)):
            return
        high = number and value > self.high
        raise InputError(name, value, (self.above or f"{self.remedy}, at most {self.high:.12g}") if high else self.remedy)


def check_numbers(config: Any) -> None:
    """Raise `InputError` if a number in a field of a dataclass, or in a tuple in a field, is outside the bounds in the field's type."""
    for field in dataclasses.fields(config):
        value, annotation = getattr(config, field.name), field.type
        values = [value]
        if get_origin(annotation) is tuple:
            values, annotation = value, get_args(annotation)[0]
        if get_origin(annotation) is Annotated:
            for number in values:
                check_number(field.name, number, annotation)


def check_number(name: str, value: Any, kind: Any) -> Any:
    """Return `value` if it lies within the bounds of `kind`.

    Args:
        name: name that the error shows.
        value: the number.
        kind: a type defined below, for example `Share`.

    Raises:
        InputError: if `value` is not a number within the bounds.
    """
    number, *notes = get_args(kind)
    for bounds in (note for note in notes if isinstance(note, Bounds)):
        bounds.check(name, value, number)
    return value


class Checked:
    """Base of dataclasses that check the bounds of their numbers when an instance is made."""

    def __post_init__(self):
        check_numbers(self)


Count = Annotated[int, Bounds(1, MOST, "give 1 or more")]
CountOrNone = Annotated[int, Bounds(0, MOST, "give 0 or more")]
Layers = Annotated[int, Bounds(1, 256, "give 1 or more")]
Steps = Annotated[int, Bounds(1, MOST, "give 1 or more steps")]
Rows = Annotated[int, Bounds(1, MOST, "give 1 or more rows")]
Characters = Annotated[int, Bounds(1, MOST, "give 1 or more characters")]
CharactersOrNone = Annotated[int, Bounds(0, MOST, "give 0 or more characters")]
Drawn = Annotated[int, Bounds(0, 10**6, "give 0 or more characters")]
Written = Annotated[int, Bounds(0, 10**7, "give 0 or more characters")]
Entries = Annotated[int, Bounds(1, MOST, "give 1 or more entries")]
Words = Annotated[int, Bounds(4, MOST, "give 4 or more (0, 1 and 2 are reserved)")]
Features = Annotated[int, Bounds(0, MOST, "give 0 (one-hot) or more")]
Devices = Annotated[int, Bounds(0, 2**16, "give 0 or more")]
Seed = Annotated[int, Bounds(0, 2**32 - 1, "give 0 or more", "give a number below 2**32: JAX would drop the rest")]
DrawingSeed = Annotated[int, Bounds(0, 2**32 - 1, "give a number from 0 to below 2**32", "give a number from 0 to below 2**32")]
CountOrAll = Annotated[int, Bounds(0, MOST, "give 0 (all) or more")]
CharactersOrAll = Annotated[int, Bounds(0, MOST, "give 1 or more, or 0 for all")]
UnitCount = Annotated[int, Bounds(1, MOST, "give 1 unit or more")]
Share = Annotated[float, Bounds(0, 1 - 1e-6, "give a share from 0 to below 1", "give a share from 0 to below 1")]
"""A share stays below 1, because 1 - share is a denominator in float32."""
Part = Annotated[float, Bounds(1e-9, 1 - 1e-9, "give a share between 0 and 1")]
Level = Annotated[float, Bounds(1e-300, 1 - 2**-53, "give a share between 0 and 1", "give a share between 0 and 1")]
Rate = Annotated[float, Bounds(1e-18, 1e18, "give a number above 0, at least 1e-18")]
"""Within these bounds, squares and quotients of rates are finite and non-zero in float32."""
RateOrNone = Annotated[float, Bounds(1e-18, 1e18, "give 0 or more, at least 1e-18", zero=True)]
Temperature = Annotated[float, Bounds(1e-6, 1e6, *["give 0 (always the likeliest), or 1e-6 to 1e6 (all alike)"] * 2, zero=True)]
"""Outside these bounds, computations with the temperature overflow in float32."""
