"""Tasks, such as sentiment classification, text generation and forecasting.

Each task has a module of its own, with the name of the task (`RunConfig.task`). The
module defines `train`, which trains a model and writes the folder of the run, and
`load`, which loads a trained run from its folder.
"""
