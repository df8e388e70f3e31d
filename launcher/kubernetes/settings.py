"""What a request says beyond the job when it runs on Kubernetes: the image and the pods."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from edl_allreduce import cluster
from edl_allreduce.errors import UsageError
from edl_allreduce.flags import flag
from launcher.kubernetes import pod_options
from launcher.kubernetes.pod_options import Priority, Volume

# What the containers' own variables mean; see edl_allreduce/cluster.py.
_OF_EDL = {"EDL_HOME", "EDL_JOB_UID", "EDL_TOKEN_FILE", "EDL_TLS_CERTIFICATE"}
OWN_VARIABLES = frozenset({*_OF_EDL, "HOME", "NODE_NAME", "POD_IP", "POD_NAME", "POD_NAMESPACE"})
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_OWN_PATHS = ("/tmp", cluster.HOME, cluster.CONFIG_FOLDER, cluster.SECRET_FOLDER)
_IMAGE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[\w][\w.-]*)?(@sha256:[0-9a-f]{64})?"
)


@dataclass(frozen=True)
class ImageSpec:
    """Image."""

    image_repository: str = flag(
        "where the image made of model_zoo is pushed, such as registry.example.com/team/fintech", "", metavar="REPO"
    )
    base_image: str = flag(
        "image to put the model zoo on (default: edl-allreduce of this version, made when it is not there)",
        "",
        metavar="IMAGE",
    )

    def __post_init__(self) -> None:
        for name in ("image_repository", "base_image"):
            if (value := getattr(self, name)) and not _IMAGE.fullmatch(value):
                raise UsageError(
                    f"--{name}: expected the name of an image, such as registry.example.com/team/fintech, got {value!r}"
                )


@dataclass(frozen=True)
class ClusterSpec:
    """Kubernetes."""

    namespace: str = flag("namespace (default: the context's)", "", metavar="NAME")
    kube_context: str = flag("context of the kubeconfig (default: the current one)", "", metavar="NAME")
    worker_resources: str = flag(
        "what a worker asks for and may use; gpu stands for nvidia.com/gpu, other extended resources by their names",
        "cpu=1,memory=2Gi",
        metavar="NAME=QUANTITY,…",
    )
    worker_limits: str = flag(
        "what a worker may use, where that is more than it asks for; what is not named has no limit then",
        "",
        metavar="NAME=QUANTITY,…",
    )
    max_worker_memory: str = flag(
        "a worker that was killed for want of memory is followed by one with half as much again, up to this much "
        "(default: twice its limit)",
        "",
        metavar="QUANTITY",
    )
    worker_priority: str = flag(
        "priority class of the workers; high=0.5 gives half of them the class high, high=0.5,low=NAME the others NAME",
        "",
        metavar="CLASS[=PART]",
    )
    volumes: str = flag(
        "what pods mount, as ElasticDL writes it: claim_name=data,mount_path=/data;host_path=/tmp,mount_path=/scratch; "
        "also config_map=, secret=, empty_dir=, with read_only and sub_path",
        "",
        metavar="VOLUME;…",
    )
    env: str = flag("environment variables of all pods", "", metavar="NAME=VALUE,…")
    env_from_secret: str = flag(
        "Secrets whose keys become environment variables, such as an object store's credentials", "", metavar="NAME,…"
    )
    image_pull_policy: str = flag(
        "Always, IfNotPresent or Never (default: the cluster's)", "", metavar="POLICY", advanced=True
    )
    image_pull_secrets: str = flag("Secrets with which the image is pulled", "", metavar="NAME,…", advanced=True)
    node_selector: str = flag("labels of the nodes that may run pods", "", metavar="NAME=VALUE,…", advanced=True)
    tolerations: str = flag(
        "taints that pods tolerate, such as nvidia.com/gpu:NoSchedule or team=ml:NoExecute",
        "",
        metavar="KEY[=VALUE][:EFFECT],…",
        advanced=True,
    )
    labels: str = flag("labels of all objects", "", metavar="NAME=VALUE,…", advanced=True)
    annotations: str = flag("annotations of all pods", "", metavar="NAME=VALUE,…", advanced=True)
    shm_size: str = flag("size of a worker's /dev/shm, such as 1Gi", "", metavar="QUANTITY", advanced=True)
    coordinator_resources: str = flag(
        "what the coordinator asks for, and may use except CPU, of which it may use more",
        "cpu=250m,memory=1Gi",
        metavar="NAME=QUANTITY,…",
        advanced=True,
    )
    worker_service_account: str = flag(
        "service account of the workers (default: one that may do nothing)", "", metavar="NAME", advanced=True
    )
    coordinator_service_account: str = flag(
        "service account of the coordinator, to which the job's Role is bound (default: one of the job's own)",
        "",
        metavar="NAME",
        advanced=True,
    )
    pod_template: str = flag(
        "YAML file that is merged into the pods, as kubectl patch does (strategically): a Pod, or a mapping with "
        "worker and coordinator",
        "",
        metavar="FILE",
        advanced=True,
    )
    cluster_spec: str = flag(
        "Python file as of ElasticDL: its object cluster, or module functions, with_pod(pod) and with_service(service) "
        "may change each manifest",
        "",
        metavar="FILE",
        advanced=True,
    )
    grace_period: float = flag(
        "seconds that a worker which is told to go has before it is killed", 30.0, check="positive", advanced=True
    )
    keep_finished: float = flag(
        "a job that has ended is removed after so many seconds (0: never)",
        604800.0,
        check="not negative",
        advanced=True,
    )

    def __post_init__(self) -> None:
        for name in ("namespace", "worker_service_account", "coordinator_service_account"):
            if len(pod_options.read_names(name, getattr(self, name))) > 1:
                raise UsageError(f"--{name}: expected one name, got {getattr(self, name)!r}")
        if self.image_pull_policy and self.image_pull_policy not in PULL_POLICIES:
            raise UsageError(
                f"--image_pull_policy: expected {', '.join(PULL_POLICIES)}, got {self.image_pull_policy!r}"
            )
        for flag_name in ("shm_size", "max_worker_memory"):
            if getattr(self, flag_name):
                pod_options.check_quantity(flag_name, getattr(self, flag_name))
        if not self.keep_finished.is_integer() or not self.grace_period.is_integer():
            raise UsageError("--keep_finished, --grace_period: expected whole seconds")
        taken = {*_OWN_PATHS, *(("/dev/shm",) if self.shm_size else ())}
        for each in self.volume_list:
            if each.path in taken:
                raise UsageError(f"--volumes: {each.path} is a folder of every pod of ours; mount at another path")
        for reserved in (self.label_values.keys() & cluster.labels("", "").keys()) | (
            self.label_values.keys() & {cluster.LABEL_VERSION, cluster.LABEL_WORKER}
        ):
            raise UsageError(f"--labels: {reserved} is set by edl_allreduce itself; leave it out")
        self._read_all()

    def _read_all(self) -> None:
        """Raises what is wrong with the texts that nobody has read yet."""
        _ = self.requests, self.limits, self.coordinator_quantities, self.priority, self.variables
        _ = self.secrets_of_env, self.pull_secrets, self.selector, self.toleration_list, self.annotation_values

    @property
    def requests(self) -> dict[str, str]:
        """What a worker asks for."""
        return pod_options.read_resources("worker_resources", self.worker_resources)

    @property
    def limits(self) -> dict[str, str]:
        """What a worker may use. Of an extended resource that is always what it asks for."""
        if not self.worker_limits:
            return self.requests
        extended = {name: value for name, value in self.requests.items() if "/" in name}
        return extended | pod_options.read_resources("worker_limits", self.worker_limits)

    @property
    def memory_max(self) -> str:
        """How much memory a worker may get in the end; empty: there is no limit at all."""
        limit = self.limits.get("memory", "")
        return self.max_worker_memory or (pod_options.times(limit, 2) if limit else "")

    @property
    def coordinator_quantities(self) -> dict[str, str]:
        """What the coordinator asks for and may use."""
        return pod_options.read_resources("coordinator_resources", self.coordinator_resources)

    @property
    def priority(self) -> Priority:
        """`worker_priority`, read."""
        return pod_options.read_priority("worker_priority", self.worker_priority)

    @property
    def volume_list(self) -> tuple[Volume, ...]:
        """`volumes`, read."""
        return pod_options.read_volumes("volumes", self.volumes)

    @property
    def variables(self) -> dict[str, str]:
        """`env`, read."""
        return pod_options.read_env("env", self.env, OWN_VARIABLES)

    @property
    def secrets_of_env(self) -> tuple[str, ...]:
        """`env_from_secret`, read."""
        return pod_options.read_names("env_from_secret", self.env_from_secret)

    @property
    def pull_secrets(self) -> tuple[str, ...]:
        """`image_pull_secrets`, read."""
        return pod_options.read_names("image_pull_secrets", self.image_pull_secrets)

    @property
    def selector(self) -> dict[str, str]:
        """`node_selector`, read."""
        return pod_options.read_labels("node_selector", self.node_selector)

    @property
    def toleration_list(self) -> tuple[dict[str, Any], ...]:
        """`tolerations`, read."""
        return pod_options.read_tolerations("tolerations", self.tolerations)

    @property
    def label_values(self) -> dict[str, str]:
        """`labels`, read."""
        return pod_options.read_labels("labels", self.labels)

    @property
    def annotation_values(self) -> dict[str, str]:
        """`annotations`, read."""
        return pod_options.read_annotations("annotations", self.annotations)
