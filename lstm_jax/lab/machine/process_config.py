"""Config with which one process joins a run of several processes. It is not a part of
the run's config.json.
"""

import os

from lstm_jax.base.checks import Checked, CountOrNone, ProcessIndex, frozen
from lstm_jax.base.errors import require

MANAGERS = (
    ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
)
"""Environment variables of Slurm and of Open MPI: number of processes, index of this
process. A batch script of Slurm lacks the third."""


@frozen
class Processes(Checked):
    """Settings of one process in a run of several processes: address of process 0,
    number of processes, and index of this process.
    """

    coordinator: str = ""
    """Address HOST:PORT of process 0 in a run of several processes. Under Slurm and
    Open MPI it is found without this flag."""
    processes: CountOrNone = 0
    """Number of processes of the run. 0 means the number that Slurm, Open MPI or
    $JAX_NUM_PROCESSES names, else 1."""
    process: ProcessIndex = -1
    """Index of this process, counted from 0. -1 means the index that Slurm, Open MPI or
    $JAX_PROCESS_ID names."""

    def completed(self) -> tuple["Processes", bool]:
        """Return a copy with missing fields from the environment, and whether Slurm or
        Open MPI knows the address of process 0.
        """
        manager = next(
            (names for names in MANAGERS if all(name in os.environ for name in names)),
            (),
        )

        def number(given, missing, names):
            for name in names if given == missing else ():
                if text := os.environ.get(name, ""):
                    require(text.isdecimal(), f"${name}", text, "give a number")
                    return int(text)
            return given

        address = self.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
        count = number(self.processes, 0, ("JAX_NUM_PROCESSES", *manager[:1]))
        found = Processes(
            address, count, number(self.process, -1, ("JAX_PROCESS_ID", *manager[1:2]))
        )
        return found, bool(manager) and not address and count > 1
