"""Program that executes one run of a sweep in a process of its own.

`python -m lstm_jax.sweep.child FUNCTION ROW.json` imports the function of the run by its name (see `identity.import_name`), reads the
config of the run from standard input (see `identity.pickle_config`), and writes the result row of the run, a JSON object, to ROW.json.

If the import raises an `InputError`, for example because the imported script calls `sweep.run` without a guard, the arguments of the
error are written to ROW.json in place of a row, and the parent process raises the error.
"""

import json
import sys
from pathlib import Path

from lstm_jax.errors import InputError
from lstm_jax.files.writing import write_atomically
from lstm_jax.sweep.executors import REFUSED, attempt
from lstm_jax.sweep.identity import import_item, unpickle_config


def main() -> None:
    """Execute the run that the arguments and standard input describe, and write its row to a file."""
    function, path = sys.argv[1:]
    try:
        item, config = import_item(function), unpickle_config(sys.stdin.buffer.read())
    except InputError as error:
        row = {REFUSED: [error.subject, str(error.value), error.remedy]}
    else:
        row = attempt(item, config)
    write_atomically(Path(path), json.dumps(row).encode())


if __name__ == "__main__":
    main()
