"""Sweeps, which run one function for many configs. Each run appends one row to a file,
and the rows form a table.

A config is an instance of a frozen dataclass:

    from dataclasses import dataclass
    from lstm_jax import sweep

    @dataclass(frozen=True)
    class Config:
        units: int = 32
        rate: float = 0.1

    def run(config: Config) -> dict[str, float]:
        return {"score": config.units * config.rate}

    if __name__ == "__main__":
        configs = sweep.grid(Config(), units=[16, 32], rate=[0.1, 0.2])
        rows = sweep.run(run, configs, "rows.jsonl", where="processes", workers=2)
        sweep.write_table(rows, "table.csv")
        summary = sweep.summarise(rows, by=("units", "rate"))
        sweep.plot(summary, x="units", hue="rate").savefig("figure.png")

A config may contain other configs. A name with dots overrides a field of an inner
config: `grid(config, **{"model.units": [16, 32]})`.
The name of the function, the values of the config (see `run_id`) and the name of its
class identify a run. A run that already has a row is skipped, whether it succeeded or
failed. Changes of data, or of code that the function calls, are not noticed: use a new
file of rows after such a change.

If a run raises an exception or its process is killed, its row holds the error, and the
other runs continue. An interrupt (Ctrl-C) ends the sweep; the interrupted runs have no
rows, and the same call continues it. Calls with other configs may share a file.

With `together="seed"`, configs that differ only in the seed are trained as an ensemble:
one call of the function under `jax.jit` and `jax.vmap` for all of them, with one row
for each. Apart from rounding, the results are those of runs alone. In the function the
named fields are traced numbers, with which it must compute in JAX, and it must return
numbers and arrays. `nnx.Rngs(config.seed)`, `lstm_jax.adam(config.rate)` and
`lstm_jax.make_train_step` work; `float(loss)` and `if config.rate > 0` end the sweep
with an `InputError`.

The argument `where` names the executor of the runs:

- "here": this process executes one run after another, on the same devices.
- "processes": `workers` processes execute one run after another. The cores are divided
  among them, and each has a GPU or a TPU chip of its own, if JAX can use any.
  Neighbours in the list of configs go to the same process, so vary the seed last. With
  `per_job=1` a new process executes each run.
- "slurm": Slurm jobs execute `per_job` runs each. If a job ends too early, its present
  run fails, and a new job executes the others. This needs submitit (`pip install
  ".[slurm]"`), whose parameters are given as `options`. `{"cluster": "local"}` starts
  the jobs on this machine.

With "processes", another process imports the function and the class of its config by
name: both must be defined at the top level of a module or script, and a script must
call `run` below `if __name__ == "__main__":`. With "slurm", submitit stores them in a
file by cloudpickle.
"""

from lstm_jax.lab.sweep.configs import Run, grid, override, run_id, variants
from lstm_jax.lab.sweep.executors import DONE, EXECUTORS, FAILED
from lstm_jax.lab.sweep.planner import existing_rows, flatten, run, table, write_table
from lstm_jax.lab.sweep.stats import plot, summarise
