"""python -m bench COMMAND ...: the measurements; `python -m bench COMMAND --help` says what a command takes."""

import sys
from importlib import import_module

from lstm_jax.errors import InputError

COMMANDS = {
    "throughput": "milliseconds a step, ours and its peers'",
    "memory": "peak memory over T, with and without remat",
    "accuracy": "what training reaches over length, step and units",
    "generation": "seconds to draw characters, ours and Keras'",
    "compile": "seconds until the first step is done, ours and its peers', with and without a cache",
    "report": "a page, figures and a summary of the rows of throughput",
    "readme": "the README's tables, written from rows",
    "compare": "what became faster or slower between two sets of rows",
    "duel": "two checkouts in turn: is one faster or slower",
    "false_alarms": "how often duel is wrong",
    "schema": "the fields of a row of throughput",
    "breakdown": "what a training step is made of",
    "scaling": "how time and memory grow with T, H and B",
    "peak": "what the machine can do",
    "epoch": "seconds of a training epoch, ours and Keras'",
    "sentiment_accuracy": "test accuracy on IMDB over seeds",
    "generation_loss": "loss and bits a character of text generation",
    "generation_memory": "peak memory of a run on a million windows",
}


def main() -> int:
    """Run a command; its exit code, 2 for bad input."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        asked = len(sys.argv) > 1 and sys.argv[1] not in ("-h", "--help")
        lines = [f"  {name:<20} {what}" for name, what in COMMANDS.items()]
        print("\n".join(["usage: python -m bench COMMAND ...", *lines]), file=sys.stderr if asked else sys.stdout)
        return 2 if asked else 0
    name = sys.argv.pop(1)
    sys.argv[0] = f"python -m bench {name}"
    try:
        return import_module(f"bench.{name}").main() or 0
    except InputError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; the rows measured so far are kept, the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
