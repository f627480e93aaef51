"""Studies with the library lstm_jax.

Each study asks one or two questions and defines the runs, such as trainings, that
answer them. Each file that defines `STUDY` is a study. `experiments.study` is the
command line that executes the runs of a study and reports their results.
`experiments.claims` is the command line that tests claims of the studies on new seeds.
The other files contain functions that the studies use.
"""
