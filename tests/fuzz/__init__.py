"""Fuzzers of the command line and its files: random flags, damaged input files, damaged
run folders, and killed training runs.

`python -m tests.fuzz KIND --cases N --seed S` runs N cases of the kind "flags",
"files", "flips" or "kills", or N cases of each kind if KIND is "all". Every case is
determined by its kind, the seed and its number alone.
"""
