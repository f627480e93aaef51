"""Program that executes one run of a sweep in a process of its own.

`python -m lstm_jax.sweep.child ROW.json` reads the function and the config of the run from standard input as JSON, and writes the row of
the run to ROW.json.
"""

import json
import sys
from pathlib import Path

from lstm_jax.files.writing import write_atomically
from lstm_jax.sweep.executors import attempt
from lstm_jax.sweep.identity import import_item, rebuild


def main() -> None:
    """Execute the run of a sweep that standard input describes as JSON, and write its row to the file that the first argument names."""
    task = json.loads(sys.stdin.read())
    row = attempt(import_item(task["function"]), rebuild(import_item(task["config"]), task["values"]))
    write_atomically(Path(sys.argv[1]), json.dumps(row).encode())


if __name__ == "__main__":
    main()
