"""Summaries of the rows of a sweep and their figures: means, intervals within bounds,
and what is refused.
"""

import io
import math
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats as scipy_stats

from lstm_jax.base.errors import InputError
from lstm_jax.lab import sweep
from lstm_jax.lab.inspection.figures import COLOURS
from lstm_jax.lab.sweep import stats

VALUES = {
    ("lstm", 50): [0.1, 0.3, 0.2],
    ("lstm", 100): [0.9, 0.95, 1.0],
    ("gru", 50): [0.5],
    ("gru", 100): [0.4, math.inf],
}
BOUNDS = {"score": (0, 1), "doubled": (0, math.inf)}


def row(cell, length, seed, score, **more):
    config = {"model": {"cell": cell}, "length": length, "seed": seed, **more}
    return {
        "config": config,
        "status": "done",
        "result": {"score": score, "doubled": 2 * score, "name": "a", "curve": [1, 2]},
    }


def made(values=VALUES):
    rows = [
        row(*key, seed, score)
        for key, scores in values.items()
        for seed, score in enumerate(scores)
    ]
    return [
        *rows,
        {"config": rows[0]["config"] | {"seed": 9}, "status": "failed", "error": "no"},
    ]


def test_summary():
    summary = sweep.summarise(made(), by=("model.cell", "length"))
    assert [tuple(line.values())[:3] for line in summary] == [
        (*key, metric) for key in VALUES for metric in ("score", "doubled")
    ]
    assert [line["n"] for line in summary] == [3, 3, 3, 3, 1, 1, 2, 2]
    for line, values in zip(summary[::2], VALUES.values(), strict=True):
        assert line["mean"] == pytest.approx(np.mean(values))
    want = scipy_stats.t.interval(0.95, 2, 0.2, scipy_stats.sem([0.1, 0.3, 0.2]))
    assert [summary[0]["low"], summary[0]["high"]] == pytest.approx(want)
    assert all(math.isnan(line[end]) for line in summary[4:] for end in ("low", "high"))


def test_intervals_end_at_the_bounds():
    few = {key: values for key, values in VALUES.items() if key != ("gru", 100)}
    for line in sweep.summarise(made(few), by=("model.cell", "length"), bounds=BOUNDS)[
        :4
    ]:
        own = np.array(few[line["model.cell"], line["length"]]) * (
            2 if line["metric"] == "doubled" else 1
        )
        _, low, high = stats.t_interval(own)
        assert (line["low"], line["high"]) == (
            max(low, 0),
            min(high, BOUNDS[line["metric"]][1]),
        )
    bootstrap = sweep.summarise(
        made(few), "length", ["seed", "cell"], interval=stats.mean_interval
    )
    assert tuple(bootstrap[0].values()) == (
        50,
        "score",
        *stats.mean_interval([0.1, 0.3, 0.2, 0.5]),
        4,
    )


def test_figure():
    summary = sweep.summarise(
        made(), by=("model.cell", "length"), bounds={"doubled": (0, math.inf)}
    )
    figure = sweep.plot(summary, x="length", hue="model.cell")
    panels = figure.axes
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in panels] == [
        ("length", "score"),
        ("length", "doubled"),
    ]
    legend = panels[0].get_legend()
    assert legend.get_title().get_text() == "model.cell"
    assert [text.get_text() for text in legend.get_texts()] == ["lstm", "gru"]
    lines = [bars.lines[0] for bars in panels[0].containers]
    assert [line.get_ydata().tolist() for line in lines] == [
        pytest.approx([0.2, 0.95]),
        [0.5, math.inf],
    ]
    assert np.abs(np.array([line.get_xdata() for line in lines]) - [50, 100]).max() < 1
    figure.savefig(content := io.BytesIO(), format="png")
    assert figure._repr_png_() == content.getvalue()
    (axes,) = sweep.plot(
        [line for line in summary if line["length"] == 50],
        x="model.cell",
        metrics=["doubled"],
    ).axes
    assert axes.get_ylabel() == "doubled"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["lstm", "gru"]
    assert axes.get_legend() is None


def test_figure_in_given_axes():
    rows = sweep.summarise(
        made(),
        ("model.cell", "length"),
        interval=lambda values: (float(np.mean(values)), math.nan, math.nan),
    )
    panel: Any = Figure().subplots()
    scores = [line for line in rows if line["metric"] == "score"]
    assert (
        sweep.plot(
            scores,
            "length",
            "model.cell",
            [panel],
            {"gru": {"color": "red", "marker": "s"}},
        )
        is panel.figure
    )
    lines = [bars.lines for bars in panel.containers]
    assert [(line.get_color(), line.get_marker()) for line, *_ in lines] == [
        (COLOURS[0], "o"),
        ("red", "s"),
    ]
    # without intervals, no line is moved
    assert [line.get_xdata().tolist() for line, *_ in lines] == [[50, 100]] * 2
    assert [parts[1:] for parts in lines] == [((), ())] * 2
    assert panel.get_legend() is None


def test_what_is_refused():
    summary = sweep.summarise(made(), by=("model.cell", "length"))
    for call, subject in (
        (
            lambda: sweep.summarise(made(), "cell"),
            "by: cell; give fields of the config: model.cell, length, seed$",
        ),
        (
            lambda: sweep.summarise(made(), "length"),
            "by: .*; the mean would be over model.cell, too",
        ),
        (
            lambda: sweep.summarise(
                [*made(), row("gru", 50, 3, 0.1, units=4)], ("model.cell", "length")
            ),
            "by: .*; .* over units, too",
        ),
        (lambda: sweep.summarise([{"config": {"n": 1}}], "n"), r"by: \('n',\)"),
        (
            lambda: sweep.summarise(
                made(), ("model.cell", "length"), bounds={"doubled": (0, 1)}
            ),
            r"result doubled: \[1\.8, 1\.9, 2\.0\]",
        ),
        (lambda: sweep.plot([], "length"), "summary: no rows"),
        (lambda: sweep.plot(summary, "units"), "field: units"),
        (lambda: sweep.plot(summary, "length", "units"), "field: units"),
        (lambda: sweep.plot(summary, "length", metrics=["loss"]), "summary: no rows"),
        (lambda: sweep.plot(summary, "length"), "summary: several rows for "),
        (
            lambda: sweep.plot(summary, "length", "model.cell", [None]),
            "axes: 1; give one for each of score, doubled",
        ),
    ):
        with pytest.raises(InputError, match=f"^{subject}"):
            call()
