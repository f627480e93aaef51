"""Tasks: data, model, training and figures put together for the command line and the studies.

The file of a task is named as the task in its config, and has `train` and `load`.
"""
