"""Layers for Keras, and models of ONNX, whose recurrence is run by `lstm_jax.unroll`."""
