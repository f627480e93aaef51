"""The laboratory: whatever has a file format, a flag or a progress bar.

It stands on the core (all other packages of `lstm_jax`), which never imports it.
"""
