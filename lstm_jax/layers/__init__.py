"""Thin nnx Modules that own parameters and nothing else."""

from lstm_jax.layers.embedding import Embedding
from lstm_jax.layers.heads import ClassifierHead, TiedHead
from lstm_jax.layers.recurrent import GRU, LSTM, Bidirectional, Recurrent, RecurrentStack, SimpleRNN, recurrent

__all__ = [
    "GRU",
    "LSTM",
    "Bidirectional",
    "ClassifierHead",
    "Embedding",
    "Recurrent",
    "RecurrentStack",
    "SimpleRNN",
    "TiedHead",
    "recurrent",
]
