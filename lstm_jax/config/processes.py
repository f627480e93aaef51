"""Config with which one process joins a run of several processes. It is not a part of the run's config.json."""

from dataclasses import dataclass

from lstm_jax.bounds import Checked, CountOrNone, ProcessIndex


@dataclass(frozen=True)
class Processes(Checked):
    """Settings of one process in a run of several processes: address of process 0, number of processes, and index of this process."""

    coordinator: str = ""
    """Address HOST:PORT of process 0 in a run of several processes. Under Slurm and Open MPI it is found without this flag."""
    processes: CountOrNone = 0
    """Number of processes of the run. 0 means the number that Slurm, Open MPI or $JAX_NUM_PROCESSES names, else 1."""
    process: ProcessIndex = -1
    """Index of this process, counted from 0. -1 means the index that Slurm, Open MPI or $JAX_PROCESS_ID names."""
