"""Tests of descriptions of machines and of submissions: the suite's file, ways to be
refused, notes, several machines, committed files.
"""

import json
import re
from datetime import UTC, datetime

import pytest
from rows import bench_here, complaint, failed, made, printed, timed, write_rows

from bench import check, flops, hardware, submit, throughput, timing
from bench.peers import read_candidate
from bench.summary import speedups
from bench.workloads import workload

SHA = "abcdef123456"
MS = {
    "A": {"ours": 10.0, "torch_lstm": 15.0},
    "B": {"ours": 12.0, "torch_lstm": 30.0},
    "inference": {"ours": 0.1},
}


def measured(name, peer, ms, number, **changes):
    """Return a row of `bench.worker` whose fields agree."""
    work = workload(name)
    times = [ms * (1 + n / 100 + number / 1000) for n in (-2, -1, 0, 1, 2)]
    ms = times[2]
    row = timed(
        name,
        peer,
        ms,
        number,
        **read_candidate(peer).fields(work),
        probe_gflops=[100.0, 100.0],
        git=SHA,
        distance=1e-6,
    )
    row |= {"samples": times, "sample_count": 5, "backend_ran": "compiled"}
    return row | flops.speeds(work, ms) | changes


def submission(path, edit=lambda rows: None, cpu="chip", slower=1.0):
    """Write a valid submission, in which `edit` may change the rows, and return its
    path.
    """
    about = {"cpu": cpu, "cpus": "2", "gpus": []}
    number, peak = (
        hardware.machine_id(about),
        {"gemm_gflops_2": 400.0, "copy_gbs_2": 50.0},
    )
    steps = [
        measured(name, peer, slower * ms, number)
        for number in range(2)
        for name, own in MS.items()
        for peer, ms in own.items()
    ]
    rows = [made("peak", **peak), *steps, failed("A", "haiku", "out of memory")]
    rows = [row | {"machine": number, "git": SHA, "cpu": cpu} for row in rows]
    first = made(
        "machine",
        hardware=about,
        machine=number,
        peaks=peak,
        git=SHA,
        seconds=60.0,
        speedups=speedups(rows),
    )
    rows = [first | {"date": datetime.now(UTC).isoformat()}, *rows]
    edit(rows)
    path.write_text(submit.packed(rows[0], rows[1:]))
    return path


def test_a_submission_is_accepted(tmp_path):
    path = submission(tmp_path / "a.jsonl")
    first = check.verified(path)
    assert (len(first), first[2]["cpu"], first[2]["git"]) == (2 + 10 + 1, "chip", SHA)
    assert first[0]["speedups"]["A"]["torch_lstm"] == pytest.approx(1.5, rel=1e-3)
    head, *lines = printed("check", path)
    assert head == f"{path}: 13 rows, accepted"
    assert "failed: haiku on A: out of memory" in "\n".join(lines)
    assert not re.search("noisy|load|throttled|compiled", "\n".join(lines))


def test_notes_of_an_unreliable_submission(tmp_path):
    def edit(rows):
        for n, row in enumerate(rows[2:-1]):
            row |= {
                "load": 9.0,
                "noisy": "wide" * (n < 3),
                "probe_gflops": [100.0 - 9 * n],
                "backend_ran": "hoisted",
            }

    text = "\n".join(
        check.notes(check.verified(submission(tmp_path / "a.jsonl", edit)))
    )
    for pattern in (
        "3 of 10 rows are noisy",
        "load average up to 9.0 on 2",
        "throttled: .* 91 to 28",
        "compiled code was not used: B ran hoi",
    ):
        assert re.search(pattern, text), pattern


def change(line, **fields):
    """Return an edit of a submission that changes fields of one row. The line 0 is the
    machine, and the line 2 is ours on A.
    """
    return lambda rows: rows[line].update(fields)


OTHER = {"cpu": "chip", "cpus": "64", "gpus": []}


@pytest.mark.parametrize(
    ("edit", "subject"),
    [
        (
            lambda rows: [
                row.update(gemm_gflops_2=100.0) for row in (rows[0]["peaks"], rows[1])
            ],
            "line 3: gflops: ",
        ),
        (change(2, samples=[-10.0, 9.0, 10.0, 11.0, 12.0]), "line 3: samples: -10.0; "),
        (lambda rows: rows[7].update(round=0), "round: "),
        (change(2, ms_per_step=9.0), "line 3: ms_per_step: "),
        (change(2, ms_per_step=float("nan")), "line 3: ms_per_step: "),
        (change(2, tokens_per_second=1.0), "line 3: tokens_per_second: "),
        (change(2, H=64), "line 3: H: "),
        (change(2, workload="C"), "line 3: workload: C"),
        (change(2, candidate="onnx_runtime"), "line 3: candidate: onnx_runtime"),
        (change(2, peer="haiku"), "line 3: peer: haiku"),
        (
            lambda rows: [
                rows.remove(row) for row in rows[1:] if row.get("workload") == "B"
            ],
            "workload: ours on A, inference",
        ),
        (change(2, distance=0.5), "line 3: distance: 0.5"),
        (lambda rows: rows[2].pop("distance"), "line 3: distance: missing"),
        (change(0, speedups={"A": {"torch_lstm": 9.0}}), "speedups: "),
        (change(0, hardware=OTHER), "line 1: machine: "),
        (change(2, machine="0" * 12), "line 3: machine: "),
        (change(0, git=f"{SHA}+"), "line 1: git: "),
        (change(2, load=-1.0), "line 3: load: "),
        (change(2, schema=2), "line 3: schema: 2"),
        (change(2, note="x" * 100_000), "size of "),
    ],
)
def test_a_submission_that_is_refused(edit, subject, tmp_path):
    path = submission(tmp_path / "a.jsonl", edit)
    run = bench_here("check", path)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert subject in line


@pytest.mark.parametrize(
    ("content", "subject"),
    [
        ("", "rows of "),
        ("{}\n", ""),
        ('{"a":' + "[" * 90_000, "submission "),
        ("\x00", "rows "),
    ],
)
def test_a_file_that_is_no_submission(content, subject, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    assert complaint("check", path).startswith(f"bench: {subject}")
    path.write_text(submission(path).read_text()[:-9])  # the last line is torn
    assert complaint("check", path).startswith("bench: rows of ")
    assert complaint("check", tmp_path / "none.jsonl").startswith("bench: submission ")


def test_a_suite(tmp_path, monkeypatch):
    """The file that `submit` writes is accepted, and is not replaced. A checkout with
    changes is refused.
    """

    def sweep(items, seconds, path, *_):
        found = {(item["workload"], item["candidate"], item["round"]) for item in items}
        assert {("A", "ours", 0), ("resets", "jax_scan", 2)} <= found
        about = {"machine": hardware.machine_id()}
        ours = [
            (name, number)
            for name, peer, number in sorted(found)
            if peer == "ours" and number < 2
        ]
        steps = [
            measured(name, "ours", 10.0 + n / 10, number) | about
            for n, (name, number) in enumerate(ours)
        ]
        write_rows(
            path, [made("peak", gemm_gflops_2=9e3) | about | {"git": SHA}, *steps]
        )

    path = tmp_path / "a.jsonl"
    monkeypatch.setattr(throughput, "sweep", sweep)
    monkeypatch.setattr(timing, "require_compiled", lambda: None)
    monkeypatch.setattr(timing, "peaks", lambda: {"gemm_gflops_2": 9000.0})
    monkeypatch.setattr(submit, "perf_counter", iter((0.0, 540.0, 0.0, 0.0)).__next__)
    monkeypatch.setattr(submit, "commit", lambda: SHA)
    text = "\n".join(printed("submit", "--out", path))
    assert "19 rows, 9.0 minutes" in text
    assert len(check.verified(path)) == 20
    before = path.read_bytes()
    assert complaint("submit", "--out", path).startswith(
        f"bench: submission {path}: exists"
    )
    assert path.read_bytes() == before
    monkeypatch.setattr(submit, "commit", lambda: f"{SHA}+")
    assert complaint("submit", "--out", tmp_path / "b.jsonl").startswith(
        f"bench: commit: {SHA}+"
    )


def test_two_machines(tmp_path):
    """A report of a folder compares the newest commits of its machines, and has a page
    for each.
    """
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, slower in (("slow", 2.0), ("fast", 1.0)):
        submission(folder / f"{name}.jsonl", cpu=name, slower=slower)
    trained = made(
        "grid",
        cores=1,
        task="sentiment",
        peer="ours",
        epochs=1,
        epoch=1,
        test_accuracy=0.8,
        examples_per_second=1.0,
    )
    accuracy = write_rows(tmp_path / "accuracy.jsonl", [trained])
    lines = printed(
        "report",
        "--results",
        folder,
        "--accuracy",
        accuracy,
        "--out",
        tmp_path / "page",
    )
    assert [line.split(", 400 GFLOP/s")[0].split(": ")[1] for line in lines[:2]] == [
        f"Commit {SHA}"
    ] * 2
    pages = [
        (tmp_path / "page" / name).read_text()
        for name in ("index.html", "machine_1.html")
    ]
    assert all(
        '"fast, 2 cores (' in page and '"slow, 2 cores (' in page for page in pages
    )
    text = (tmp_path / "page" / "summary.md").read_text()
    board, history = text.split("## Leaderboard")[1], text.split("## History")[1]
    ranked = re.findall(
        r"\| A \| (this project|PyTorch)[^|]* \| [\d.]+ \| [^|]*\| (\d+) % \| (\w+), ",
        board,
    )
    assert ranked == [
        ("this project", "50", "fast"),
        ("PyTorch", "34", "fast"),
        ("this project", "25", "slow"),
        ("PyTorch", "17", "slow"),
    ]
    assert re.findall(
        rf"\| (\w+), [^|]*\|  \| {SHA} \| ([\d.]+) \| ([\d.]+) \| 400 \|", history
    ) == [
        ("slow", "20.0", "24.0"),
        ("fast", "10.0", "12.0"),
    ]


def test_a_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "peaks", lambda: {"gemm_gflops_2": 400.0})
    path = tmp_path / "machine.json"
    assert printed("machine", "--out", path)[-1] == str(path)
    row = json.loads(path.read_text())
    assert (
        row["machine"]
        == hardware.machine_id(row["hardware"])
        == hardware.machine_id(dict(reversed(row["hardware"].items())))
    )
    assert row["machine"] != hardware.machine_id(row["hardware"] | {"memory_gib": 1})
    assert (row["peaks"], row["hardware"]["memory_gib"] > 0) == (
        {"gemm_gflops_2": 400.0},
        True,
    )
