"""Check of the errors of calls with bad input."""

from collections.abc import Callable
from typing import Any

import pytest

from lstm_jax.base.errors import InputError


def refused(
    found: str, call: Callable[..., Any], /, *arguments: Any, **options: Any
) -> None:
    """Check that a call raises `InputError`, and that the pattern `found` matches its
    message.
    """
    with pytest.raises(InputError, match=found):
        call(*arguments, **options)
