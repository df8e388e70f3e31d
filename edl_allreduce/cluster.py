"""What launcher and coordinator of a job on Kubernetes agree on: names, places inside a pod, labels, and its workers.

A job called NAME is a Job NAME with one pod, the coordinator's, and these objects, all owned by it:

    Service NAME               headless: the workers find the coordinator as NAME.NAMESPACE.svc
    Secret NAME                token, tls.crt, tls.key
    ConfigMap NAME             spec.json (the job), workers.json (`WorkerPods`)
    ConfigMap NAME-state       what a new coordinator must know and cannot learn otherwise (the coordinator writes it)
    ServiceAccount, Role, RoleBinding NAME     of the coordinator
    ServiceAccount NAME-worker                 may do nothing
    NetworkPolicy NAME
    Pod NAME-worker-ID         one per worker (the coordinator makes them)
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from edl_allreduce.errors import UsageError

GRPC_PORT, DASHBOARD_PORT = 7077, 8080

# Where things are inside our containers.
CONFIG_FOLDER, SECRET_FOLDER = "/etc/edl/job", "/etc/edl/secret"
SPEC_FILE, WORKERS_FILE = "spec.json", "workers.json"  # of the ConfigMap
TOKEN_FILE, CERTIFICATE_FILE, KEY_FILE = "token", "tls.crt", "tls.key"  # of the Secret; workers get no key
HOME = "/var/lib/edl"  # EDL_HOME of the coordinator, on its pod's own disk
MODEL_ZOO, CUSTOM_ZOO = "/model_zoo", "/model_zoo/custom"  # of an image: the zoo that comes with us, and the user's

# Keys of the state ConfigMap; every value is text.
NEXT_ID, COORDINATORS, WORKER_MEMORY, FINAL_STATUS = "next_id", "coordinators", "worker_memory", "status"

# Labels; the first four as Kubernetes recommends them.
LABEL_APP, LABEL_JOB = "app.kubernetes.io/name", "app.kubernetes.io/instance"
LABEL_ROLE, LABEL_MANAGER = "app.kubernetes.io/component", "app.kubernetes.io/managed-by"
LABEL_VERSION = "app.kubernetes.io/version"
LABEL_WORKER = "edl-allreduce/worker-id"
APP, MANAGER, COORDINATOR, WORKER = "edl-allreduce", "edl", "coordinator", "worker"


@dataclass(frozen=True)
class WorkerPods:
    """How the coordinator makes pods of workers.

    Attributes:
        pod: the manifest of a worker's pod, all but its name, its label LABEL_WORKER, its owner, and what `args` needs
            to say which worker it is.
        container: the name of the container with the worker; others are the user's own.
        memory_max: a worker that was killed for want of memory is followed by one with more, up to this quantity, such
            as 8Gi; empty: as it is.
        high_priority: the part of all workers wanted, 0 to 1, that get `high_priority_class`; the others get
            `low_priority_class`.
        high_priority_class, low_priority_class: names of priority classes; empty: as the manifest says.
        keep_finished: how many pods of workers that have ended are kept for their logs.
    """

    pod: dict[str, Any]
    container: str = WORKER
    memory_max: str = ""
    high_priority: float = 0.0
    high_priority_class: str = ""
    low_priority_class: str = ""
    keep_finished: int = 20

    def to_json(self) -> str:
        """What `from_json` reads back."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> WorkerPods:
        """The settings that `to_json` wrote.

        Raises:
            UsageError: it is not JSON, or a field is unknown or missing.
        """
        try:
            return WorkerPods(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise UsageError(f"{WORKERS_FILE}: {error}") from None


def service_name(job: str, namespace: str) -> str:
    """The name under which the pods of a cluster find a job's coordinator; also the one its certificate is for."""
    return f"{job}.{namespace}.svc"


def worker_pod_name(job: str, worker_id: int) -> str:
    """The name of a worker's pod."""
    return f"{job}-worker-{worker_id}"


def state_name(job: str) -> str:
    """The name of the ConfigMap that the coordinator writes."""
    return f"{job}-state"


def labels(job: str, role: str) -> dict[str, str]:
    """The labels by which the objects of a job are found."""
    return {LABEL_APP: APP, LABEL_JOB: job, LABEL_ROLE: role, LABEL_MANAGER: MANAGER}
