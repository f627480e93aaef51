"""Layers for other libraries. The recurrence of these layers is run by `lstm_jax.unroll`."""
