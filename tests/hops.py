"""Print the functions of lstm_jax that run before compiled code does.

    python tests/hops.py

The first table is about the call `LSTM(16, 32, dropout=0.2, recurrent_dropout=0.2)(x,
lengths=lengths)` in training mode, as `jit` traces it for the first time, until the
foreign call of its forward pass is bound. The library has been loaded, which happens
once in a process. Functions include lambdas and those within functions, but not
comprehensions. The entries of a file are the calls that come from another file of
lstm_jax, through any number of functions of other packages.

The second table is about `lstm-jax train sentiment` on made-up reviews: the stack of
calls when the first recurrent layer is traced. A hop is a call from a file in one
folder of lstm_jax to a file in another one, again through any other packages.
"""

import contextlib
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import jax
import jax.numpy as jnp
from flax import nnx

import lstm_jax
from lstm_jax import native
from lstm_jax.lab import cli
from lstm_jax.recurrence.api import observed

ROOT = os.path.dirname(lstm_jax.__file__)
HIDDEN = ("<module>", "<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")


class Reached(Exception):
    """Raised where a measurement ends."""


def file_of(frame: FrameType) -> str:
    """Return the path of a frame's file within lstm_jax, or "" for another package."""
    path = frame.f_code.co_filename
    if not path.startswith(ROOT) or frame.f_code.co_name in HIDDEN:
        return ""
    return os.path.relpath(path, ROOT)


def stack(frame: FrameType | None) -> Iterator[str]:
    """Yield the files of lstm_jax on the stack, the innermost first."""
    while frame is not None:
        if path := file_of(frame):
            yield path
        frame = frame.f_back


@contextlib.contextmanager
def profiled(record: Callable[[FrameType], None]) -> Iterator[None]:
    """Call `record` with the frame of each call of a Python function."""

    def profile(frame, event, arg):
        if event == "call":
            record(frame)

    sys.setprofile(profile)
    try:
        yield
    except Reached:
        pass
    finally:
        sys.setprofile(None)


def print_call() -> None:
    """Print the functions of each file that the call runs."""
    layer = lstm_jax.LSTM(16, 32, dropout=0.2, recurrent_dropout=0.2, rngs=nnx.Rngs(0))
    assert not native.why_not(), native.why_not()
    functions, entries = dict[str, Counter[str]](), Counter[str]()

    def record(frame):
        code = frame.f_code
        if (
            code.co_name == "ffi_call"
            and frame.f_locals.get("target_name") == "lstm_jax_forward"
        ):
            raise Reached
        if path := file_of(frame):
            name = f"{code.co_name} {code.co_firstlineno}"
            functions.setdefault(path, Counter())[name] += 1
            entries[path] += next(stack(frame.f_back), "") != path

    def call(x, lengths, key):
        with profiled(record):
            return layer(x, lengths=lengths, rngs=key)

    arrays = jnp.ones((4, 7, 16)), jnp.array([7, 3, 2, 0]), jax.random.key(0)
    jax.jit(call).trace(*arrays)
    print(f"{'file':36}{'functions':>10}{'calls':>8}{'entries':>9}")
    for path, found in functions.items():
        print(f"{path:36}{len(found):10}{found.total():8}{entries[path]:9}")
        if "-v" in sys.argv:
            print("   ", ", ".join(f"{name} x{n}" for name, n in found.items()))
    total = sum(map(len, functions.values()))
    calls = sum(found.total() for found in functions.values())
    name = f"{len(functions)} files"
    print(f"{name:36}{total:10}{calls:8}{entries.total():9}\n")


def print_training() -> None:
    """Print the folders on the stack of a training."""
    found = list[str]()

    def observer(options, call, backwards):
        if not found:
            found.extend(reversed(list(stack(sys._getframe(1)))))

    with tempfile.TemporaryDirectory() as folder, observed(observer):
        for split in ("train", "test"):
            rows = (f"{split} film {n},{n % 2}" for n in range(64))
            text = "\n".join(["text,label", *rows, ""])
            Path(folder, f"{split}.csv").write_text(text)
        words = (
            f"train sentiment --data {folder}/train.csv --test-data {folder}/test.csv "
            f"--run {folder}/run --vocabulary frequency --maxlen 4 --units 8 "
            "--batch-size 8 --epochs 1 --no-figures --quiet"
        )
        assert cli.main(words.split()) == 0
    folders = [os.path.dirname(path) for path in found]
    print("folders on the stack of a training:")
    shown = [
        folder for n, folder in enumerate(folders) if folders[n - 1 : n] != [folder]
    ]
    print(" > ".join(shown))
    print(f"{len(shown) - 1} hops, {len(found)} functions, {len(set(found))} files")


if __name__ == "__main__":
    print_call()
    print_training()
