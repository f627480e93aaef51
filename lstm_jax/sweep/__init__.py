"""Ablations: overrides of a frozen config become runs, each run leaves one row in a file, and the rows become one table.

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

A config may contain configs; a name with dots overrides a field of an inner one: `grid(config, **{"model.units": [16, 32]})`. The name of
the function and the values of the config identify a run, see `run_id`. A run that has a row is skipped, whether it succeeded or failed;
`retry=True` runs the failed ones again. A run that raises, or whose process is killed, leaves a row with the error, and the others
continue. An interrupted sweep continues where it stopped when the same call is repeated.

`where` names the executor:

- "here": this process, one run after another. All runs share the devices that JAX made for the first of them.
- "processes": a fresh process for each run, `workers` at a time; the processes share the cores out.
- "slurm": a job for each run, through submitit (`pip install "lstm-jax[slurm]"`), with `options` as its parameters.

The last two import the function and the class of its config by name in another process: define both at the top level of a module or script.
"""

from lstm_jax.sweep.configs import grid, override, variants
from lstm_jax.sweep.executors import DONE, EXECUTORS, FAILED
from lstm_jax.sweep.identity import Run, run_id
from lstm_jax.sweep.planner import existing_rows, run
from lstm_jax.sweep.tables import flatten, table, write_table

__all__ = [
    "DONE",
    "EXECUTORS",
    "FAILED",
    "Run",
    "existing_rows",
    "flatten",
    "grid",
    "override",
    "run",
    "run_id",
    "table",
    "variants",
    "write_table",
]
