"""Process of one run: `python -m lstm_jax.sweep.child ROW.json` reads the run from standard input and writes its row to ROW.json."""

import json
import sys
from pathlib import Path

from lstm_jax.files.writing import write_atomically
from lstm_jax.sweep.executors import attempt
from lstm_jax.sweep.identity import import_item, rebuild


def main() -> None:
    """Execute the run that standard input describes, and write its row to the file that the command line names."""
    task = json.loads(sys.stdin.read())
    row = attempt(import_item(task["function"]), rebuild(import_item(task["config"]), task["values"]))
    write_atomically(Path(sys.argv[1]), json.dumps(row).encode())


if __name__ == "__main__":
    main()
