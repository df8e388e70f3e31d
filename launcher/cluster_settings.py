"""What a request says beyond the job when it runs on Kubernetes: the image and the pods."""

from __future__ import annotations

from dataclasses import dataclass

from edl_allreduce.flags import flag


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
        "what a worker may use, where that is more than it asks for", "", metavar="NAME=QUANTITY,…"
    )
    max_worker_memory: str = flag(
        "a worker that was killed for want of memory is followed by one with half as much again, up to this much "
        "(default: twice worker_resources' memory)",
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
        "what the coordinator asks for and may use", "cpu=250m,memory=1Gi", metavar="NAME=QUANTITY,…", advanced=True
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
