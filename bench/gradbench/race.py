"""Times of tools that speak GradBench's protocol, on random inputs in the shapes of its
evaluation `lstm`.

A tool is a shell command. A line has the median of its times and the largest difference
of its output from that of the first tool.
"""

import json
import subprocess
from itertools import product
from statistics import median

import numpy as np

from bench import make_parser
from bench.gradbench.__main__ import LSTM


def make_input(layers: int, characters: int, bits: int = 14) -> list[np.ndarray]:
    """Return the operands of `lstm.objective`, drawn with seed 0. A character of
    ADBench's data has 14 bits.
    """
    rng = np.random.default_rng(0)
    shapes = (2 * layers, 4 * bits), (3, bits), (2 * layers, bits)
    return [
        *map(rng.random, shapes),
        rng.integers(0, 2, (characters, bits)).astype(float),
    ]


def main() -> None:
    """Print a line for each size, function and tool."""
    parser = make_parser(__doc__)
    parser.add_argument("tools", nargs="+")
    parser.add_argument("-l", nargs="+", type=int, default=[2, 4, 6])
    parser.add_argument("-c", nargs="+", type=int, default=[1024, 4096, 8192])
    options = parser.parse_args()
    tools = [
        subprocess.Popen(
            tool, shell=True, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for tool in options.tools
    ]

    def ask(tool, **message):
        print(
            json.dumps(message | {"id": 0, "module": "lstm"}),
            file=tool.stdin,
            flush=True,
        )
        return json.loads(tool.stdout.readline())

    names = [ask(tool, kind="start")["tool"] for tool in tools]
    for tool in tools:
        ask(tool, kind="define")
    for layers, characters, function in product(
        options.l, options.c, ("objective", "jacobian")
    ):
        arrays = [array.tolist() for array in make_input(layers, characters)]
        given = dict(zip(LSTM, arrays, strict=True), min_runs=3, min_seconds=1)
        outputs = []
        for name, tool in zip(names, tools, strict=True):
            answer = ask(tool, kind="evaluate", function=function, input=given)
            outputs.append(np.array(answer["output"]))
            ms = median(
                timing["nanoseconds"] / 1e6
                for timing in answer["timings"]
                if timing["name"] == "evaluate"
            )
            print(
                f"l={layers} c={characters} {function} {name}: {ms:.4g} ms, "
                f"{abs(outputs[-1] - outputs[0]).max():.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
