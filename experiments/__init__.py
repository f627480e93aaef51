"""Studies with the library. Each study asks one question and defines the training runs that answer it.

`experiments.study` is the command line that runs and reports a study. Files that define no `STUDY` contain functions for the studies.
"""
