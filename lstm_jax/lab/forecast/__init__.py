"""Forecasting of time series, in one folder: config, data, model, task and command."""
