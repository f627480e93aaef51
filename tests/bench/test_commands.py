"""The commands of `python -m bench`: their list, their help, and bad input."""

import pytest
from rows import bench, bench_here

from bench.__main__ import COMMANDS


def test_list() -> None:
    run = bench("--help")
    assert run.returncode == 0
    usage, *lines = run.stdout.splitlines()
    assert usage == "usage: python -m bench COMMAND ..."
    names = ["throughput", "accuracy", "sampling", "memory", "scaling", "breakdown", "duel", "compare", "report"]
    assert [line.split()[0] for line in lines] == names == list(COMMANDS)
    unknown = bench("epoch")
    assert (unknown.returncode, unknown.stdout, unknown.stderr) == (2, "", run.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str) -> None:
    run = bench_here(name, "--help")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"usage: python -m bench {name} ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["throughput", "--workload", "C", "--report"], "bench: workload: C; "),
        (["throughput", "--peer", "theirs", "--report"], "bench: peer: theirs; give one of ours, own_loop"),
        (["accuracy", "--study", "seeds", "--recipe", "none", "--report"], "bench: recipe: none; give some of ours, "),
        (["accuracy", "--seeds", "0"], "bench: seeds: 0; give 1 or more"),
        (["sampling", "--chars", "0"], "bench: chars: 0; give 1 or more"),
        (["memory", "--report", "--commit", "abc"], "bench: rows of commit abc: none in "),
        (["scaling", "--report", "--commit", "abc"], "bench: rows of commit abc: none in "),
        (["sampling", "--report", "--first-round", "1000"], "bench: rows: 128 units: methods []; measure first"),
        (["report", "--commit", "0000000"], "bench: commit: 0000000; give one that "),
    ],
)
def test_bad_input(arguments: list[str], complaint: str) -> None:
    run = bench_here(*arguments)
    assert run.returncode == 2
    assert run.stderr.startswith(complaint)
    assert len(run.stderr.splitlines()) == 1
