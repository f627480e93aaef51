"""Process of one run: `python -m lstm_jax.sweep.child ROW.json` reads the task from standard input and writes its row to the file."""

import json
import sys
from pathlib import Path

from lstm_jax.files.writing import write_atomically
from lstm_jax.sweep.executors import attempt
from lstm_jax.sweep.identity import import_item, rebuild


def main() -> None:
    """Run the task and write the row."""
    task = json.loads(sys.stdin.read())
    row = attempt(import_item(task["function"]), rebuild(import_item(task["config"]), task["values"]))
    write_atomically(Path(sys.argv[1]), json.dumps(row).encode())


if __name__ == "__main__":
    main()
