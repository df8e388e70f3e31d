"""The dashboard's page in a real browser, with a pretended job behind it; see test_dashboard_job for a real one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import browser, opened
from tests.dashboards import TOKEN
from tests.served import Served, until

PAST = 2500
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Iterator[Served]:
    job = Served(tmp_path_factory.mktemp("job"), workers=3, past_steps=PAST)
    until(lambda: job.get("/api/status")["phase"] == "training")
    yield job
    job.close()


def url(job: Served) -> str:
    return f"{job.url}/#token={TOKEN}"


def ready(page: Any) -> None:
    page.wait_for_selector("#link[data-state=live]")
    page.wait_for_selector(".chart canvas")


def step(page: Any) -> int:
    return int(page.inner_text("#where").split("step ")[1].split(" ")[0].replace(",", ""))


def over(page: Any) -> str:
    """What the first chart's axis is, as screen readers are told it."""
    return str(page.get_attribute(".picture", "aria-label")).partition("Loss ")[2]


def steps_seen(page: Any) -> int:
    low, high = (int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", over(page).partition(".")[0]))
    return high - low


def test_a_running_job_moves(served: Served, chromium: Any) -> None:
    with opened(chromium, url(served)) as page:
        ready(page)
        assert page.inner_text("#word") == "Training"
        assert "3 of 3 workers stepping" in page.inner_text("#text")
        assert page.get_attribute("body", "data-level") == "ok"
        before = step(page)
        assert before >= PAST
        until(lambda: step(page) > before + 5)
        charts = ["Loss", "accuracy", "Throughput", "Workers", "Where workers’ time goes", "Step time"]
        until(lambda: page.eval_on_selector_all(".chart", "all => all.map(each => each.dataset.chart)") == charts)


def test_the_token_leaves_the_address_bar(served: Served, chromium: Any) -> None:
    with opened(chromium, url(served)) as page:
        ready(page)
        assert TOKEN not in page.url
        page.reload()
        ready(page)


def test_without_a_token_it_asks_for_it(served: Served, chromium: Any) -> None:
    with opened(chromium, f"{served.url}/", expected="401") as page:
        page.wait_for_selector("#locked")
        assert page.is_hidden("#content")
        page.fill("#token", TOKEN)
        page.click("#unlock button")
        ready(page)


def test_a_killed_worker_is_seen_within_two_seconds(served: Served, chromium: Any) -> None:
    with opened(chromium, url(served)) as page:
        ready(page)
        victim = served.job.coordinator.state.round
        assert victim
        number = victim.members[-1]
        page.wait_for_selector(f"tr[data-worker='{number}'][data-state=training]")
        served.do(lambda: served.job.lose(number))
        page.wait_for_selector(f"tr[data-worker='{number}'][data-state=lost]", timeout=2000)
        page.wait_for_selector(f"#rounds-list tr:has-text('worker {number} was ended by SIGKILL')")
        page.wait_for_selector("#text:has-text('3 of 3 workers stepping')")
        event = f"#events li:has-text('worker {number} was ended by SIGKILL')"
        page.wait_for_selector(event)  # the rounds are asked for, events come by themselves: either may be first
        assert page.locator(event).count() == 1


def test_scale_by_the_button(served: Served, chromium: Any) -> None:
    with opened(chromium, url(served)) as page:
        ready(page)
        page.click("#scale")
        assert page.input_value("#num-workers") == "3"
        page.fill("#num-workers", "4")
        page.keyboard.press("Enter")
        page.wait_for_selector("#text:has-text('4 of 4 workers stepping')")
        assert served.job.coordinator.state.target == 4
        page.click("#scale")
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0
    served.ask("/api/scale", "POST", {"num_workers": 3})


def test_readers_find_no_buttons(tmp_path: Path, chromium: Any) -> None:
    job = Served(tmp_path / "job", open_to_readers=True)
    with opened(chromium, f"{job.url}/") as page:
        ready(page)
        assert page.is_hidden("#controls") and page.is_visible("#readonly")
    job.close()


def test_a_log_on_demand(served: Served, chromium: Any) -> None:
    history = served.job.coordinator.telemetry.history
    assert history
    with opened(chromium, url(served)) as page:
        ready(page)
        number = served.job.provisioner.alive[0]
        page.click(f"tr[data-worker='{number}'] button")
        page.wait_for_selector(".log .hint:has-text('there is no log')")
        log = Path(history.name).parent / "logs" / f"worker-{number}.log"
        log.write_text("first\n<b>second</b>\n")
        page.wait_for_selector(".log pre:has-text('<b>second</b>')")
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0


def test_curves_over_time_and_of_a_part(served: Served, chromium: Any) -> None:
    with opened(chromium, url(served)) as page:
        ready(page)
        page.select_option("#range", "1000")
        until(lambda: 900 < steps_seen(page) <= 1010)
        page.check("input[value=time]")
        until(lambda: over(page).startswith("over time"))
        box = page.locator(".chart .u-over").first.bounding_box()
        page.mouse.move(box["x"] + 60, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + 200, box["y"] + 40, steps=4)
        page.mouse.up()
        page.wait_for_selector("#range option:checked:has-text('zoomed')", state="attached")
        page.mouse.dblclick(box["x"] + 60, box["y"] + 40)
        page.wait_for_selector("#range option:checked:has-text('all the time')", state="attached")


def test_colours_are_chosen_and_kept(served: Served, chromium: Any) -> None:
    with opened(chromium, url(served), color_scheme="dark") as page:
        ready(page)
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(ground)
        page.click("#theme")
        light = page.evaluate(ground)
        assert dark != light
        page.reload()
        ready(page)
        assert page.evaluate(ground) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW])
def test_everybody_can_use_it(served: Served, chromium: Any, scheme: str, viewport: dict[str, int]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(chromium, url(served), color_scheme=scheme, viewport=viewport) as page:
        ready(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        found = axe.run(page).response["violations"]
        page.click("#scale")
        found += axe.run(page).response["violations"]
        told = [(each["impact"], each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
        assert [each for each in told if each[0] in ("serious", "critical")] == []


def test_the_end_is_told_and_stays(tmp_path: Path, chromium: Any) -> None:
    job = Served(tmp_path / "job")
    with opened(chromium, url(job)) as page:
        ready(page)
        page.click("#stop")
        page.click("dialog button.danger")
        page.wait_for_selector("#link[data-state=ended]")
        assert page.inner_text("#word") == "Stopped"
        assert "stopped from the dashboard" in page.inner_text("#text")
        job.close()
        assert page.is_hidden("#controls") and page.is_visible("#charts")


def test_a_thousand_workers_and_a_hundred_thousand_points_stay_smooth(tmp_path: Path, chromium: Any) -> None:
    job = Served(tmp_path / "job", workers=1000, past_steps=100_000)
    try:
        until(lambda: job.get("/api/status")["phase"] == "training", 60)
        with opened(chromium, url(job)) as page:
            began = time.monotonic()
            ready(page)
            page.wait_for_selector("#text:has-text('1,000 of 1,000 workers')", timeout=20_000)
            assert time.monotonic() - began < 10
            assert page.is_visible("#fleet canvas")
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable")
            busy = -task_seconds(session)
            before, began = step(page), time.monotonic()
            page.wait_for_timeout(4000)
            busy += task_seconds(session)
            share = busy / (time.monotonic() - began)
            assert step(page) > before
            print(json.dumps({"share of the time that the page is busy": share}))
            assert share < 0.5
    finally:
        job.close()


def task_seconds(session: Any) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))
