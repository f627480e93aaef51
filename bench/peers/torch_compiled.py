"""PyTorch: `torch_lstm` under torch.compile."""

from functools import partial

from bench.peers import torch_lstm

build = partial(torch_lstm.build, compiled=True)
