"""Metrics against values worked out by hand and against slow, direct implementations of
their definitions.
"""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lstm_jax.base.errors import InputError
from lstm_jax.lab.sentiment.metrics import binary_metrics, reliability

LOGITS = np.log(np.array([9.0, 1 / 4, 3.0, 1 / 9]))  # p = 0.9, 0.2, 0.75, 0.1
LABELS = np.array([1, 0, 0, 1])


def test_values_by_hand():
    found = binary_metrics(LOGITS, LABELS)
    assert found.loss == pytest.approx(
        -(math.log(0.9) + math.log(0.8) + math.log(0.25) + math.log(0.1)) / 4, rel=1e-14
    )
    assert found.accuracy == 0.5
    assert found.confusion == ((1, 1), (1, 1))
    assert found.auc == 0.5  # 0.9 beats both negatives, 0.1 neither
    assert found.brier == pytest.approx((0.01 + 0.04 + 0.5625 + 0.81) / 4, rel=1e-14)
    # each alone in its bin
    assert found.ece == pytest.approx((0.1 + 0.2 + 0.75 + 0.9) / 4, rel=1e-14)
    assert found.count == 4


def test_confusion_has_a_row_a_label_and_a_column_a_prediction():
    labels = np.array([0] * 7 + [1] * 8)
    # p = 0.5 is negative, as in Keras
    logits = np.array(
        [-1.0] * 3 + [0.0] + [1.0] * 2 + [1e-300] + [-1.0] * 2 + [1.0] * 6
    )
    found = binary_metrics(logits, labels)
    assert found.confusion == ((4, 3), (2, 6))
    assert found.accuracy == 10 / 15


def test_huge_logits_neither_overflow_nor_saturate():
    found = binary_metrics(np.array([1e4, -1e4, 800.0]), np.array([0, 1, 1]))
    assert found.loss == pytest.approx(2e4 / 3, rel=1e-12)
    assert binary_metrics(np.array([40.0]), np.array([1])).loss == pytest.approx(
        math.exp(-40), rel=1e-12
    )
    assert found.brier == pytest.approx(2 / 3)


def test_columns_and_other_types_are_taken():
    flat = binary_metrics(LOGITS, LABELS)
    assert binary_metrics(LOGITS[:, None], LABELS[:, None].astype(bool)) == flat
    assert binary_metrics(
        LOGITS.astype(np.float32), LABELS.astype(np.float32)
    ).loss == pytest.approx(flat.loss, rel=1e-6)


def test_a_row_is_flat_json():
    row = binary_metrics(LOGITS, LABELS).to_row("test_")
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert set(row) == {
        "test_" + name
        for name in (
            "loss",
            "accuracy",
            "auc",
            "ece",
            "brier",
            "count",
            "tn",
            "fp",
            "fn",
            "tp",
        )
    }
    assert row["test_fp"] == 1


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([1.0, 2.0], [1], "2 of them for 1 labels"),
        ([], [], "0 of them for 0 labels"),
        ([1.0], [2], "labels.*2.* at review 0; give 0 or 1"),
        ([1.0, 1.0], [0.0, 0.5], r"0\.5.* at review 1"),
        ([1.0, math.nan], [0, 1], "nan.* at review 1; the model has diverged"),
        ([1.0, math.inf], [0, 1], "inf.* at review 1"),
        ([[1.0, 2.0]], [0, 1], r"shape \(1, 2\)"),
    ],
)
def test_bad_input_is_refused(logits, labels, message):
    for function in (binary_metrics, reliability):
        with pytest.raises(InputError, match=message):
            function(np.array(logits), np.array(labels))


def test_reliability_by_hand():
    p = np.array([0.0, 0.25, 0.26, 0.5, 0.9, 1.0])
    found = reliability(p, np.array([0, 1, 0, 1, 1, 0]), bins=4)
    np.testing.assert_array_equal(found.edges, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(found.count, [2, 2, 0, 2])
    np.testing.assert_allclose(found.confidence, [0.125, 0.38, np.nan, 0.95])
    np.testing.assert_allclose(found.frequency, [0.5, 0.5, np.nan, 0.5])
    assert found.ece == pytest.approx((2 * 0.375 + 2 * 0.12 + 2 * 0.45) / 6)


def test_reliability_refuses_logits_and_no_bins():
    with pytest.raises(InputError, match="no logits"):
        reliability(np.array([1.5]), np.array([1]))
    with pytest.raises(InputError, match="bins"):
        reliability(np.array([0.5]), np.array([1]), bins=0)


few_scores = st.lists(
    st.tuples(st.integers(-3, 3), st.integers(0, 1)), min_size=2, max_size=40
)


@given(few_scores)
def test_auc_is_the_share_of_pairs_in_order(pairs):
    scores, labels = np.array(pairs, np.float64).T
    wins = [
        (p > n) + 0.5 * (p == n)
        for p in scores[labels == 1]
        for n in scores[labels == 0]
    ]
    auc = binary_metrics(scores, labels).auc
    if not wins:  # one class has no AUC
        assert math.isnan(auc)
        assert binary_metrics(scores, labels).to_row()["auc"] is None
        return
    assert auc == pytest.approx(sum(wins) / len(wins), abs=1e-12)
