"""Lower and upper bounds of the numbers in configs and commands, and other checks of
values. The annotation of a field declares its bounds.

Example: `units: Annotated[int, Bounds(1, MOST, "give 1 or more")]`.
"""

import dataclasses
import os
from dataclasses import dataclass
from numbers import Integral, Real
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
)

from lstm_jax.base.errors import InputError, check_choice, require

Class = TypeVar("Class", bound=type)
MOST = 2**31 - 1
"""Largest allowed count: the largest int32, since JAX counts in int32."""


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def frozen(cls: Class) -> Class:
    """Make a class a dataclass whose instances cannot be changed."""
    return dataclass(frozen=True)(cls)


@frozen
class Bounds:
    """Bounds of a number: the smallest allowed value `low` and the largest allowed
    value `high`, and advice for error messages.
    """

    low: int | float
    high: int | float
    remedy: str
    """Advice to the user if the value is not a number within the bounds, such as "give
    1 or more"."""
    whole: bool = False
    """Whether `remedy` names the upper bound too. Otherwise `high` is added to it for a
    number above."""
    zero: bool = False
    """Whether 0 is allowed even if it is below `low`."""

    def check(self, name: str, value, kind: type) -> int | float:
        """Return `value` after checking that it is a number within these bounds."""
        number = value
        # a check against an abstract class takes microseconds
        if type(value) is not int and type(value) is not kind:
            value = value.item() if getattr(value, "ndim", None) == 0 else value
            if not isinstance(value, Integral if kind is int else Real) or isinstance(
                value, bool
            ):
                raise InputError(name, value, self.remedy)
            # NumPy would round the bounds to the dtype of the value
            number = int(value) if isinstance(value, Integral) else float(value)
        if self.low <= number <= self.high or (self.zero and number == 0):
            return number
        limit = (
            f", at most {self.high:.12g}"
            if number > self.high and not self.whole
            else ""
        )
        raise InputError(name, value, self.remedy + limit)


def as_tuple(name: str, value, remedy: str) -> tuple:
    """Return the items of an iterable as a tuple."""
    try:
        if not isinstance(value, str | bytes):
            return tuple(value)
    except TypeError:
        pass
    raise InputError(name, repr(value), remedy)


def is_a(value, package: str, *names: str) -> bool:
    """Return whether a value is an instance of a class, without importing the package
    of the class.
    """
    return any(
        cls.__name__ in names and f"{cls.__module__}.".startswith(f"{package}.")
        for cls in type(value).__mro__
    )


def check_fields(config) -> None:
    """Check that each field of a dataclass instance has an allowed value, and convert
    the values to Python's own types.
    """
    for field in dataclasses.fields(config):
        object.__setattr__(
            config,
            field.name,
            checked(field.name, getattr(config, field.name), field.type),
        )


def checked(name: str, value, kind) -> Any:
    """Return a value of the type `kind`, after checking it and replacing NumPy scalars
    and paths.
    """
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        items = (
            (value,)
            if inner is str and isinstance(value, str | os.PathLike)
            else as_tuple(name, value, "give several, in a list")
        )
        return tuple(checked(name, item, inner) for item in items)
    if get_origin(kind) is Annotated:
        return check_number(name, value, kind)
    if get_origin(kind) is Literal:
        check_choice(name, value, get_args(kind))
    if kind is str:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        require(isinstance(value, str), name, repr(value), "give a text")
    if kind is bool:
        require(
            isinstance(value, bool) or is_a(value, "numpy", "bool"),
            name,
            repr(value),
            "give True or False",
        )
        return bool(value)
    return value


def check_number(name: str, value, kind) -> Any:
    """Return `value` as an int or float, after checking that it lies within the bounds
    that the type `kind` declares.
    """
    number, *notes = get_args(kind)
    for bounds in (note for note in notes if isinstance(note, Bounds)):
        value = bounds.check(name, value, number)
    return value


class Checked:
    """Base class of dataclasses whose fields are checked when an instance is created."""

    def __post_init__(self):
        check_fields(self)


Count = Annotated[int, Bounds(1, MOST, "give 1 or more")]
CountOrNone = Annotated[int, Bounds(0, MOST, "give 0 or more")]
Layers = Annotated[int, Bounds(1, 256, "give 1 or more")]
Devices = Annotated[int, Bounds(0, 2**16, "give 0 or more")]
Seed = Annotated[
    int, Bounds(0, 2**32 - 1, "give a number from 0 to below 2**32", whole=True)
]
"""Seed of a JAX key, of which JAX would drop the bits above 32."""
Share = Annotated[
    float, Bounds(0, 1 - 1e-6, "give a share from 0 to below 1", whole=True)
]
"""Fraction of at least 0 and at most 1 - 1e-6. It stays below 1, because the code
divides by 1 - share in float32."""
Rate = Annotated[float, Bounds(1e-18, 1e18, "give a number above 0, at least 1e-18")]
"""Number from 1e-18 to 1e18. Within these bounds, squares and quotients of such numbers
are finite and non-zero in float32."""
RateOrNone = Annotated[
    float, Bounds(1e-18, 1e18, "give a number, 0 or at least 1e-18", zero=True)
]
