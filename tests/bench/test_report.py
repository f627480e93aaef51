"""Tests of the benchmark report: the data on the page, the summary, the figures, and
the page in a browser.
"""

import json
import re
from itertools import product

import pytest
from browser import needs_browser, open_page
from rows import complaint, failed, made, printed, timed, write_rows

from bench.peers import read_candidate
from bench.report.tables import throughput_tables
from bench.summary import summarize, workloads_in

NASTY = "<!--<script> no </script> memory"
"""Text that would empty the page if it were not escaped: after "<!--<script", a single
"</script>" does not end the script."""


def _rows():
    peak = made("peak", gemm_gflops_2=400.0, copy_gbs_2=50.0)
    names = (
        "A",
        "recurrence:H=32,T=20,B=32",
        "recurrence:H=32,T=80,B=32",
        "recurrence:H=64,T=80,B=32",
    )
    factors = {"ours": 4.0, "torch_lstm": 8.0, "flax_nnx": 2.0}
    steps = [
        timed(name, peer, ms * (1 + n / 100), n)
        for peer, ms in factors.items()
        for n in range(3)
        for name in names
    ]
    return [peak, *steps, failed("A", "haiku", NASTY)]


def _trained():
    """Return made-up accuracy rows of sentiment and generation models, each with two
    seeds.

    The sentiment model with T = 20 and H = 64 is less accurate than a faster one. One
    generation model was also trained for two epochs, with one seed. The report must not
    mix these rows with the rows of one epoch.
    """
    about = {"git": "def", "cores": 1, "peer": "ours", "epochs": 1, "epoch": 1}

    def row(task, seconds, speed, **fields):
        rates = {"seconds": seconds, "examples_per_second": speed}
        return made("grid", task=task, **about | rates | fields)

    rows = []
    for seed in range(2):
        for T, H in product((20, 80), (32, 64)):
            score = 0.80 + T / 2000 + H / 32000 + seed / 1000
            score -= 0.02 * ((T, H) == (20, 64))
            fields = {"T": T, "H": H, "seed": seed, "test_accuracy": score}
            rows.append(row("sentiment", T * H / 100, 1e6 / T / H, **fields))
        for S in (3, 5):
            fields = {"T": 20, "S": S, "H": 32, "seed": seed}
            fields["validation_bits"] = 2.0 + S / 10
            rows.append(row("generation", 30 / S, 1000.0 * S, **fields))
    for epoch in (1, 2):
        fields = {"T": 20, "S": 3, "H": 32, "seed": 0, "epochs": 2, "epoch": epoch}
        fields["validation_bits"] = 2.1 - epoch / 10
        rows.append(row("generation", 10, 9000.0, **fields))
    return rows


def _report(folder, rows, *flags):
    """Write the report of throughput rows to a folder, and return the page's data."""
    paths = [
        write_rows(folder / name, found)
        for name, found in (("rows.jsonl", rows), ("accuracy.jsonl", _trained()))
    ]
    out = folder / "page"
    command = ["report", "--results", paths[0], "--accuracy", paths[1], "--out", out]
    printed(*command, *flags)
    text = (out / "index.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)  # opens offline
    pattern = r'<script id="data" type="application/json">(.*?)</script>'
    (found,) = re.findall(pattern, text, re.DOTALL)
    assert "<" not in found
    return json.loads(found)


@pytest.fixture(scope="module")
def made_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    data = _report(folder, _rows())
    return folder / "page", data


@pytest.fixture
def page(made_page):
    return made_page[0]


def test_data_of_the_page(made_page):
    _, data = made_page
    assert (data["gemm"], data["copy"]) == (400.0, 50.0)
    assert len(data["rows"]) == 3 * 3 * 4 + 1
    line = next(
        line
        for line in data["lines"]
        if (line["name"], line["candidate"]) == ("A", "torch_lstm")
    )
    assert line["ms"] == pytest.approx(8.08)
    assert line["speedup"][0] == pytest.approx(2.0)
    assert line["speedup"][1] <= 2.0 <= line["speedup"][2]
    trained = {
        (line["title"], line["T"], line["S"], line["H"]): line
        for line in data["accuracy"]
    }
    assert len(trained) == 4 + 2 + 1
    assert [
        trained[f"generation, {epochs}", 20, 3, 32]["score"]
        for epochs in ("1 epoch", "2 epochs")
    ] == pytest.approx([2.3, 1.9])
    best = trained["sentiment, 1 epoch", 80, None, 64]
    assert (best["score"], best["low"], best["high"]) == pytest.approx(
        (0.8425, 0.842, 0.843)
    )
    assert best["seconds_to_target"] == pytest.approx(51.2)
    assert trained["sentiment, 1 epoch", 20, None, 32]["seconds_to_target"] is None
    assert {key for key, line in trained.items() if not line["front"]} == {
        ("sentiment, 1 epoch", 20, None, 64)
    }
    assert list(data["tables"]) == [
        "Leaderboard",
        "Time to quality",
        "History of A and B",
    ]
    assert data["links"] == {"chip, 2 cores": "index.html"}
    assert data["verdicts"][0].startswith(
        "A: faster than 1 of 2 peers beyond noise, slower than 1, undecided "
        "0; nearest flax_nnx, 0.50x ("
    )
    assert data["verdicts"][2].endswith(
        "over flax_nnx, 3 sizes of recurrence of lstm: 0.50x (0.50 to 0.50), "
        "0.50x to 0.50x, we are slower at 3 sizes"
    )
    column = data["columns"].index("error")
    assert NASTY in [row[column] for row in data["rows"]]


def test_the_page_shows_the_rows_of_the_table(tmp_path):
    """Of each process the last quiet row counts, on the page and in the table; a noisy
    one is marked. Other workloads are left out.
    """
    rows = [
        timed(name, peer, ms, n)
        for name in "AB"
        for peer, ms in (("ours", 4.0), ("haiku", 9.0))
        for n in range(2)
    ]
    rows += [
        timed("A", "haiku", 7.0, 1, noisy="wide"),
        timed("A", "ours", 6.0, 2, noisy="wide"),
        timed("A", "ours", 5.0, 2),
    ]
    rows += [
        timed("A", "equinox", 8.0, noisy="wide"),
        timed("A", "ours", 1.0, git="other"),
    ]
    data = _report(tmp_path, rows, "--commit", "abc", "--workload", "A")
    table = re.findall(
        r"^\| ([a-zA-Z]+).*? \| (\d\.\d\d)(†?)",
        (tmp_path / "page" / "summary.md").read_text().split("##")[0],
        re.MULTILINE,
    )
    assert table == [
        ("this", "4.00", ""),
        ("Haiku", "9.00", ""),
        ("Equinox", "8.00", "†"),
    ]
    assert [f"{line['ms']:#.3g}" for line in data["lines"]] == [
        ms for _, ms, _ in table
    ]
    of_rows = sorted((row[1], row[3]) for row in data["rows"])
    assert of_rows == [
        ("equinox", 8.0),
        ("haiku", 9.0),
        ("haiku", 9.0),
        ("ours", 4.0),
        ("ours", 4.0),
        ("ours", 5.0),
    ]
    assert data["about"].endswith("; 1 of 6 rows is noisy (†).")


def test_summary_and_figure(page):
    text = (page / "summary.md").read_text()
    slower = r"0.50x \(0.50 to 0.50\), 0.50x to 0.50x, we are slower at 3 sizes"
    for pattern in (
        r"\| this project \| 4.04 \|",
        r"\| PyTorch , nn.LSTM, fused Adam \| 8.08: 2.00x \(1.9\d to 2.0\d\) \|",
        r"\|  \| the recurrence alone, 3 sizes \|",
        rf"\| Flax , nnx.RNN \| {slower} \|",
        r"\| 64 \| 0.7925 \(0.78\) \| 0.8425\* \(0.2\) \|",
        "Generation, windows every 3: held-out bits a character, 1 epoch, "
        "mean of 2 seeds;",
        r"2 epochs, mean of 1 seed;.*\n\n.*\n.*\n\| 32 \| 1.9000\* \(9\) \|",
    ):
        assert re.search(pattern, text), pattern
    assert all((page / f"speed.{ending}").exists() for ending in ("png", "svg"))


def test_tables_keep_cells_and_workloads_apart():
    ms = {
        "forward:H={},T=20,B=1,cell=gru": 3.0,
        "resets:H={},R=1": 5.0,
        "recurrence:H={},T=20,B=1": 2.0,
    }
    pairs = [(name.format(H), slower) for name, slower in ms.items() for H in (32, 64)]
    rows = [
        timed(name, peer, factor)
        for name, slower in pairs
        for peer, factor in (("ours", 1.0), ("haiku", slower))
    ]
    text = throughput_tables(
        summarize(
            workloads_in(rows), list(map(read_candidate, ("ours", "haiku"))), rows
        ),
        rows,
        "abc",
    )
    heads, _, cells = text.splitlines()[-3:]
    assert heads == (
        "|  | the recurrence alone, 2 sizes | its forward pass, gru, 2 sizes "
        "| the recurrence with resets, 2 sizes |"
    )
    assert re.findall(r"([\d.]+)x \(", cells) == ["2.00", "3.00", "5.00"]


def test_bad_input(tmp_path):
    assert complaint("report", "--results", tmp_path / "none.jsonl").startswith(
        f"bench: rows: {tmp_path}/none.jsonl; "
    )


@needs_browser
def test_in_a_browser(page, tmp_path):
    """In a browser, the console has no error, the selectors change the figures, and the
    table can be sorted, filtered and downloaded.
    """
    with open_page(page / "index.html", tmp_path) as browser:
        from selenium.webdriver.support.select import Select
        from selenium.webdriver.support.wait import WebDriverWait

        def text(selector):
            return browser.execute_script(
                "return document.querySelector(arguments[0]).innerHTML", selector
            )

        def chosen(figure, name, value):
            """Return what a figure shows before and after another choice."""
            before = text(f"#{figure}")
            Select(
                browser.find_element(
                    "css selector", f'#{figure}-controls select[aria-label="{name}"]'
                )
            ).select_by_value(value)
            return before, text(f"#{figure}")

        for figure, name, value, gone, new in (
            ("heat", "peer", "flax_nnx", "2.00", "0.50"),
            ("curve", "what", "ms", "", "flax_nnx"),
            ("curve", "peer", "torch_lstm", "flax_nnx", "torch_lstm"),
            ("accuracy", "against", "H", "", "T 20</span>"),
            ("accuracy", "task", "generation, 1 epoch", "", "held-out bits"),
            ("front", "task", "generation, 1 epoch", "0.8425", "2.3000"),
        ):
            before, after = chosen(figure, name, value)
            assert before != after
            assert gone in before
            assert new in after
            assert not gone or gone not in after
        assert "51.2 s" in text("#reach")

        def column(number):
            return [
                cell.text
                for cell in browser.find_elements(
                    "css selector", f"#rows tbody td:nth-child({number})"
                )
            ]

        orders = []
        for _ in range(2):
            browser.find_element("css selector", "#rows th:nth-child(4)").click()
            orders.append([float(value) for value in column(4) if value])
        assert orders[0] == sorted(orders[0]) == orders[1][::-1]
        browser.find_element("id", "filter").send_keys("torch h=64")
        assert set(column(1)) == {"recurrence:H=64,T=80,B=32"}
        assert "3 of 37 rows" in text("#count")
        browser.find_element("id", "csv").click()
        saved = tmp_path / "lstm_jax_bench.csv"
        # it is empty for a moment
        WebDriverWait(browser, 10).until(
            lambda _: saved.exists() and saved.stat().st_size
        )
        lines = saved.read_text().splitlines()
        assert len(lines) == 4
        assert lines[0].startswith("workload,candidate,round,ms_per_step")
