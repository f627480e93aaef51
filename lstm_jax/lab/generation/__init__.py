"""Text generation, in one folder: config, data, models, task and command."""
