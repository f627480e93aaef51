"""The HTML page of the command `inspect`: its data, its largest size, the order of
units, and its behaviour in a browser.
"""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from browser import needs_browser, open_page

from lstm_jax.base.errors import InputError
from lstm_jax.lab.inspection.window import (
    Curve,
    Example,
    Frame,
    Layer,
    Strip,
    Window,
    clustered,
    page,
    write_page,
)

T, H = 6, 12
STEPS = ["the", "film", "<script>", 'is "good"', "film", "10"]


def made_frame(seed):
    rng = np.random.default_rng(seed)
    arrays = {
        "forget": rng.random((T, H)),
        "c": rng.normal(size=(T, H)) * 3,
        "h": rng.normal(size=(T, H)),
    }
    strips = (
        Strip("integrated gradients", rng.normal(size=T).tolist()),
        Strip("leaving the word out", rng.normal(size=T).tolist()),
    )
    norms = np.tril(rng.random((T, T)))
    return Frame(
        f"verdict {seed}",
        Curve("probability", rng.random(T).tolist(), (0.0, 1.0)),
        [Layer("recurrent/layers/0, lstm", arrays)],
        strips,
        norms,
        True,
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
        [[("a", 0.6), ("<", 0.4)]] * T,
    )


WINDOW = Window(
    "Title",
    "about",
    "word",
    (1, 4),
    1,
    [
        Example(f"example {n}", STEPS, [made_frame(2 * n), made_frame(2 * n + 1)])
        for n in range(2)
    ],
    {"film": [("movie", 0.9)]},
)


def content(text):
    (found,) = re.findall(
        r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL
    )
    return json.loads(found)


def test_arrays_can_be_read_back():
    text = page(WINDOW)
    # the page needs no other files
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    found = content(text)
    assert (found["epochs"], found["shown"], found["neighbours"]) == (
        [1, 4],
        1,
        {"film": [["movie", 0.9]]},
    )
    for example, want in zip(found["examples"], WINDOW.examples, strict=True):
        assert example["steps"] == STEPS
        for record, frame in zip(example["frames"], want.frames, strict=True):
            (layer,) = record["layers"]
            assert sorted(layer["order"]) == list(range(H))
            assert layer["units"] == list(range(H))
            for name, array in layer["arrays"].items():
                raw = np.frombuffer(base64.b64decode(array["data"]), np.uint8).reshape(
                    T, H
                )
                values = array["low"] + raw / 255 * (array["high"] - array["low"])
                np.testing.assert_allclose(
                    values,
                    frame.layers[0].arrays[name],
                    atol=(array["high"] - array["low"]) / 500,
                )
            assert frame.norms is not None
            shares = (
                np.frombuffer(
                    base64.b64decode(record["norms"]["data"]), np.uint8
                ).reshape(T, T)
                / 255
            )
            np.testing.assert_allclose(
                shares, frame.norms / frame.norms.max(1, keepdims=True), atol=1 / 500
            )


def test_a_page_has_a_largest_size():
    whole = len(page(WINDOW).encode())
    text = page(WINDOW, whole - 150)
    assert len(text.encode()) <= whole - 150
    (layer,) = content(text)["examples"][0]["frames"][0]["layers"]
    outputs = np.concatenate(
        [example.frames[1].layers[0].arrays["h"] for example in WINDOW.examples]
    )
    most = np.argsort(-outputs.std(0))[: len(layer["units"])]
    assert 8 <= len(layer["units"]) < H
    assert layer["units"] == sorted(most.tolist())
    assert f"{len(layer['units'])} of {H} units" in content(text)["about"]
    with pytest.raises(InputError, match="fewer or shorter examples"):
        page(WINDOW, 20_000)


def test_a_network_that_has_diverged():
    frame, nan = made_frame(0), float("nan")
    for changes in (
        {
            "layers": [
                Layer(
                    "layer",
                    dict(frame.layers[0].arrays) | {"c": np.full((T, H), np.inf)},
                )
            ]
        },
        {
            "curve": replace(
                frame.curve, ahead={"mean": [1.0], "high": [np.float32("inf")]}
            )
        },
        {"strips": [Strip("s", [0.0] * (T - 1) + [nan])]},
        {"likely": [[("a", nan)]] * T},
    ):
        with pytest.raises(InputError, match="epoch 4: values that are not finite"):
            page(
                replace(
                    WINDOW,
                    examples=[Example("x", STEPS, [frame, replace(frame, **changes)])],
                )
            )
    with pytest.raises(InputError, match="neighbours: values that are not finite"):
        page(replace(WINDOW, neighbours={"film": [("movie", nan)]}))


def test_similar_units_are_neighbours():
    rng = np.random.default_rng(0)
    two = rng.normal(size=(40, 2))
    signs = np.asarray([1, -1, 1, 1, -1, 1])
    series = two[:, [0, 1, 0, 1, 0, 1]] * signs + 0.01 * rng.normal(size=(40, 6))
    order = clustered(series).tolist()
    assert sorted(order) == list(range(6))
    assert {frozenset(order[:3]), frozenset(order[3:])} == {
        frozenset({0, 2, 4}),
        frozenset({1, 3, 5}),
    }
    assert clustered(series[:, :2]).tolist() == [0, 1]
    assert sorted(clustered(np.ones((40, 5))).tolist()) == list(range(5))


@needs_browser
def test_in_a_browser(tmp_path):
    """Each action of a user changes what the page shows, and the browser's console has
    no error.

    The actions are hovering, clicks, arrow keys, and the use of the controls for
    sorting, array, epoch, example and theme.
    """
    write_page(WINDOW, tmp_path / "page.html")
    with open_page(tmp_path / "page.html", tmp_path) as browser:
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys
        from selenium.webdriver.support.select import Select

        def find(selector):
            return browser.find_element("css selector", selector)

        def picture():
            return browser.execute_script(
                "return document.getElementById('heat').toDataURL()"
            )

        assert find("#verdict").text == "verdict 1"
        spans = browser.find_elements("css selector", "#texts > div:first-child span")
        assert [span.text for span in spans] == STEPS
        ActionChains(browser).move_to_element(spans[1]).perform()
        assert "word 2 of 6, film" in find("#panel").text
        assert "movie 0.90" in find("#panel").text
        assert "here 1 of 1" in find("#reach-about").text
        before = picture()
        spans[3].click()  # keeps the step selected while the pointer moves
        ActionChains(browser).move_to_element(spans[0]).perform()
        assert 'is "good"' in find("#panel").text
        assert picture() != before

        before = picture()
        Select(find("#sort")).select_by_value("step")
        assert picture() != before
        Select(find("#array")).select_by_value("forget")
        assert "forget gate" in find("#texts").text
        cell, before = find("#cell").text, picture()
        find("#heat").send_keys(Keys.ARROW_LEFT)
        assert "“<script>”" in find("#cell").text != cell
        find("#heat").send_keys(Keys.ARROW_DOWN)
        assert picture() != before

        browser.execute_script(
            "const e = document.getElementById('epoch'); e.value = 0; "
            "e.dispatchEvent(new Event('input'))"
        )
        assert find("#verdict").text == "verdict 0"
        assert find("#epoch-number").text == "1"
        Select(find("#example")).select_by_value("1")
        assert find("#verdict").text == "verdict 2"
        before = picture()
        find("#theme").click()
        assert picture() != before
        browser.set_window_size(500, 900)
        assert browser.execute_script(
            "return document.documentElement.scrollWidth <= innerWidth"
        )
