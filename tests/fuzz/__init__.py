"""Fuzzers of the command line and its files: random flags, damaged input files and run
folders, and killed training runs. See `tests.fuzz.__main__`.
"""
