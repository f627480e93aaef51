"""The switch that turns compiled code off: recurrence, dropout masks and optimisers then run in JAX alone."""

import contextlib
import os

import jax

VARIABLE = "LSTM_JAX_COMPILED_CODE"

# part of the key by which JAX caches programs, so that one traced outside of the context does not serve inside
_enabled = jax.make_user_context(default_value=os.environ.get(VARIABLE, "1").lower() not in ("0", "false", "off", "no"))


def compiled_code(enabled: bool) -> contextlib.AbstractContextManager:
    """Return a context in which compiled code is used, or is not.

    The environment variable LSTM_JAX_COMPILED_CODE=0 turns it off for a whole process. The values are the same to rounding.
    """
    return _enabled(enabled)


def is_off() -> str:
    """Return why compiled code is turned off; empty if it is not."""
    return "" if _enabled.value else f"turned off by {VARIABLE} or compiled_code(False)"
