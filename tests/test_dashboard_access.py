"""Whether a job's dashboard may be read without the token is a setting of the job, and holds for every coordinator."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from edl_allreduce.errors import UsageError
from launcher.kubernetes.manifests import manifests
from launcher.local.plan import make_plan
from launcher.settings import read_request
from tests.jobs import Job, Train, coordinator_of, left_over
from tests.served import until
from tests.test_manifests import found, request

OPTION = "--open_to_readers"


@pytest.mark.parametrize(("flags", "open"), [({}, False), ({"dashboard_access": "read"}, True)])
def test_the_setting_reaches_the_coordinator_here_and_in_a_pod(flags: dict[str, str], open: bool) -> None:
    asked = read_request({"trained_model": "m", "data": "d"} | flags, "evaluate")
    made = make_plan(asked.job, asked.launch, now=datetime(2026, 11, 22), random="a", environ={}, python="python")
    assert (OPTION in made.command) is open
    [container] = manifests(request(**flags), found()).job["spec"]["template"]["spec"]["containers"]
    assert (OPTION in container["command"]) is open


def test_another_value_is_refused() -> None:
    with pytest.raises(UsageError, match="--dashboard_access: expected a string, token or read, got 'everybody'"):
        read_request({"trained_model": "m", "data": "d", "dashboard_access": "everybody"}, "evaluate")


def asked(job: Job, path: str, body: bytes | None = None, token: str = "") -> tuple[int, Any]:
    url = (job.folder / "dashboard").read_text().partition("/#")[0]
    asked = urllib.request.Request(url + path, body, {"X-EDL-Token": token, "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def readable(job: Job) -> bool:
    try:
        return asked(job, "/api/status")[0] == 200
    except (OSError, ValueError):  # it is not there yet, or being restarted
        return False


def test_everybody_reads_and_the_holder_of_the_token_steers(train: Train, tmp_path: Path) -> None:
    """While the launcher lives: with it the job ends, also where the coordinator is not its first one."""
    job = train(num_epochs=10_000, dashboard_access="read", audit=False)
    job.until(lambda: list(job.home.glob("jobs/*/dashboard")), "the dashboard")
    job.until(lambda: readable(job), "an answer")
    body = json.dumps({"num_workers": 2}).encode()
    assert asked(job, "/api/scale", body)[0] == 401
    assert asked(job, "/api/job")[1]["may_write"] is False
    before = job.until(lambda: coordinator_of(job), "the coordinator")
    before.send_signal(signal.SIGKILL)
    before.wait(10)
    job.until(lambda: readable(job), "an answer of the next coordinator")
    assert asked(job, "/api/scale", body)[0] == 401
    assert asked(job, "/api/scale", body, (job.folder / "token").read_text())[0] == 202
    job.process.kill()
    job.process.communicate()
    until(lambda: not left_over(job.home), 20)  # processes that are not our children: nothing to await
