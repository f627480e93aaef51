"""Thin nnx Modules that own parameters and nothing else."""

from lstm_jax.layers.embedding import Embedding
from lstm_jax.layers.heads import ClassifierHead, TiedHead
from lstm_jax.layers.recurrent import LSTM, Bidirectional, RecurrentStack

__all__ = ["LSTM", "Bidirectional", "ClassifierHead", "Embedding", "RecurrentStack", "TiedHead"]
