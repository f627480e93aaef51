"""Measurements: programs that measure append JSON lines to `bench/results/`; programs that report read them."""
