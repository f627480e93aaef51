"""Draw mutants of the code, and print those that the tests do not kill: `python
tests/mutants.py lstm_jax/cells lstm_jax/layers --count 200 --out mutants.jsonl`.

A mutant has one change: another operator or constant, a negated condition, or a removed
statement. It is written into a copy of the checkout, where the tests of its folder run
and, with --whole, the whole quick suite. The rows in the file --out are not repeated.
"""

import argparse
import ast
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ONE = (ast.Lt, ast.Gt, ast.Eq, ast.Is, ast.In, ast.Add, ast.Mult, ast.And)
OTHER = (ast.LtE, ast.GtE, ast.NotEq, ast.IsNot, ast.NotIn, ast.Sub, ast.Div, ast.Or)
SWAPS: dict[type, Any] = dict(zip(ONE + OTHER, OTHER + ONE, strict=True))
SKIPPED = ("annotation", "returns", "type_params")  # they do not run


def running(node: ast.AST) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in SKIPPED:
                yield child
                yield from running(child)


def change(node: ast.AST) -> bool:
    """Mutate a node in place, and return whether there is a mutation of it."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        flag = isinstance(node.value, bool)
        node.value = not node.value if flag else node.value + 1
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        node.value = ast.Constant(None)
    elif isinstance(node, ast.AugAssign):
        node.value = ast.Constant(0)
    else:
        return False
    return True


def draw(paths: Sequence[str], count: int, seed: int) -> list[tuple[str, int]]:
    """Draw mutants as pairs of a file and the number of the mutated node."""
    listed = subprocess.check_output(["git", "ls-files", *paths], cwd=ROOT, text=True)
    found = []
    for name in listed.splitlines():
        if name.endswith(".py"):
            nodes = running(ast.parse((ROOT / name).read_text()))
            kept = [n for n, node in enumerate(nodes) if change(copy.deepcopy(node))]
            found += [(name, number) for number in kept]
    return random.Random(seed).sample(found, min(count, len(found)))


def mutate(text: str, number: int) -> tuple[str, int, str]:
    """Return the mutated file, the line of the change, and the changed code."""
    tree = ast.parse(text)
    node = list(running(tree))[number]
    change(node)
    ast.fix_missing_locations(tree)
    return ast.unparse(tree), node.lineno, ast.unparse(node).split("\n")[0]  # type: ignore[attr-defined]


def tests_of(name: str) -> str:
    """Return the folder of tests that mirrors the folder of a file."""
    folder = ROOT / "tests" / Path(name).relative_to("lstm_jax").parent
    while not folder.is_dir():
        folder = folder.parent
    return str(folder.relative_to(ROOT))


def passes(checkout: Path, tests: str, limit: float | None = None) -> bool:
    """Return whether tests pass in a copy of the checkout, in `limit` seconds."""
    words = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", tests]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    try:
        ended = subprocess.run(
            words,
            cwd=checkout,
            env=environment,
            timeout=limit,
            capture_output=True,
        )
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    parser.add_argument("--whole", action="store_true")
    asked = parser.parse_args()
    lines = asked.out.read_text().splitlines() if asked.out.exists() else []
    rows = [json.loads(line) for line in lines]
    known = {(row["file"], row["number"]): row for row in rows}
    limits: dict[str, float] = {}  # seconds
    drawn = draw(asked.paths, asked.count, asked.seed)

    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".venv*", ".nox", "__pycache__", "_build")
        shutil.copytree(ROOT, checkout, ignore=ignored)
        for name, number in drawn:
            if (name, number) in known:
                continue
            path, text = checkout / name, (ROOT / name).read_text()
            mutant, line, code = mutate(text, number)
            killed = ""
            for tests in (tests_of(name), *(["tests"] if asked.whole else [])):
                if tests not in limits:
                    began = time.monotonic()
                    if not passes(checkout, tests):
                        sys.exit(f"{tests} fails without a mutant")
                    limits[tests] = 60 + 3 * (time.monotonic() - began)
                path.write_text(mutant)
                survived = passes(checkout, tests, limits[tests])
                path.write_text(text)
                if not survived:
                    killed = tests
                    break
            row = {"file": name, "number": number, "line": line, "code": code}
            row["killed"] = killed
            known[name, number] = row
            with asked.out.open("a") as file:
                file.write(json.dumps(row) + "\n")

    survivors = [known[mutant] for mutant in drawn if not known[mutant]["killed"]]
    for row in survivors:
        print(f"{row['file']}:{row['line']}: {row['code']}")
    print(f"{len(drawn) - len(survivors)} of {len(drawn)} mutants killed")


if __name__ == "__main__":
    main()
