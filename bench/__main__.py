"""Entry point of the command line `python -m bench COMMAND ...`. `python -m bench
COMMAND --help` lists the options of a command.
"""

import subprocess
import sys
from importlib import import_module

from lstm_jax.base.errors import InputError

COMMANDS = {
    "throughput": (
        "milliseconds a step of this project and its peers; with --first-step, "
        "seconds until the first step ends"
    ),
    "accuracy": (
        "accuracy over length, step and units; with --study, recipes of the Keras "
        "examples over seeds"
    ),
    "sampling": "seconds to draw characters, this project and Keras",
    "memory": (
        "peak memory of a training step over T; with --run, of a whole training run"
    ),
    "scaling": "growth of time and memory with T, H and B",
    "breakdown": "parts of a training step and their lower bounds",
    "duel": ("two checkouts that take turns: whether one is faster"),
    "compare": "changes between two sets of rows of throughput, beyond noise",
    "machine": (
        "description of this machine in a file: hardware, id, versions, peak speeds"
    ),
    "submit": "fixed suite of at most 10 minutes, and its results in one file to send",
    "check": "whether files of submit are valid and possible",
    "report": (
        "page, figure and summary of the rows; with --tables, the tables in "
        "README and docs"
    ),
}


def main() -> int:
    """Run the command that the command line names, and return the exit code. Without a
    command, or with `--help`, list the commands.
    """
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        unknown = len(sys.argv) > 1 and sys.argv[1] not in ("-h", "--help")
        lines = [f"  {name:<12} {meaning}" for name, meaning in COMMANDS.items()]
        print(
            "\n".join(["usage: python -m bench COMMAND ...", *lines]),
            file=sys.stderr if unknown else sys.stdout,
        )
        return 2 if unknown else 0
    name = sys.argv.pop(1)
    sys.argv[0] = f"python -m bench {name}"
    try:
        return import_module(f"bench.{name}").main() or 0
    except InputError as error:
        found = error
    except subprocess.CalledProcessError as error:
        found = InputError(
            "process", f"ended with code {error.returncode}", "see its message above"
        )
    except OSError as error:
        found = InputError(
            str(error.filename or "input or output"),
            error.strerror or error,
            "name another, or make room or permissions",
        )
    except KeyboardInterrupt:
        print(
            "bench: interrupted; the rows in the result file are kept, and "
            "the same command continues",
            file=sys.stderr,
        )
        return 130
    print(f"bench: {found}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
