"""What the objects of a job on Kubernetes say about it."""

from __future__ import annotations

from typing import Any

import pytest

from edl_allreduce.control.control_pb2 import Status
from launcher.kubernetes.status import Outlook, final_status, outlook

JOB: dict[str, Any] = {"status": {}}
PULL = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image\n "x"'}}
NO_ROOM = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available: 2 Insufficient cpu."}


def pod(name: str, second: int, state: dict[str, Any] | None, going: bool = False, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "creationTimestamp": f"2026-11-22T10:00:{second:02}Z"}
    metadata |= {"deletionTimestamp": "2026-11-22T11:00:00Z"} if going else {}
    containers = [] if state is None else [{"name": "coordinator", "state": state}]
    return {"metadata": metadata, "status": {"containerStatuses": containers, **status}}


def ended(kind: str, message: str = "") -> dict[str, Any]:
    return {"status": {"conditions": [{"type": kind, "status": "True", "message": message}]}}


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([pod("a", 1, {"running": {}})], Outlook(pod="a")),
        ([pod("a", 1, {"running": {}}, going=True), pod("b", 2, {"running": {}})], Outlook(pod="b")),
        ([pod("b", 2, {"running": {}}), pod("a", 1, {"terminated": {"exitCode": 1}})], Outlook(pod="b")),
        (
            [pod("a", 1, {"terminated": {"exitCode": 137}}), pod("b", 2, PULL)],
            Outlook(waits='the coordinator\'s pod waits: ImagePullBackOff: Back-off pulling image "x"'),
        ),
        (
            [pod("a", 1, None, conditions=[NO_ROOM])],
            Outlook(waits="the coordinator's pod waits: 0/2 nodes are available: 2 Insufficient cpu."),
        ),
        ([pod("a", 1, None)], Outlook(waits="the coordinator's pod waits: its pod is being scheduled")),
        ([pod("a", 1, {"terminated": {"exitCode": 0}})], Outlook(ending=True)),
        ([pod("a", 1, None, phase="Failed")], Outlook(ending=True)),
        ([], Outlook(waits="the coordinator's pod is being created")),
    ],
)
def test_the_coordinators_pod_is_the_newest_that_runs(pods: list[dict[str, Any]], expected: Outlook) -> None:
    assert outlook(JOB, pods, []) == expected


def test_a_job_that_gets_no_pod_says_why() -> None:
    warnings = [{"message": "old"}, {"message": "exceeded quota: pods=0"}]
    assert outlook(JOB, [], warnings).waits == "the coordinator has no pod: exceeded quota: pods=0"


def test_a_job_has_ended_when_its_job_has_or_is_gone() -> None:
    assert outlook(None, [], []) == Outlook(ended=True, how="its Job was deleted")
    assert outlook(ended("Complete"), [], []) == Outlook(ended=True, succeeded=True)
    last = pod("a", 1, {"terminated": {"exitCode": 1, "reason": "Error", "message": "first\nImportError: x\n"}})
    found = outlook(ended("Failed", "reached the limit"), [last], [])
    assert found == Outlook(ended=True, how="the coordinator ended with exit code 1: ImportError: x")
    assert outlook(ended("Failed", "reached the limit"), [], []).how == "reached the limit"
    memory = pod("a", 1, {"terminated": {"exitCode": 137, "reason": "OOMKilled"}})
    assert outlook(ended("Failed"), [memory], []).how == "the coordinator ended with exit code 137 (OOMKilled)"


def test_the_last_status_is_the_coordinators_own() -> None:
    heard = Status(phase="training", loss=0.5)
    left = '{"phase": "failed", "message": "no such column", "exitCode": 5, "unknownField": 1}'
    status = final_status(heard, left, Outlook(ended=True))
    assert (status.phase, status.message, status.exit_code) == ("failed", "no such column", 5)
    assert final_status(Status(phase="done", loss=0.1), "", Outlook(ended=True)).loss == pytest.approx(0.1)


def test_without_it_the_cluster_says_how_it_ended() -> None:
    heard = Status(phase="training", loss=0.5, message="waiting")
    done = final_status(heard, "", Outlook(ended=True, succeeded=True))
    assert (done.phase, done.message, done.loss) == ("done", "", 0.5)
    gone = final_status(heard, '{"phase": "training"}', Outlook(ended=True, how="its Job was deleted"))
    assert (gone.phase, gone.message, gone.exit_code) == ("failed", "its Job was deleted", 6)
    assert heard.phase == "training"
