"""Tells why a pod's container does not run yet, in the words of Kubernetes; coordinator and launcher show the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PREPARING = (None, "ContainerCreating", "PodInitializing")  # nothing is wrong


def waits_for(pod: Mapping[str, Any], container: str) -> str:
    """What a pod that waits is waiting for: `0/2 nodes are available: …`, `ImagePullBackOff: …`.

    Args:
        pod: as the API server gives it.
        container: the name of the one that is waited for.
    """
    status = pod.get("status", {})
    waiting = _waiting(_named(status.get("containerStatuses"), container))
    if waiting.get("reason") not in _PREPARING:
        return _told(waiting)
    for each in status.get("initContainerStatuses") or ():
        begun = _waiting(each)
        if begun.get("reason") not in _PREPARING:
            return f"{each['name']}: {_told(begun)}"
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return one_line(condition.get("message")) or str(condition.get("reason"))
    return "its container is being created" if status.get("conditions") else "its pod is being scheduled"


def _named(statuses: Any, name: str) -> Mapping[str, Any]:
    return next((each for each in statuses or () if each.get("name") == name), {})


def _waiting(status: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = status.get("state", {}).get("waiting") or {}
    return found


def _told(waiting: Mapping[str, Any]) -> str:
    return ": ".join(filter(None, (str(waiting["reason"]), one_line(waiting.get("message")))))


def one_line(text: object) -> str:
    """A text without line breaks; empty for None."""
    return " ".join(str(text or "").split())
