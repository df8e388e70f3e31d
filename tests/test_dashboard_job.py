"""The page of a real job in a real browser: it shows what happens to the job, and what is done on it happens."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.browser import browser, opened
from tests.jobs import Job, Run, Train, coordinator_of, left_over
from tests.served import until

pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")

pytestmark = pytest.mark.job
LOST = "ERR_"  # what the browser says in its console while there is no coordinator


def step(page: Any) -> int:
    return int(page.inner_text("#where").split("step ")[1].split(" ")[0].replace(",", ""))


def test_the_page_of_a_job(train: Train) -> None:
    with browser() as chromium:
        job = train(num_workers=2, num_epochs=5000, checkpoint_secs=60, audit=False)
        job.reaches_step(3)
        file = job.folder / "dashboard"
        assert file.stat().st_mode & 0o777 == 0o600
        url = file.read_text()
        with opened(chromium, url, expected=LOST) as page:
            page.set_default_timeout(60_000)
            page.wait_for_selector("#link[data-state=live]")
            before = step(page)
            until(lambda: step(page) > before + 5, 30)
            _kill_a_worker(job, page)
            _kill_the_coordinator(job, page)
            _log(page)
            _scale_and_checkpoint(job, page)
            page.click("#stop")
            page.click("dialog button.danger")
            page.wait_for_selector("#link[data-state=ended]")
            assert page.inner_text("#word") in ("Stopped", "Stopping")
        run = job.finish()
    assert "stopped from the dashboard" in run.text
    assert left_over(job.home) == []
    _is_recorded(job, run)


def _is_recorded(job: Job, run: Run) -> None:
    """The output holds all of the history, although coordinator and workers were killed, and how the job ended."""
    [folder] = (job.home / "output" / "_runs").iterdir()
    assert folder.name == run.folder.name
    parts = b"".join(part.read_bytes() for part in sorted(folder.glob("history-*.jsonl")))
    assert parts == (run.folder / "history.jsonl").read_bytes()
    assert json.loads((folder / "status.json").read_text())["message"] == "stopped from the dashboard"
    activities = [line["activity"] for line in run.lines if "activity" in line]
    assert sum(each["compute"] for each in activities) > 10


def _kill_a_worker(job: Any, page: Any) -> None:
    page.wait_for_selector("#text:has-text('2 of 2 workers stepping')")
    page.wait_for_selector("tr[data-worker='1'][data-state=training]")
    job.workers()[1].send_signal(signal.SIGKILL)
    page.wait_for_selector("tr[data-worker='1'][data-state=lost]", timeout=2000)
    page.wait_for_selector("#rounds-list tr:has-text('worker 1 was ended by SIGKILL')")
    page.wait_for_selector("#text:has-text('2 of 2 workers stepping')")


def _kill_the_coordinator(job: Any, page: Any) -> None:
    coordinator = coordinator_of(job)
    assert coordinator
    before = step(page)
    coordinator.send_signal(signal.SIGKILL)
    page.wait_for_selector("#link[data-state=lost]")
    page.wait_for_selector("#link[data-state=live]")
    until(lambda: step(page) > before, 30)
    page.wait_for_selector("#notes li:has-text('The coordinator was restarted 1 time')")


def _log(page: Any) -> None:
    page.wait_for_selector("tr[data-worker='0'] .pill[data-level=ok]")
    page.click("tr[data-worker='0'] button")
    page.wait_for_selector(".log .hint:has-text('kept up to date')")
    page.keyboard.press("Escape")


def _scale_and_checkpoint(job: Any, page: Any) -> None:
    page.click("#scale")
    page.fill("#num-workers", "3")
    page.keyboard.press("Enter")
    page.wait_for_selector("#text:has-text('3 of 3 workers stepping')")
    page.click("#checkpoint")
    page.wait_for_selector("#events li:has-text('checkpoint at step')")
    assert any("checkpoint" in line for line in job.history())
