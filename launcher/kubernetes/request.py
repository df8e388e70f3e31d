"""Carries a request out on Kubernetes: what is checked, built, shown and submitted, in this order."""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path

from edl_allreduce import bundle, cluster, storage, trained_model_pb2
from edl_allreduce.errors import StorageError, UsageError
from edl_allreduce.spec import JobSpec
from edl_allreduce.task_spec import TaskSpec
from launcher.display.terminal import Silent
from launcher.handle import JobHandle
from launcher.kubernetes import check
from launcher.kubernetes.api import Cluster
from launcher.kubernetes.certificates import make_certificate
from launcher.kubernetes.manifests import Found, job_in_pods
from launcher.kubernetes.pod_template import read_pod_template
from launcher.kubernetes.submission import Submission, prepare, submit
from launcher.local.plan import name_of
from launcher.settings import Request

Tell = Callable[[str], None]

PULLABLE = "docker-pullable://"  # what stands before the image in a trained model's docker_commit_id


class OnKubernetes:
    """One request for a job on Kubernetes.

    Args:
        request: what is wanted.
        zoo: the folder of the model, when it is on this machine and no image is given; None: it is in the image.
        labels: of an image that is made of it.
        now, random: see `plan.make_plan`.
    """

    outlives_launcher = True

    def __init__(
        self, request: Request, zoo: Path | None, labels: Mapping[str, str], now: datetime, random: str
    ) -> None:
        job = request.job
        self._request, self._zoo, self._labels = request, zoo, labels
        self._name = name_of(job, request.launch, now, random)
        self._image = job.model.image if isinstance(job, JobSpec) else job.model.image or image_of(job)
        if zoo is not None and not request.image.image_repository:
            raise UsageError(
                "--image_repository: required and not given: where an image with the model zoo is pushed, such as "
                "registry.example.com/team/fintech (or --image, if there is an image with it)"
            )
        if zoo is None and (request.image.image_repository or request.image.base_image):
            raise UsageError(
                "--image_repository, --base_image: nothing is built, since --image is given; leave them out"
            )
        if self._name[0].isdigit():
            raise UsageError(f"--job_name: on Kubernetes it begins with a letter, got {self._name!r}")
        self._template = read_pod_template(request.cluster.pod_template)
        self._cluster = Cluster.connect(request.cluster.namespace, request.cluster.kube_context)

    def check(self) -> None:
        """Finds what would make the job fail at once; raises what `check.check` raises."""
        planned = self._prepared(self._image or self._planned_image()[0])
        check.check(self._request, self._zoo, planned.objects.worker)

    def __str__(self) -> str:
        """The manifests, for `kubectl apply -f -`."""
        image, notes = (self._image, "") if self._image else self._planned_image()
        made = self._prepared(image)
        return made.objects.to_yaml(self._comment(made) + notes)

    def start(self, display: Silent, leave: bool) -> JobHandle:
        """Builds the image, submits the job, and says where to look at it; it outlives this process anyway."""
        job = submit(self._prepared(self._image or self._built_image(display.stage)), self._cluster)
        display.note(f"job {job.name} is submitted to namespace {job.namespace} of {self._cluster.host}")
        service = f"/api/v1/namespaces/{job.namespace}/services/https:{job.name}:dashboard/proxy/"
        display.note(f"dashboard: edl dashboard {job.words}, or by the API server: {self._cluster.host}{service}")
        return job

    def _built_image(self, tell: Tell) -> str:
        from launcher.image import builder

        assert self._zoo is not None
        settings = self._request.image
        return builder.build(self._zoo, settings.image_repository, settings.base_image, tell, self._labels)

    def _planned_image(self) -> tuple[str, str]:
        """What the image would be called, and what a dry run says about it."""
        from launcher.image import builder

        assert self._zoo is not None
        settings = self._request.image
        plan = builder.plan_zoo(self._zoo, settings.image_repository, settings.base_image, os.environ, self._labels)
        return (
            plan.name,
            f"\nThe image is not built yet: leave --dry_run out, or run edl image push.\n{plan.describe()}",
        )

    def _prepared(self, image: str) -> Submission:
        zoo = cluster.CUSTOM_ZOO if self._zoo else ""
        request = dataclasses.replace(self._request, job=job_in_pods(self._request.job, image, zoo))
        namespace = self._cluster.namespace
        certificate = make_certificate(self._name, namespace, datetime.now(timezone.utc))
        found = Found(self._name, namespace, image, secrets.token_urlsafe(32), certificate, self._template)
        return prepare(request, found, self._cluster)

    def _comment(self, made: Submission) -> str:
        name, namespace = made.found.name, made.found.namespace
        return (
            f"job {name} in namespace {namespace}\n"
            "kubectl apply -f THIS_FILE starts it, kubectl delete -f THIS_FILE removes all of it;\n"
            f"edl status {name} --namespace={namespace} follows it.\n"
            "Its Secret was made for this dry run alone; keep it to yourself."
        )


def image_of(job: TaskSpec) -> str:
    """The image in which a model was trained, by its message.

    Raises:
        UsageError: it was trained without one, or its folder cannot be read from here.
    """
    url = job.model.trained_model
    needed = "--image: required here, an image with the model's code"
    try:
        message = trained_model_pb2.TrainedModel.FromString(storage.read_bytes(storage.join(url, bundle.MESSAGE)))
    except StorageError as error:
        raise UsageError(f"{needed}: which one it was trained in cannot be read from this machine: {error}") from None
    except ValueError:
        raise UsageError(f"--trained_model: {url} has a damaged {bundle.MESSAGE}") from None
    if not message.docker_commit_id:
        raise UsageError(f"{needed}: {url} was trained without one")
    return message.docker_commit_id.removeprefix(PULLABLE)
