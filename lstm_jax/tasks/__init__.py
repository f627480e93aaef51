"""Tasks, each of which combines data, model, training and figures for the command line and the studies.

The module of a task has the name of the task (`RunConfig.task`) and defines `train` and `load`.
"""
