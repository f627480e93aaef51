"""A switch that turns the compiled C++ code off, so that the recurrence, the dropout masks and row-sparse updates are computed in JAX."""

import contextlib
import os

import jax

VARIABLE = "LSTM_JAX_COMPILED_CODE"

# the value is part of the key of JAX's program caches, so that a program that was traced with another value is not reused
_enabled = jax.make_user_context(default_value=os.environ.get(VARIABLE, "1").lower() not in ("0", "false", "off", "no"))


def compiled_code(enabled: bool) -> contextlib.AbstractContextManager:
    """Return a context manager that turns the use of compiled C++ code on or off.

    Without compiled code, the recurrence, the dropout masks and row-sparse updates are computed in JAX. The results with and without
    compiled code are equal up to rounding. The environment variable LSTM_JAX_COMPILED_CODE=0 turns compiled code off for the process,
    except within `compiled_code(True)`.

    Args:
        enabled: whether to use compiled code within the context.
    """
    return _enabled(enabled)


def is_off() -> str:
    """Return "" if compiled C++ code is turned on, else a message that says how it was turned off."""
    return "" if _enabled.value else f"turned off by {VARIABLE} or compiled_code(False)"
