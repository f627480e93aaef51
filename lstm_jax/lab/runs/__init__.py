"""Folders of training runs, the table of runs, and trackers."""
