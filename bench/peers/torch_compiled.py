"""Peer PyTorch with torch.compile: the models of `torch_lstm`, compiled."""

from functools import partial

from bench.peers import torch_lstm

build = partial(torch_lstm.build, compiled=True)
