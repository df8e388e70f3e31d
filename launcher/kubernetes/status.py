"""What the objects of a job on Kubernetes say about it. Pure functions over the API server's documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edl_allreduce import cluster, pods
from edl_allreduce.errors import JobFailed
from launcher.handle import ENDED, with_message

if TYPE_CHECKING:
    from edl_allreduce.control.control_pb2 import Status

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Outlook:
    """How a job's own objects are.

    Attributes:
        pod: the coordinator's, when it runs.
        waits: why none runs.
        ending: the coordinator has ended, the Job not yet.
        ended: the Job has, or is gone.
        succeeded: it has ended well.
        how: of one that has ended: what the cluster says about it.
    """

    pod: str = ""
    waits: str = ""
    ending: bool = False
    ended: bool = False
    succeeded: bool = False
    how: str = ""


def outlook(job: Document | None, coordinators: Sequence[Document], warnings: Sequence[Document]) -> Outlook:
    """What there is to know.

    Args:
        job: None: it is not there any more.
        coordinators: their pods, all that there have been.
        warnings: events about the Job.
    """
    if job is None:
        return Outlook(ended=True, how="its Job was deleted")
    newest = sorted(coordinators, key=lambda each: str(each["metadata"]["creationTimestamp"]), reverse=True)
    for condition in job.get("status", {}).get("conditions") or ():
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            last = next(filter(None, map(last_words, newest)), "")
            how = last or pods.one_line(condition.get("message"))
            return Outlook(ended=True, succeeded=condition["type"] == "Complete", how=how)
    for pod in newest:
        if "running" in _state(pod) and not pod["metadata"].get("deletionTimestamp"):
            return Outlook(pod=pod["metadata"]["name"])
    if newest and "terminated" not in _state(newest[0]):
        return Outlook(waits=f"the coordinator's pod waits: {pods.waits_for(newest[0], cluster.COORDINATOR)}")
    if newest:
        return Outlook(ending=True)
    told = [pods.one_line(each.get("message")) for each in warnings]
    return Outlook(
        waits=f"the coordinator has no pod: {told[-1]}" if told else "the coordinator's pod is being created"
    )


def last_words(pod: Document) -> str:
    """How a coordinator ended that failed: the end of its log, as Kubernetes has kept it."""
    ended = _state(pod).get("terminated") or {}
    if not ended.get("exitCode"):
        return ""
    reason, code, message = ended.get("reason"), ended["exitCode"], str(ended.get("message") or "").strip()
    how = f"the coordinator ended with exit code {code}" + (f" ({reason})" if reason not in (None, "Error") else "")
    return f"{how}: {message.splitlines()[-1]}" if message else how


def _state(pod: Document) -> Mapping[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    own: Document = next((each for each in statuses if each["name"] == cluster.COORDINATOR), {})
    found: Mapping[str, Any] = own.get("state", {})
    if not found and pod.get("status", {}).get("phase") in ("Failed", "Succeeded"):
        return {"terminated": {}}
    return found


def final_status(newest: Status, written: str, found: Outlook) -> Status:
    """The last status of a job that has ended.

    Args:
        newest: the one that was heard of last.
        written: what its coordinator has left, as JSON; empty: nothing.
        found: how its objects are.
    """
    from google.protobuf import json_format

    from edl_allreduce.control.control_pb2 import Status

    if written:
        status = json_format.Parse(written, Status(), ignore_unknown_fields=True)
        if status.phase in ENDED:
            return status
    if newest.phase in ENDED:
        return newest
    if found.succeeded:
        last = with_message(newest, "")
        last.phase = "done"
        return last
    last = with_message(newest, found.how or "it ended without saying how")
    last.phase, last.exit_code = "failed", JobFailed.exit_code
    return last
