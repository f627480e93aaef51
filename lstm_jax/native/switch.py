"""A switch that turns compiled code off, so that the recurrence, the dropout masks and the optimisers run in JAX."""

import contextlib
import os

import jax

VARIABLE = "LSTM_JAX_COMPILED_CODE"

# JAX adds the value to the key of its program caches, so that a program traced outside the context is not used inside
_enabled = jax.make_user_context(default_value=os.environ.get(VARIABLE, "1").lower() not in ("0", "false", "off", "no"))


def compiled_code(enabled: bool) -> contextlib.AbstractContextManager:
    """Return a context manager in which compiled code is used if `enabled` is true, and not used if it is false.

    The environment variable LSTM_JAX_COMPILED_CODE=0 turns compiled code off for the whole process. The results with and without compiled
    code are equal up to rounding.
    """
    return _enabled(enabled)


def is_off() -> str:
    """Return a message that says why compiled code is turned off, or "" if it is not turned off."""
    return "" if _enabled.value else f"turned off by {VARIABLE} or compiled_code(False)"
