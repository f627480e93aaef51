"""Sentiment classification, in one folder: config, data, model, task and command."""
