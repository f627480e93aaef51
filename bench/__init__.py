"""Measurements: programs that measure append JSON lines to `bench/results/`; programs that report read them."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
"""The files of rows, one a command."""
