"""Studies: one question a file, with the runs that answer it; `experiments.study` is their frame."""
