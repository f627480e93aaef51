"""Benchmark of PyTorch with torch.compile, which is applied to the models of
`bench.peers.torch_lstm`.
"""

from functools import partial

from bench.peers import torch_lstm

build = partial(torch_lstm.build, compiled=True)
