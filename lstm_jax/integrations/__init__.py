"""Layers of other libraries whose recurrence is run by `lstm_jax.unroll`."""
