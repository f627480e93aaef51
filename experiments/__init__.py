"""Studies: each file asks one question and defines the runs that answer it; `experiments.study` runs and reports a study."""
