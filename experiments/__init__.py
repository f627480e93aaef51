"""Studies with the library. Each study asks one question and defines the training runs that answer it.

Each file that defines `STUDY` is a study. The other files contain functions that several studies use. `experiments.study` is the command
line that executes the runs of a study and reports their results.
"""
