"""The way to the coordinator of a job on Kubernetes, for its client: a tunnel with TLS and token in it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from edl_allreduce import cluster
from edl_allreduce.errors import JobFailed, UsageError
from launcher.kubernetes.api import Cluster
from launcher.kubernetes.tunnel import Tunnel, pinned

if TYPE_CHECKING:
    import socket


class ClusterWay:
    """How a client reaches a coordinator, wherever its pod is just now (see `client.Way`).

    Args:
        name: the job's.
        where: its namespace.
        token: which the coordinator demands.
        certificate: the coordinator's, as PEM.

    Attributes:
        pod: the coordinator's; empty while none runs.
    """

    patience = 90.0  # a pod must be made anew, perhaps on another node

    def __init__(self, name: str, where: Cluster, token: str, certificate: str) -> None:
        self.name, self.pod, self.ended = name, "", ""
        self.words = f"{name}{where.flags}"
        self.logs_hint = f"edl logs {self.words}"
        self.certificate, self.host = certificate.encode(), cluster.service_name(name, where.namespace)
        self._cluster, self._token = where, token
        self._tunnel = Tunnel(lambda: self._dial(cluster.GRPC_PORT))

    @staticmethod
    def of(where: Cluster, name: str) -> ClusterWay:
        """The way to a job that somebody else has submitted.

        Raises:
            UsageError: it has no Secret, or this user may not read it.
        """
        secret = where.read("v1", "Secret", name)
        if secret is None:
            raise UsageError(f"job {name} in namespace {where.namespace} has no Secret {name}: it is not one of edl's")
        data = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
        return ClusterWay(name, where, data[cluster.TOKEN_FILE], data[cluster.CERTIFICATE_FILE])

    def __enter__(self) -> ClusterWay:
        self._tunnel.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._tunnel.close()

    def address(self) -> str | None:
        """This end of the tunnel, while the coordinator's pod runs."""
        return self._tunnel.address if self.pod else None

    def token(self) -> str:
        """The job's."""
        return self._token

    def how_it_ended(self) -> str:
        """For people."""
        return self.ended

    def dashboard(self) -> Tunnel:
        """A way to its dashboard, without TLS on this end."""
        return Tunnel(lambda: self._dial(cluster.DASHBOARD_PORT), pinned(self.certificate.decode()), self.host)

    def _dial(self, port: int) -> socket.socket:
        if not self.pod:
            raise JobFailed(f"job {self.name}: its coordinator does not run")
        return self._cluster.dial(self.pod, port)
