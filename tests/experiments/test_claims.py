"""Tests of the claims of the studies: their intervals and verdicts, the runs that a
claim needs, and the page with the table.
"""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from experiments import claim_list, claims, forecast, gates, study
from experiments.claim_list import CLAIMS, Claim
from lstm_jax.lab import sweep
from lstm_jax.lab.sweep import stats


def claimed(low, high):
    return Claim("gates", "bits", "bits", 3, "", ({},), low=low, high=high)


@pytest.mark.parametrize(
    ("low", "high", "interval", "want"),
    [
        (0, math.inf, (0.1, 2), "shown"),
        (0, math.inf, (-0.1, 2), "open"),
        (0, math.inf, (-2, -0.1), "refuted"),
        (-1, 1, (-0.9, 0.9), "shown"),
        (-1, 1, (-1.1, 0.9), "open"),
        (-1, 1, (1.1, 2), "refuted"),
        (0, math.inf, (math.nan, math.nan), "open"),
    ],
)
def test_verdict(low, high, interval, want):
    assert claims.verdict(claimed(low, high), *interval) == want


def test_the_p_value_agrees_with_the_interval():
    """The one-sided p-value of a claim is 0.025 if an end of the 95 % confidence
    interval coincides with an end of the claimed range.
    """
    values = np.random.default_rng(1).normal(1, 1, 5)
    _, low, high = stats.t_interval(values)
    for ends in ((low, math.inf), (-math.inf, high), (low, high + 9), (low - 9, high)):
        assert claims.p_value(claimed(*ends), values.tolist()) == pytest.approx(0.025)
    assert claims.p_value(claimed(low - 1, high + 9), values.tolist()) < 0.01
    assert math.isnan(claims.p_value(claimed(0, 1), [1.0]))


def write_rows(run, rows, path):
    """Write the rows of pairs (config, result) of a study to a file."""
    made = [
        {
            "id": sweep.run_id(run, config),
            "status": sweep.DONE,
            "config": asdict(config),
            "result": result,
        }
        for config, result in rows
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))


def cells(results):
    """Return the cells of the first claim in the table, without its study and text."""
    return [
        cell.strip() for cell in claims.table(results).splitlines()[2].split("|")[3:-1]
    ]


def the_claim(text):
    (found,) = (claim for claim in CLAIMS if text in claim.text)
    return found


def test_the_table_pairs_by_seed(tmp_path, monkeypatch):
    claim, path = the_claim("Characters, 3 epochs: the GRU"), tmp_path / "gates.jsonl"
    monkeypatch.setattr(claims, "CLAIMS", [claim])
    # the first three seeds give 0.5, 1.0 and none; new seeds give 1, 2, 3, 4, 5; a row
    # of another config counts for nothing
    bits = {
        "lstm": [3.0, 4.0, 9.0, 3, 4, 5, 6, 7],
        "gru": [2.5, 3.0, None, 2, 2, 2, 2, 2],
    }
    runs = [
        (gates.variant(gates.GENERATION, cell, seed), value)
        for cell, own in bits.items()
        for seed, value in enumerate(own)
    ]
    rows = [(config, {"bits": value}) for config, value in runs if value is not None][
        ::-1
    ]
    rows.append(
        (
            replace(rows[0][0], train=replace(rows[0][0].train, seed=2, epochs=7)),
            {"bits": 1000.0},
        )
    )
    write_rows(gates.STUDY.run, rows, path)
    p = scipy_stats.ttest_1samp([1, 2, 3, 4, 5], 0, alternative="greater")[1]
    assert cells(tmp_path) == [
        "+0.75 (-2.43 to 3.93), 2 seeds",
        "open",
        "+3 (1.04 to 4.96), 5 seeds",
        "shown",
        f"{p:.2g}",
    ]
    # one that has not been tested counts, too
    monkeypatch.setattr(
        claims, "CLAIMS", [claim, the_claim("Characters, 30 epochs: the GRU")]
    )
    assert cells(tmp_path)[-1] == f"{2 * p:.2g}"
    monkeypatch.setattr(claims, "CLAIMS", [claim])
    write_rows(gates.STUDY.run, [row for row in rows if row[0].train.seed != 7], path)
    # no verdict before all seeds have run: nobody can stop at a good moment
    assert cells(tmp_path)[2:] == ["4 of 5 run", "", ""]
    path.unlink()
    assert cells(tmp_path) == [""] * 5


def test_a_method_without_a_seed_is_compared_with_each_seed(tmp_path, monkeypatch):
    claim = the_claim("Sunspots")
    monkeypatch.setattr(claims, "CLAIMS", [claim])
    configs = claims.configs(claim, new=False)
    assert [(config.method, config.task.train.seed) for config in configs] == [
        *(("lstm", n) for n in range(3)),
        ("seasonal naive", 0),
    ]
    results = [{"mae": value} for value in (4.0, 5.0, 6.0, 1.0)]
    write_rows(
        forecast.STUDY.run,
        zip(configs, results, strict=True),
        tmp_path / "forecast.jsonl",
    )
    assert cells(tmp_path) == ["+4 (1.52 to 6.48), 3 seeds", "shown", "", "", ""]


def test_metrics():
    memory = {
        "gradient_before": [[1, 2.0], [100, 0.2], [200, 1e-9]],
        "gradient_after": [[1, 10.0], [100, 0.0]],
    }
    assert claim_list._fading("gradient_before")(memory) == pytest.approx(1)
    assert claim_list._lost(memory) == pytest.approx(20)
    names = {
        "praise": (1, 2),
        "family": (2, 3),
        "praise/blame": (1, 6),
        "family/praise": (4, 5),
    }
    row = {
        "before": [[name, a] for name, (a, _) in names.items()],
        "after": [[name, b] for name, (_, b) in names.items()],
    }
    assert claim_list._growth(row) == {
        "praise": 2,
        "family": 1.5,
        "praise/blame": 6,
        "family/praise": 1.25,
    }
    assert claim_list._apart(row) == 3
    assert claim_list._gathered(row) == pytest.approx(2 / 4 - 3 / 5)
    assert claim_list._below_most_frequent(
        {"most_frequent": 0.2, "accuracy": 0.05}
    ) == pytest.approx(0.15)


@pytest.mark.parametrize(
    "claim", CLAIMS, ids=lambda claim: f"{claim.study}: {claim.text[:40]}"
)
def test_a_claim_needs_one_run_for_each_setting_and_seed(claim):
    for new, seeds in (
        (False, range(claim.first)),
        (True, range(claim.first, claim.first + claims.NEW)),
    ):
        found = [sweep.flatten(asdict(config)) for config in claims.configs(claim, new)]
        for setting in claim.of + claim.minus:
            selected = [
                fields[claims._seed_field(fields)]
                for fields in found
                if setting.items() <= fields.items()
            ]
            assert sorted(selected) == (
                [0] if claims._is_seedless(setting) else list(seeds)
            )
        assert len({str(fields) for fields in found}) == len(found)


def test_runs_that_fail_are_told_and_repeated(tmp_path, monkeypatch, capsys):
    seen = []

    def runs(function, configs, path, where, workers, retry, per_job):
        seen.append((path, len(configs), retry))
        return [
            {"status": sweep.FAILED if n == 1 else sweep.DONE}
            for n in range(len(configs))
        ]

    monkeypatch.setattr(sweep, "run", runs)
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    monkeypatch.setattr(forecast, "STUDY", replace(forecast.STUDY, needs=""))
    # the table lists them all
    monkeypatch.setattr(
        claims,
        "CLAIMS",
        [claim for claim in claims.CLAIMS if claim.study == "forecast"],
    )
    assert claims.main(["--new", "--study", "forecast"]) == 1
    assert seen == [(tmp_path / "forecast.jsonl", 22, True)]
    assert (
        capsys.readouterr().err
        == f"claims: 1 runs failed, see the result files in {tmp_path}\n"
    )
    monkeypatch.setattr(
        sweep, "run", lambda *args, **rest: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    assert claims.main(["--new", "--study", "forecast"]) == 130
