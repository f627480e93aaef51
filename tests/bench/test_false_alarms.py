"""How often `compare` is wrong: the experiment's order, and what its report makes of rows. Nothing is timed."""

from rows import ROOT  # noqa: F401

from bench import false_alarms, peer


def test_the_sides_run_in_turn() -> None:
    runs = false_alarms.wanted(2, 1, 2)
    assert runs[:6] == [(0, number, side) for number in range(2) for side in ("old", "new", "slower")]
    assert runs[6:] == [(1, number, side) for number in range(2) for side in ("old", "new")]
    assert false_alarms.SIDES["slower"].arguments() == ["ours", "--slower", "0.1"]


def test_a_slower_call_waits_for_its_share(monkeypatch) -> None:
    """By a clock of ours, on which a call takes a second a step and a look at it a hundredth."""
    now = [0.0]

    def look() -> float:
        now[0] += 0.01
        return now[0]

    def run(count: int) -> None:
        now[0] += count

    monkeypatch.setattr(peer.time, "perf_counter", look)
    for count in (1, 3, 40):
        began = now[0]
        peer.slowed(run, 0.1)(count)
        assert abs(now[0] - began - 1.1 * count) < 0.05
    assert peer.slowed(run, 0.0) is run


def test_verdicts_by_hand(capsys) -> None:
    """Of two comparisons the first sees a slower side, the second a difference where there is none."""
    times = {
        (0, "old"): [1.0, 1.01, 0.99, 1.3, 1.02, 1.0, 1.2],
        (0, "new"): [1.01, 1.0, 0.98, 1.32, 1.0, 1.01, 1.19],
        (0, "slower"): [1.1, 1.12, 1.11, 1.41, 1.1, 1.08, 1.33],  # in rounds that were themselves slow too
        (1, "old"): [1.0, 1.01, 0.99, 1.0, 1.02, 1.0, 1.01],
        (1, "new"): [0.9, 0.91, 0.89, 0.9, 0.92, 0.91, 0.9],
    }
    rows = [
        {"comparison": number, "side": side, "round": place, "ms_per_step": ms}
        for (number, side), many in times.items()
        for place, ms in enumerate(many)
    ]
    found = false_alarms.verdicts(rows)
    assert [one.verdict for one in found["new"]] == ["same", "faster"]
    assert [one.verdict for one in found["slower"]] == ["slower"]
    false_alarms.report(rows)
    assert "the same called different in 1 of 2 comparisons\n10 % slower found in 1 of 1\n" in capsys.readouterr().out
