"""A switch that turns compiled code off, so that recurrence, dropout masks and optimisers run in JAX."""

import contextlib
import os

import jax

VARIABLE = "LSTM_JAX_COMPILED_CODE"

# part of the key of JAX's program caches, so that a program traced outside the context is not used inside
_enabled = jax.make_user_context(default_value=os.environ.get(VARIABLE, "1").lower() not in ("0", "false", "off", "no"))


def compiled_code(enabled: bool) -> contextlib.AbstractContextManager:
    """Return a context in which compiled code is used, or is not used.

    The environment variable LSTM_JAX_COMPILED_CODE=0 turns it off for the whole process. Values are equal up to rounding.
    """
    return _enabled(enabled)


def is_off() -> str:
    """Return why compiled code is turned off; empty if it is not."""
    return "" if _enabled.value else f"turned off by {VARIABLE} or compiled_code(False)"
