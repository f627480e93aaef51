"""How often `duel` is wrong: the experiment's order, and what its report makes of rows. Nothing is timed."""

import numpy as np
from rows import ROOT  # noqa: F401

from bench import false_alarms, peer


def test_sides() -> None:
    assert list(false_alarms.sides_of(9)) == ["old", "new", "slower"]
    assert list(false_alarms.sides_of(10)) == ["old", "new"]
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
    speeds = np.linspace(1, 2, 8)  # a machine that gets slower
    factors = {(0, "old"): 1.0, (0, "new"): 1.0, (0, "slower"): 1.1, (1, "old"): 1.0, (1, "new"): 0.9}
    rows = [
        {"comparison": number, "side": side, "round": place, "samples": [factor * speed * (1 + 0.001 * place * (side == "new"))] * 3}
        for (number, side), factor in factors.items()
        for place, speed in enumerate(speeds)
    ]
    found = false_alarms.verdicts(rows)
    assert [one.verdict for one in found["new"]] == ["same", "faster"]
    assert [one.verdict for one in found["slower"]] == ["slower"]
    false_alarms.report(rows)
    assert "the same called different in 1 of 2 comparisons\n10 % slower found in 1 of 1\n" in capsys.readouterr().out
