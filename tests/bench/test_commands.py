"""Tests of the commands of `python -m bench`: the list of commands, their help, and the
errors for bad input.
"""

import pytest
from rows import bench_here, complaint

from bench import memory
from bench.__main__ import COMMANDS
from bench.workloads import read_sizes


def test_list():
    run = bench_here("--help")
    assert run.returncode == 0
    assert [line.split()[0] for line in run.stdout.splitlines()[1:]] == list(COMMANDS)
    unknown = bench_here("epoch")
    assert (unknown.returncode, unknown.stdout, unknown.stderr) == (2, "", run.stdout)


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        ("throughput --workload C --report", "workload: C"),
        ("throughput --workload A:Q=3 --report", "workload: A:Q=3"),
        ("throughput --workload A:cell=grue --report", "cell: grue"),
        ("throughput --peer theirs --report", "peer: theirs"),
        ("accuracy --study seeds --recipe none --report", "recipe: none"),
        ("memory --report --commit abc", "rows of commit abc: none in "),
        ("breakdown --report --commit abc", "rows of commit abc: none in "),
        ("sampling --report --first-round 1000", "rows: 128 units: methods []"),
        (
            "throughput --first-step --report --commit deadbeef",
            "rows of commit deadbeef: none in ",
        ),
        (
            "throughput --report --commit 8343e8c9e398 --workload A:H=7",
            "rows of commit 8343e8c9e398: none of these ",
        ),
        ("throughput --rounds 0", "rounds: 0"),
        ("throughput --seconds 0", "seconds: 0.0"),
        ("compare a b --level nan", "level: nan"),
        ("compare a b --least inf", "least: inf"),
        ("report --commit 0000000", "rows of commit 0000000: none in "),
        ("memory --commit c5e447ebe3d5", "commit: c5e447ebe3d5; give --report too"),
    ],
)
def test_bad_input(arguments, subject):
    assert complaint(*arguments.split()).startswith(f"bench: {subject}")


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        ("throughput --units 0..8", "argument --units: sizes: 0..8; "),
        ("throughput --units 64..32", "argument --units: sizes: 64..32; "),
        ("memory --length 5,x", "argument --length: sizes: 5,x; "),
        ("memory --length 3,0", "argument --length: sizes: 3,0; "),
    ],
)
def test_bad_sizes(arguments, subject):
    assert complaint(*arguments.split()).startswith(
        f"python -m bench {arguments.split()[0]}: error: {subject}"
    )


def test_ranges_of_sizes():
    assert read_sizes("32..512") == (32, 64, 128, 256, 512)
    assert read_sizes("3..11") == (3, 6)
    assert read_sizes("5..5") == read_sizes("5") == (5,)


def test_a_folder_that_cannot_be_made(monkeypatch):
    def measured(*_: object) -> list[dict]:
        raise PermissionError(13, "Permission denied", "/root/rows.jsonl")

    monkeypatch.setattr(memory.timing, "measure_missing", measured)
    assert complaint("memory").startswith(
        "bench: /root/rows.jsonl: Permission denied; "
    )
