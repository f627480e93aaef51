r"""Runs an ONNX model here and in ONNX Runtime, and prints the largest difference of the
outputs and the milliseconds of a call.

    pip install onnx onnxruntime
    python examples/onnx_models.py model.onnx --shape input=1,1,64,100
    python examples/onnx_models.py silero_vad.onnx --shape input=1,512 \
        --shape state=2,1,128 --fix sr=16000

The inputs are random: floats are normally distributed, and whole numbers are 0 or 1. A
size that the model leaves open is 1 unless --shape gives the sizes of the input. The
time is the least of 50 calls, in which the two take turns.
"""

import argparse
import ast
import math
import time
from collections.abc import Sequence

import jax
import numpy as np

from lstm_jax.base.errors import InputError, parsing
from lstm_jax.convert import from_onnx


def random_inputs(
    inputs: dict, shapes: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Return random arrays for the inputs of a model, a dict from each name to its
    dtype and sizes, in which 0 is an open size.
    """
    rng, found = np.random.default_rng(0), {}
    for name, (dtype, sizes) in inputs.items():
        shape = shapes.get(name, tuple(size or 1 for size in sizes))
        array = (
            rng.standard_normal(shape)
            if np.dtype(dtype).kind == "f"
            else rng.integers(0, 2, shape)
        )
        found[name] = array.astype(dtype)
    return found


def compare(
    path: str,
    shapes: dict[str, tuple[int, ...]],
    fixed: dict[str, int | float],
    calls: int = 50,
) -> str:
    """Return a line with the recurrent nodes of a model, the largest difference and the
    largest output, and the times of a call.
    """
    with parsing("package onnxruntime", "pip install onnxruntime"):
        import onnxruntime
    constants = {name: np.asarray(value) for name, value in fixed.items()}
    model = from_onnx(path, **constants)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    given = random_inputs(model.inputs, shapes)
    run = jax.jit(model.apply)
    fed = given | constants

    def here():
        return jax.block_until_ready(run(model.params, **given))

    def there():
        return session.run(model.outputs, fed)

    found, wanted = jax.tree.leaves(here()), list(map(np.asarray, there()))
    difference = max(
        np.abs(np.asarray(one) - other).max()
        for one, other in zip(found, wanted, strict=True)
    )
    least = dict.fromkeys((here, there), math.inf)
    for _ in range(calls):
        for function in least:
            began = time.perf_counter()
            function()
            least[function] = min(least[function], time.perf_counter() - began)
    nodes = (
        ", ".join(f"{node.cell.name} {node.direction}" for node in model.recurrent)
        or "none"
    )
    times = (
        f"{1000 * least[here]:.3f} ms here, {1000 * least[there]:.3f} ms ONNX Runtime"
    )
    return (
        f"{path}: recurrent nodes: {nodes}; largest difference {difference:.1e} "
        f"of {max(np.abs(y).max() for y in wanted):.2g}; {times}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the models that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        help="sizes of an input, such as input=1,512",
    )
    parser.add_argument(
        "--fix",
        action="append",
        default=[],
        help="value of an input that becomes a constant, such as sr=16000",
    )
    given = parser.parse_args(arguments)
    try:
        with parsing("--shape or --fix", "give a name, = and numbers"):
            shapes = {
                name: tuple(map(int, sizes.split(",")))
                for name, sizes in (text.split("=") for text in given.shape)
            }
            fixed = {
                name: ast.literal_eval(value)
                for name, value in (text.split("=") for text in given.fix)
            }
        for path in given.files:
            print(compare(path, shapes, fixed))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
