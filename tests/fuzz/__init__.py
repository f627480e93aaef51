"""Fuzzers of the command line and its files: random flags, damaged inputs, flipped bits in run folders, kills.

`python -m tests.fuzz KIND --cases N --seed S` runs them; every case follows from (kind, seed, number) alone.
"""
