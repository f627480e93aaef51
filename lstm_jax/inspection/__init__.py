"""Inspection of a trained model: its embedding space, its surprise and activations along a text, and figures of its runs."""
