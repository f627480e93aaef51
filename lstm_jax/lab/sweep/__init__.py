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
Three things identify a run: the name of the function, the values of the config (see
`run_id`), and the name of the config's class. A run that already has a row is skipped,
whether it succeeded or failed. With `retry=True`, failed runs are repeated. If the
source of the function itself has changed since a row was written, `run` warns. `run`
does not notice changes of data, or of code that the function calls: use a new file of
rows after such a change.

If a run raises an exception or its process is killed, its row holds the error, and the
other runs continue. Two identical calls cannot run at the same time, but calls with
other configs may share a file. An interrupt (Ctrl-C) ends the sweep and kills its
processes or cancels its Slurm jobs. The interrupted runs have no rows. To continue an
interrupted sweep, repeat the same call.

With `together="seed"`, configs that differ only in the seed are trained as an ensemble:
`run` calls the function once for all of them, under `jax.jit` and `jax.vmap`, and
appends one row for each. One program is traced and compiled for all, which matters most
in short studies of small models. `together=["seed", "rate"]` also joins configs that
differ in the field `rate`. Apart from rounding, the results are those of runs alone, so
a file may mix both. In the function the named fields are traced numbers, with which it
must compute in JAX, and it must return numbers and arrays. `nnx.Rngs(config.seed)`,
`lstm_jax.adam(config.rate)` and `lstm_jax.make_train_step` work; `float(loss)`, `if
config.rate > 0` and `np.random.default_rng(config.seed)` end the sweep with an
`InputError`. If a group raises another error, all of its runs fail.

The argument `where` names the executor of the runs:

- "here": this process executes one run after another. JAX sets up its devices once in a
  process, when they are first used, so all runs share the same devices.
- "processes": `workers` processes execute one run after another. The cores are divided
  among them, and each has a GPU or a TPU chip of its own, if JAX can use any. The
  processes share compiled programs in the user's cache folder. Neighbours in the list
  of configs go to the same process, so vary the seed last. A killed process is
  replaced. With `per_job=1` a new process executes each run.
- "slurm": Slurm jobs execute `per_job` runs each. If a job ends too early, its present
  run fails, and a new job executes the others. This needs submitit (`pip install
  ".[slurm]"`), whose parameters are given as `options`. `{"cluster": "local"}` starts
  the jobs on this machine.

With "processes", another process imports the function and the class of its config by
name. Both must therefore be defined at the top level of a module or script, and a
script must call `run` below `if __name__ == "__main__":`. With "slurm", submitit stores
the function and the class in a file by cloudpickle. If they are defined at the top
level of an imported module, only their names are stored, and the job must be able to
import the module. If they are defined in the script itself or inside a function, their
code is stored.
"""

from lstm_jax.lab.sweep.configs import Run, grid, override, run_id, variants
from lstm_jax.lab.sweep.executors import DONE, EXECUTORS, FAILED
from lstm_jax.lab.sweep.planner import existing_rows, flatten, run, table, write_table
from lstm_jax.lab.sweep.stats import plot, summarise
