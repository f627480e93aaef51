"""The evaluation `lstm` of GradBench (a benchmark of automatic differentiation) with
this project.

`python -m bench.gradbench` is a tool that speaks GradBench's protocol, and `python -m
bench.gradbench.race` times such tools. `lstm_jax.patch` adds the tool to a checkout of
GradBench.
"""
