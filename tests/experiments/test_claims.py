"""The table of claims: effects, intervals and verdicts by hand, the runs that a claim needs, and the page that shows the table."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from experiments import claims, study
from experiments.claim_list import CLAIMS, Claim
from lstm_jax import sweep
from lstm_jax.errors import InputError
from lstm_jax.sweep import stats

RNG = np.random.default_rng(0)


def test_t_interval() -> None:
    values = RNG.normal(3, 2, 7)
    mean, low, high = stats.t_interval(values)
    want = scipy_stats.ttest_1samp(values, 0).confidence_interval()
    np.testing.assert_allclose((mean, low, high), (values.mean(), want.low, want.high), rtol=1e-12)
    assert stats.t_interval([2.0]) == (2.0, -math.inf, math.inf)
    assert stats.t_interval([2.0, 2.0]) == (2.0, 2.0, 2.0)


def test_the_interval_contains_the_mean_in_19_of_20_samples() -> None:
    found = [low <= 1 <= high for _, low, high in (stats.t_interval(RNG.normal(1, 1, 3)) for _ in range(1000))]
    assert 0.93 < np.mean(found) < 0.97


@pytest.mark.parametrize(
    ("margin", "low", "high", "want"),
    [
        (None, 0.1, 2, "certain"),
        (None, -0.1, 2, "open"),
        (None, -2, -0.1, "contradicted"),
        (1, -0.9, 0.9, "certain"),
        (1, -1.1, 0.9, "open"),
        (1, 1.1, 2, "contradicted"),
        (1, -2, -1.1, "contradicted"),
        (1, -math.inf, math.inf, "open"),
    ],
)
def test_verdict(margin: float | None, low: float, high: float, want: str) -> None:
    assert claims.verdict(Claim("gates", "", "bits", {}, margin=margin), low, high) == want


def test_effects_are_paired_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(cell: str, seed: int, bits: float) -> dict:
        config = {"model": {"cell": cell}, "train": {"seed": seed}}
        return {"id": f"{cell}{seed}", "status": sweep.DONE, "config": config, "result": {"bits": bits, "accuracy": bits / 100}}

    rows = [row("lstm", 1, 5.0), row("gru", 0, 2.0), row("gru", 1, 4.5), row("lstm", 0, 3.0), row("gru", 2, 9.0)]
    rows.append(row("lstm", 3, 1.0) | {"status": "failed"})
    (tmp_path / "gates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    claim = Claim("gates", "GRU", "bits", {"model.cell": "lstm"}, {"model.cell": "gru"}, 1, unit="bits")
    assert claims.effects(claim, study.finished(rows)) == [1.0, 0.5]
    points = Claim("gates", "GRU", lambda row: row["accuracy"], {"model.cell": "gru"})
    np.testing.assert_allclose(claims.effects(points, study.finished(rows)), [2.0, 4.5, 9.0])
    monkeypatch.setattr(claims, "CLAIMS", [claim])
    assert claims.table(tmp_path).splitlines()[2] == "| gates | GRU (bits) | +1, one seed | open | +0.75 (-2.43 to 3.93), 2 seeds | open |"
    monkeypatch.setattr(claims, "CLAIMS", [Claim("gates", "GRU", "bits", {"model.cell": "lstm_peephole"})])
    assert claims.table(tmp_path).splitlines()[2] == "| gates | GRU (points) | not run yet |  |  |  |"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.study}: {claim.text[:40]}")
def test_a_claim_needs_one_run_for_each_setting_and_seed(claim: Claim) -> None:
    found = [sweep.flatten(asdict(config)) for config in claims.configs(claim, 5)]
    settings = [setting for setting in (claim.more, claim.less) if setting]
    for setting in settings:
        selected = [fields for fields in found if all(fields[name] == value for name, value in setting.items())]
        assert sorted(fields[claims._seed_field(fields)] for fields in selected) == [0, 1, 2, 3, 4]
    assert len(found) == 5 * len(settings)


def test_the_page_has_the_table_of_the_rows() -> None:
    text = claims.PAGE.read_text()
    assert claims.with_table(text, study.RESULTS) == text, "run python -m experiments.claims --write"
    with pytest.raises(InputError, match="no lines for the table"):
        claims.with_table("no marks", study.RESULTS)


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert claims.main(["--seeds", "-1"]) == 2
    assert capsys.readouterr().err == "claims: --seeds: -1; give 0 or more\n"
