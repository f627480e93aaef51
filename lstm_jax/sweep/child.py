"""Program that executes one run of a sweep in a process of its own.

`python -m lstm_jax.sweep.child FUNCTION FOLDER` imports the function of the run by its name (see `identity.import_name`), reads the
config of the run from FOLDER/config (see `identity.pickle_config`), and writes the outcome of the run to FOLDER/outcome by pickle.

After a SIGTERM a training run of the library saves its state and raises `Interrupted`. This program then ends itself by a SIGTERM without
writing an outcome, as if the run had not handled the signal. The parent process counts the run as failed.

If the import of the function or of a class in the config raises an `InputError`, this program writes the error in place of an outcome, and
the parent process raises the error. One cause is a script that calls `sweep.run` at its top level without the guard
`if __name__ == "__main__":`.
"""

import io
import pickle
import signal
import sys
from pathlib import Path

from lstm_jax.errors import InputError, Interrupted
from lstm_jax.files.writing import write_atomically
from lstm_jax.sweep import identity
from lstm_jax.sweep.executors import attempt


def main() -> None:
    """Execute the run that the arguments describe, and write its outcome to a file."""
    name, folder = sys.argv[1:]
    identity.importing = True
    try:
        function, config = identity.import_item(name), identity.ConfigUnpickler(io.BytesIO(Path(folder, "config").read_bytes())).load()
    except InputError as error:
        outcome = error
    else:
        identity.importing = False
        try:
            outcome = attempt(function, config)
        except KeyboardInterrupt as error:
            cause = error.__cause__
            if isinstance(cause, Interrupted) and cause.number == signal.SIGTERM:  # of this run alone; a SIGINT ends the sweep
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.raise_signal(signal.SIGTERM)
            raise
    write_atomically(Path(folder, "outcome"), pickle.dumps(outcome))


if __name__ == "__main__":
    main()
