"""The pages of recorded runs in a real browser: a run alone, and runs over each other."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.recorded import served
from tests.browser import browser, opened
from tests.recordings import done, record
from tests.served import until
from tests.test_dashboard_page import NARROW, WIDE, over, steps_seen, task_seconds


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Iterator[str]:
    output = tmp_path_factory.mktemp("out")
    record(output, "digits-20261101-aaaa", 1000, done(1000, epochs=[{"values": {"loss": 0.3, "val_loss": 0.5}}]))
    record(output, "digits-20261102-bbbb", 700, params="hidden_units=9, depth=2")
    with served([str(output)]) as found:
        yield found.url


def ready(page: Any) -> None:
    page.wait_for_selector(".chart canvas")


def charts(page: Any) -> list[str]:
    return list(
        page.eval_on_selector_all(
            ".chart", "all => all.map(each => `${each.dataset.chart} ${each.querySelector('small').innerText}`)"
        )
    )


def test_runs_are_over_each_other(url: str, chromium: Any) -> None:
    with opened(chromium, url) as page:
        ready(page)
        assert page.inner_text("#word") == "2 runs"
        titles = charts(page)
        assert titles[0] == "Loss while training" and "Throughput records / s" in titles
        assert "accuracy on the validation data" in titles
        legend = page.inner_text(".chart >> nth=0 >> .values")
        assert "20261101-aaaa" in legend and "20261102-bbbb" in legend
        assert page.inner_text("tr[data-run='digits-20261101-aaaa'] .best") == "0.3"
        rows = page.eval_on_selector_all("#settings tbody tr", "all => all.map(each => each.innerText.split('\\t'))")
        assert [[cell.strip() for cell in row] for row in rows] == [
            ["params hidden_units", "9", "–"],
            ["params depth", "2", "–"],
        ]


def test_a_run_is_left_out_and_comes_back(url: str, chromium: Any) -> None:
    with opened(chromium, url) as page:
        ready(page)
        box = page.get_by_label("Compare digits-20261102-bbbb")
        box.uncheck()
        page.wait_for_selector("#settings .hint:has-text('tick two runs or more')")
        until(lambda: page.locator(".chart >> nth=0 >> .value").count() == 1)
        box.check()
        until(lambda: page.locator(".chart >> nth=0 >> .value").count() == 2)


def test_by_time_since_each_began_and_closer(url: str, chromium: Any) -> None:
    with opened(chromium, url) as page:
        ready(page)
        assert steps_seen(page) == 999
        chart = page.locator(".chart .u-over").first
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        page.mouse.move(box["x"] + 60, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + 200, box["y"] + 40, steps=4)
        page.mouse.up()
        until(lambda: steps_seen(page) < 500)
        page.mouse.dblclick(box["x"] + 60, box["y"] + 40)
        until(lambda: steps_seen(page) == 999)
        page.check("input[value=elapsed]")
        until(lambda: over(page).startswith("over time"))


def test_from_all_runs_to_one_and_back(url: str, chromium: Any) -> None:
    with opened(chromium, url) as page:
        ready(page)
        page.click("text=digits-20261101-aaaa")
        page.wait_for_selector("#link[data-state=ended]")
        ready(page)
        assert (page.inner_text("#word"), page.inner_text("#link")) == ("Done", "recorded")
        assert page.is_hidden("#controls") and page.is_hidden("#readonly") and page.locator(".toast").count() == 0
        assert page.locator("#rounds-list tbody tr").count() == 2
        page.click("#up")
        page.wait_for_selector("#runs-list")
        page.click("text=digits-20261102-bbbb")
        page.wait_for_selector("#text:has-text('it runs, or all its processes were killed')")
        assert (page.inner_text("#word"), page.get_attribute("body", "data-level")) == ("Not finished", "idle")


def test_without_a_token_it_asks_for_it(url: str, chromium: Any) -> None:
    with opened(chromium, url.partition("#")[0], expected="401") as page:
        page.wait_for_selector("#locked")
        assert page.is_hidden("#content")
        page.fill("#token", url.partition("#token=")[2])
        page.click("#unlock button")
        ready(page)


@pytest.mark.parametrize(("scheme", "viewport"), [("light", WIDE), ("dark", NARROW)])
def test_everybody_can_use_it(url: str, chromium: Any, scheme: str, viewport: dict[str, int]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(chromium, url, color_scheme=scheme, viewport=viewport) as page:
        ready(page)
        found = axe.run(page).response["violations"]
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        page.click("text=digits-20261101-aaaa")
        page.wait_for_selector("#link[data-state=ended]")
        ready(page)
        found += axe.run(page).response["violations"]
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        told = [(each["impact"], each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
        assert [each for each in told if each[0] in ("serious", "critical")] == []


def test_a_hundred_thousand_steps_of_each_run_stay_smooth(tmp_path: Path, chromium: Any) -> None:
    for name in ("a-1", "a-2"):
        record(tmp_path, name, 100_000, done(100_000))
    with served([str(tmp_path)]) as found, opened(chromium, found.url) as page:
        began = time.monotonic()
        ready(page)
        shown = time.monotonic() - began
        assert shown < 15
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        busy, began = -task_seconds(session), time.monotonic()
        box = page.locator(".chart .u-over").first.bounding_box()
        for x in range(50, 650, 10):
            page.mouse.move(box["x"] + x, box["y"] + 60)
        page.wait_for_timeout(1000)
        busy += task_seconds(session)
        share = busy / (time.monotonic() - began)
        print(json.dumps({"seconds until it is drawn": shown, "share of the time that the page is busy": share}))
        assert share < 0.5
