"""Tests of the commands of `python -m bench`: the list of commands, their help, and the errors for bad input."""

import pytest
from rows import bench, bench_here

from bench import memory
from bench.__main__ import COMMANDS
from bench.workloads import read_sizes


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
        (["throughput", "--report", "--commit", "deadbeef"], "bench: rows of commit deadbeef: none in "),
        (["throughput", "--first-step", "--report", "--commit", "deadbeef"], "bench: rows of commit deadbeef: none in "),
        (
            ["throughput", "--report", "--commit", "8343e8c9e398", "--workload", "A:H=7"],
            "bench: rows of commit 8343e8c9e398: none of these ",
        ),
        (["throughput", "--rounds", "0"], "bench: rounds: 0; give 1 or more"),
        (["throughput", "--seconds", "0"], "bench: seconds: 0.0; give more than 0"),
        (["accuracy", "--epochs", "0"], "bench: epochs: 0; give 1 or more"),
        (["duel", ".", "--rounds", "0"], "bench: rounds: 0; give 1 or more"),
        (["duel", ".", "--level", "2"], "bench: level: 2.0; give a number between 0 and 1"),
        (["compare", "a", "b", "--level", "nan"], "bench: level: nan; give a number between 0 and 1"),
        (["compare", "a", "b", "--least", "-1"], "bench: least: -1.0; give 0 or more"),
        (["compare", "a", "b", "--least", "inf"], "bench: least: inf; give 0 or more"),
        (["report", "--commit", "0000000"], "bench: commit: 0000000; give one that "),
    ],
)
def test_bad_input(arguments: list[str], complaint: str) -> None:
    run = bench_here(*arguments)
    assert run.returncode == 2
    assert run.stderr.startswith(complaint)
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["throughput", "accuracy", "sampling", "memory", "scaling", "breakdown", "duel"])
def test_only_this_checkout_is_measured(name: str) -> None:
    """Each command that measures refuses --commit without --report, because only the checked-out commit can be measured."""
    run = bench_here(name, "--commit", "c5e447ebe3d5")
    assert run.returncode == 2
    assert run.stderr == "bench: commit: c5e447ebe3d5; give --report too: only the checked-out commit can be measured\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["throughput", "--units", "0..8"], "argument --units: sizes: 0..8; give 1 or more"),
        (["throughput", "--units", "64..32"], "argument --units: sizes: 64..32; give two ends, the smaller one first, as in 32..512"),
        (["memory", "--length", "5,x"], "argument --length: sizes: 5,x; give integers, as in 32,64,128 or 32..512"),
        (["scaling", "--grid", "T"], "argument --grid: sizes: T; give them as in T=20:40:80,H=32:64"),
        (["scaling", "--grid", "T=3:0"], "argument --grid: sizes: T=3:0; give sizes of T, H, B, 1 or more"),
        (["scaling", "--middle", "E=3"], "argument --middle: sizes: E=3; give sizes of T, H, B, 1 or more"),
    ],
)
def test_bad_sizes(arguments: list[str], complaint: str) -> None:
    run = bench_here(*arguments)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == f"python -m bench {arguments[0]}: error: {complaint}"


def test_ranges_of_sizes() -> None:
    assert read_sizes("32..512") == (32, 64, 128, 256, 512)
    assert read_sizes("3..11") == (3, 6)
    assert read_sizes("5..5") == read_sizes("5") == (5,)


def test_a_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: object) -> list[dict]:
        raise PermissionError(13, "Permission denied", "/root/rows.jsonl")

    monkeypatch.setattr(memory.timing, "measure_missing", measured)
    run = bench_here("memory")
    assert run.returncode == 2
    assert run.stderr == "bench: /root/rows.jsonl: Permission denied; name another, or make room or permissions\n"
