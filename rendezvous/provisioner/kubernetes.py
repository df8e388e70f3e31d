"""The few calls to Kubernetes's API that a coordinator makes, as plain documents; each blocks its thread."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from edl_allreduce.cluster import LABEL_JOB, state_name
from edl_allreduce.errors import EdlError
from edl_allreduce.extras import Later
from rendezvous.provisioner.pods import pinned_image

# At their first use, since importing them takes a second.
client = Later("kubernetes.client", "kubernetes", "a job on Kubernetes")
config = Later("kubernetes.config", "kubernetes", "a job on Kubernetes")

CALL_SECONDS = (5.0, 30.0)  # to connect, and between two pieces of an answer
WATCH_SECONDS = 240  # the server ends a watch then; it is begun again where it was
IMAGE_SECONDS = 20  # for a node to tell which image a container that runs already was started from
LOG_BYTES = 4 << 20  # of a log, at most: a node hands on lines in pieces of 16 KB
QUIET_SECONDS = 90.0  # the server says at least once a minute that a watch goes on
PODS = "/api/v1/namespaces/{namespace}/pods"
_CONFLICT, _GONE, _NOT_FOUND, _BUSY = 409, 410, 404, 429


class Refused(EdlError):
    """The API server does not do what it was asked for; asked again, it may."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def exists(self) -> bool:
        """There is such an object already, or somebody else has changed it in the meantime."""
        return self.status == _CONFLICT

    @property
    def missing(self) -> bool:
        """There is no such object."""
        return self.status == _NOT_FOUND


class Unreachable(EdlError):
    """There is no answer from the API server."""


class Expired(EdlError):
    """What has changed since that version is not known any more: it must be listed anew."""


class Api:
    """One job's objects.

    Args:
        job, namespace: the job.
        settings: a Configuration of the client; by default the one of the pod in which this runs.

    Raises:
        UsageError: the package kubernetes is not installed.
    """

    def __init__(self, job: str, namespace: str, settings: Any = None) -> None:
        self.job, self.namespace = job, namespace
        self._selected = ("labelSelector", f"{LABEL_JOB}={job}")
        if settings is None:
            settings = client.Configuration()
            config.load_incluster_config(settings)
        settings.retries = False
        settings.socket_options = _KEEP_ASKING
        self._client = client.ApiClient(settings)
        self._streams: set[Any] = set()

    # Pods.

    def create_pod(self, pod: Mapping[str, Any]) -> dict[str, Any]:
        """Makes a pod; returns it as the API server has it. Raises Refused, Unreachable."""
        return self._ask("POST", PODS, body=pod)

    def read_pod(self, name: str) -> dict[str, Any]:
        """Raises Refused, Unreachable."""
        return self._ask("GET", f"{PODS}/{name}")

    def delete_pod(self, name: str, uid: str, grace_seconds: int) -> None:
        """Deletes a pod, unless it is gone or another one has its name. Raises Refused, Unreachable."""
        options = {"gracePeriodSeconds": grace_seconds, "preconditions": {"uid": uid}}
        try:
            self._ask("DELETE", f"{PODS}/{name}", body=options)
        except Refused as refused:
            if not (refused.missing or refused.exists):
                raise

    def list_pods(self) -> tuple[list[dict[str, Any]], str]:
        """All pods of the job, and the version from which to watch. Raises Refused, Unreachable."""
        found = self._ask("GET", PODS, query=[self._selected])
        return found["items"], found["metadata"]["resourceVersion"]

    def watch_pods(self, version: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What happens to pods of the job since `version`: ADDED, MODIFIED, DELETED or BOOKMARK, and the pod.

        It ends now and then, and is to be begun again.

        Raises:
            Expired: the version is too old.
            Refused, Unreachable: as any call, also in the middle.
        """
        return self._watch(self._selected, version, WATCH_SECONDS)

    def _watch(self, selected: tuple[str, str], version: str, seconds: int) -> Iterator[tuple[str, dict[str, Any]]]:
        query = [
            selected,
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
            ("timeoutSeconds", str(seconds)),
        ]
        for line in self._stream(PODS, query):
            event = json.loads(line)
            if event["type"] == "ERROR":
                status = event["object"]
                raise (Expired if status.get("code") == _GONE else Unreachable)(str(status.get("message")))
            yield event["type"], event["object"]

    def running_image(self, name: str, container: str) -> str:
        """The image that a pod's container runs, by its digest, as soon as the pod's status tells; empty: it has none.

        Raises:
            Refused, Unreachable: of the API server.
        """
        pod = self.read_pod(name)
        image = pinned_image(pod, container)
        if image is not None:
            return image
        selected = ("fieldSelector", f"metadata.name={name}")
        with contextlib.suppress(Expired):
            for _, newer in self._watch(selected, pod["metadata"]["resourceVersion"], IMAGE_SECONDS):
                if "spec" in newer and (image := pinned_image(newer, container)) is not None:
                    return image
        return ""

    def end_of_log(self, name: str, container: str, lines: int) -> bytes:
        """The last lines of a pod's container. Raises Refused, Unreachable."""
        import urllib3

        query = [("container", container), ("tailLines", str(lines)), ("limitBytes", str(LOG_BYTES))]
        response = self._call("GET", f"{PODS}/{name}/log", None, query, CALL_SECONDS, stream=True)
        try:
            return bytes(response.read())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(_why(error)) from error
        finally:
            response.close()

    # The job itself.

    def read_state(self) -> dict[str, Any]:
        """The ConfigMap that coordinators leave to their successors. Raises Refused, Unreachable."""
        return self._ask("GET", f"/api/v1/namespaces/{{namespace}}/configmaps/{state_name(self.job)}")

    def write_state(self, values: Mapping[str, str], version: str) -> dict[str, Any]:
        """Changes values of that ConfigMap, if it is of this version still; returns it. Raises Refused, Unreachable."""
        body = {"metadata": {"resourceVersion": version}, "data": dict(values)}
        return self._ask("PATCH", f"/api/v1/namespaces/{{namespace}}/configmaps/{state_name(self.job)}", body=body)

    def give_up(self) -> None:
        """Has the Job fail with its next pod that ends, which is ours. Raises Refused, Unreachable."""
        path = f"/apis/batch/v1/namespaces/{{namespace}}/jobs/{self.job}"
        so_far = self._ask("GET", path).get("status", {}).get("failed", 0)  # with less, our own pod would be deleted
        self._ask("PATCH", path, body={"spec": {"backoffLimit": so_far}})

    def close(self) -> None:
        """Breaks off watches, which raise Unreachable then, and closes idle connections."""
        for response in list(self._streams):
            response.shutdown()
        self._client.rest_client.pool_manager.clear()

    def _ask(
        self, method: str, path: str, body: Any = None, query: list[tuple[str, str]] | None = None
    ) -> dict[str, Any]:
        found = self._call(method, path, body, query, CALL_SECONDS, stream=False)
        assert isinstance(found, dict)
        return found

    def _stream(self, path: str, query: list[tuple[str, str]]) -> Iterator[bytes]:
        import urllib3

        response = self._call("GET", path, None, query, (CALL_SECONDS[0], QUIET_SECONDS), stream=True)
        self._streams.add(response)
        try:
            for line in response:
                if not line.endswith(b"\n"):
                    raise Unreachable("the API server's answer broke off")
                yield line
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(_why(error)) from error
        finally:
            self._streams.discard(response)
            response.close()

    def _call(self, method: str, path: str, body: Any, query: Any, timeout: tuple[float, float], stream: bool) -> Any:
        import urllib3

        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        try:
            return self._client.call_api(
                path,
                method,
                {"namespace": self.namespace},
                query or [],
                headers,
                body=body,
                response_types_map=dict.fromkeys((200, 201, 202), "object"),
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _preload_content=not stream,
                _request_timeout=timeout,
            )
        except client.ApiException as error:
            raise _understood(error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(_why(error)) from error


def _understood(error: Any) -> EdlError:
    """What an answer means that is an error."""
    status, message = int(error.status or 0), str(error.reason)
    with contextlib.suppress(TypeError, ValueError, KeyError):
        message = str(json.loads(error.body)["message"])
    if status == _GONE:
        return Expired(message)
    if status == 0 or status == _BUSY or status >= 500:
        return Unreachable(f"{message} ({status})" if status else message)
    return Refused(status, message)


def _why(error: BaseException) -> str:
    """One line about a connection that has failed."""
    reason = getattr(error, "reason", None) or error  # urllib3 gives up with the last try's
    return f"no answer from the API server: {' '.join(str(reason).split()) or type(reason).__name__}"


# A server that is gone without a word is noticed after 20 s, also where nothing is to be sent.
_KEEP_ASKING = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
