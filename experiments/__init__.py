"""Studies with the library lstm_jax.

Each study asks one or two questions and defines the runs, such as trainings, that answer them. Each file that defines `STUDY` is a study.
The other files contain functions that several studies use. `experiments.study` is the command line that executes the runs of a study and
reports their results.
"""
