"""Reaches the API server of a Kubernetes cluster, as plain documents; the only module of the launcher that does."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edl_allreduce import cluster
from edl_allreduce.errors import UsageError
from edl_allreduce.extras import Later
from launcher.handle import JobSummary
from launcher.kubernetes.errors import Missing, unanswered, understood

if TYPE_CHECKING:
    from launcher.kubernetes.job import KubernetesJob

client = Later("kubernetes.client", "kubernetes", "a job on Kubernetes")
config = Later("kubernetes.config", "kubernetes", "a job on Kubernetes")

Document = dict[str, Any]

CALL_SECONDS = (10.0, 60.0)  # to connect, and between two pieces of an answer
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
HOW_TO_CONNECT = (
    "expected $KUBECONFIG or ~/.kube/config to name a cluster (kind, minikube or your cloud's tool writes it)"
)


def attach(name: str, namespace: str = "", kube_context: str = "") -> KubernetesJob:
    """A job of a cluster, running or ended, whoever has submitted it.

    Args:
        namespace, kube_context: empty: the kubeconfig's.

    Raises:
        UsageError: there is no such job, or no access to it.
        Unreachable: the cluster does not answer.
    """
    from launcher.kubernetes.job import attached

    return attached(name, Cluster.connect(namespace, kube_context))


def jobs(namespace: str = "", kube_context: str = "") -> list[JobSummary]:
    """All jobs of a namespace; those that run are asked how they are.

    Raises:
        UsageError: there is no access to them.
        Unreachable: the cluster does not answer.
    """
    from launcher.kubernetes.jobs import summaries

    return summaries(Cluster.connect(namespace, kube_context))


class Cluster:
    """One namespace of a cluster.

    Args:
        settings: the client's configuration.
        namespace: whose objects are meant.
        flags: with which our commands find this place.
    """

    def __init__(self, settings: Any, namespace: str, flags: str = "") -> None:
        settings.retries = False
        self._settings, self.namespace, self.flags = settings, namespace, flags
        self._client = client.ApiClient(settings)

    @staticmethod
    def connect(namespace: str = "", context: str = "") -> Cluster:
        """The cluster of $KUBECONFIG, ~/.kube/config, or the one that this process is a pod of; it is not asked yet.

        Raises:
            UsageError: none is named, or the context does not exist.
        """
        settings = client.Configuration()
        files = os.environ.get("KUBECONFIG") or "~/.kube/config"
        if any(Path(each).expanduser().is_file() for each in files.split(os.pathsep) if each):
            own = _load_file(settings, files, context)
        elif "KUBERNETES_SERVICE_HOST" in os.environ and not context:
            try:
                config.load_incluster_config(settings)
            except config.ConfigException as error:
                raise UsageError(f"this pod's service account: {error}") from None
            own = OWN_NAMESPACE.read_text(encoding="utf-8").strip() if OWN_NAMESPACE.is_file() else "default"
        else:
            named = os.environ.get("KUBECONFIG")
            what = f"$KUBECONFIG names {named}, which does not exist" if named else "there is no ~/.kube/config"
            raise UsageError(f"no cluster is configured: {what}; {HOW_TO_CONNECT}")
        flags = (("kube_context", context), ("namespace", "" if namespace == own else namespace))
        return Cluster(settings, namespace or own, "".join(f" --{name}={value}" for name, value in flags if value))

    @property
    def host(self) -> str:
        """The API server's URL."""
        return str(self._settings.host)

    # Objects.

    def create(self, manifest: Mapping[str, Any], dry_run: bool = False) -> Document:
        """Makes an object, or only has the server check it; returns it as the server has it."""
        query = [("dryRun", "All")] if dry_run else []
        return self._ask("POST", _path(manifest["apiVersion"], manifest["kind"]), manifest, query)

    def read(self, api: str, kind: str, name: str) -> Document | None:
        """An object; None: there is none."""
        try:
            return self._ask("GET", f"{_path(api, kind)}/{name}")
        except Missing:
            return None

    def find(self, api: str, kind: str, labels: str = "", fields: str = "") -> list[Document]:
        """All objects of a kind with these labels and fields."""
        query = [(name, value) for name, value in (("labelSelector", labels), ("fieldSelector", fields)) if value]
        found: list[Document] = self._ask("GET", _path(api, kind), query=query)["items"]
        return found

    def patch(self, api: str, kind: str, name: str, patch: Mapping[str, Any]) -> None:
        """Merges a patch into an object."""
        self._ask("PATCH", f"{_path(api, kind)}/{name}", patch)

    def delete(self, api: str, kind: str, name: str) -> None:
        """Deletes an object and all that it owns, if it is there."""
        with contextlib.suppress(Missing):
            self._ask("DELETE", f"{_path(api, kind)}/{name}", {"propagationPolicy": "Background"})

    def kill_pods(self, labels: str) -> None:
        """Ends pods at once."""
        for pod in self.find("v1", "Pod", labels):
            with contextlib.suppress(Missing):
                path = f"{_path('v1', 'Pod')}/{pod['metadata']['name']}"
                self._ask("DELETE", path, {"gracePeriodSeconds": 0})

    def await_change(self, api: str, kind: str, labels: str, seconds: int) -> None:
        """Returns when an object with these labels changes, or after so many seconds."""
        found = self._ask("GET", _path(api, kind), query=[("labelSelector", labels)])
        version = found["metadata"]["resourceVersion"]
        query = [("labelSelector", labels), ("watch", "true"), ("resourceVersion", version)]
        query.append(("timeoutSeconds", str(seconds)))
        lines = self._lines(_path(api, kind), query)
        try:
            next(lines, None)
        finally:
            lines.close()

    # Pods.

    def logs(self, pod: str, container: str, follow: bool) -> Iterator[str]:
        """The lines of a container's log, until it ends with `follow`."""
        query = [("container", container), ("follow", str(follow).lower())]
        for line in self._lines(f"{_path('v1', 'Pod')}/{pod}/log", query, quiet_seconds=None if follow else 60.0):
            yield line.decode(errors="replace").rstrip("\r")

    def dial(self, pod: str, port: int) -> socket.socket:
        """A connection to a port of a pod, through the API server."""
        caller = client.ApiClient(self._settings)
        caller.request = functools.partial(_forward, self._settings, port)  # as kubernetes.stream does it
        with self._errors():
            forward = client.CoreV1Api(caller).connect_get_namespaced_pod_portforward(
                pod, self.namespace, ports=str(port), _preload_content=False
            )
        found: socket.socket = forward.socket(port)._socket  # a real one, for those who need that
        return found

    def through_model(self, manifest: Mapping[str, Any], change: Any) -> Document:
        """A manifest after `change` has had it as an object of the Kubernetes client, such as a V1Pod."""
        model = self._client._ApiClient__deserialize(dict(manifest), f"V1{manifest['kind']}")
        made: Document = self._client.sanitize_for_serialization(change(model))
        return made

    # Calls.

    def _ask(self, method: str, path: str, body: Any = None, query: list[tuple[str, str]] | None = None) -> Document:
        found = self._call(method, path, body, query or [], CALL_SECONDS, preload=True)
        assert isinstance(found, dict)
        return found

    def _lines(
        self, path: str, query: list[tuple[str, str]], quiet_seconds: float | None = 120.0
    ) -> Generator[bytes, None, None]:
        response = self._call("GET", path, None, query, (CALL_SECONDS[0], quiet_seconds), preload=False)
        rest = b""
        try:
            with self._errors():
                for piece in response.stream(1 << 16):
                    *whole, rest = (rest + piece).split(b"\n")
                    yield from whole
            if rest:
                yield rest
        finally:
            response.close()

    def _call(self, method: str, path: str, body: Any, query: Any, timeout: Any, preload: bool) -> Any:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        with self._errors():
            return self._client.call_api(
                path,
                method,
                {"namespace": self.namespace},
                query,
                headers,
                body=body,
                response_types_map=dict.fromkeys((200, 201, 202), "object"),
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _preload_content=preload,
                _request_timeout=timeout,
            )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns errors of the client into ours."""
        import urllib3

        try:
            yield
        except client.ApiException as error:
            raise understood(int(error.status or 0), error.reason, error.body, self.host) from error
        except AttributeError as error:  # the client looks for a body where there was not even a connection
            cause: Any = error.__context__
            if not isinstance(cause, client.ApiException):
                raise
            raise understood(int(cause.status or 0), cause.reason, cause.body, self.host) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unanswered(error, self.host) from error


def _forward(settings: Any, port: int, method: str, url: str, headers: Any, query_params: Any, **_: Any) -> Any:
    """Opens a websocket that leads to a port; as kubernetes.stream does, but its thread ends without a word."""
    from kubernetes.stream import ws_client

    class Forward(ws_client.PortForward):  # type: ignore[misc]
        def _proxy(self) -> None:
            try:
                super()._proxy()
            except Exception:  # either end has gone: whoever uses the connection sees that it ends
                for each in self.local_ports.values():
                    each.python.close()

    try:
        websocket = ws_client.create_websocket(settings, ws_client.get_websocket_url(url, query_params), headers)
    except Exception as error:
        raise client.ApiException(status=0, reason=" ".join(str(error).split())) from error
    return Forward(websocket, [port])


def _load_file(settings: Any, files: str, context: str) -> str:
    """Reads the kubeconfig, which may be several files; returns the namespace of its context."""
    try:
        contexts, current = config.list_kube_config_contexts(files)
        chosen = next((each for each in contexts if each["name"] == context), None) if context else current
        if chosen is None:
            known = ", ".join(each["name"] for each in contexts)
            raise UsageError(f"--kube_context: there is no context {context!r} in the kubeconfig; there is {known}")
        config.load_kube_config(files, chosen["name"], settings)
    except UsageError:
        raise
    except Exception as error:  # a file may hold anything
        raise UsageError(f"the kubeconfig cannot be used: {' '.join(str(error).split())}; {HOW_TO_CONNECT}") from None
    return str(chosen["context"].get("namespace") or "default")


def _path(api: str, kind: str) -> str:
    plural = "networkpolicies" if kind == "NetworkPolicy" else f"{kind.lower()}s"
    return f"/{'api' if api == 'v1' else 'apis'}/{api}/namespaces/{{namespace}}/{plural}"


def selector(job: str, role: str = "") -> str:
    """The labels by which a job's objects are found."""
    labels = {cluster.LABEL_APP: cluster.APP, cluster.LABEL_JOB: job} | ({cluster.LABEL_ROLE: role} if role else {})
    return ",".join(f"{name}={value}" for name, value in labels.items())
