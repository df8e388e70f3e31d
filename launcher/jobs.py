"""Finds jobs by their names, on this machine and on Kubernetes, so that anybody can watch, scale and stop them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from edl_allreduce.errors import EdlError, UsageError, did_you_mean
from edl_allreduce.job_folder import home
from launcher.handle import JobHandle, JobSummary
from launcher.local import jobs as local_jobs

LOCAL, KUBERNETES = "local", "kubernetes"
JOB_NAME = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"  # as Kubernetes allows it
IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


def attach(name: str, backend: str = "", namespace: str = "", kube_context: str = "") -> JobHandle:
    """A job, running or ended, whoever has started it; it goes on when this process ends.

    Args:
        name: of the job, or enough of its beginning to tell it from others; running jobs come before ended ones.
        backend: local or kubernetes; empty: what EDL_BACKEND says, else this machine, and then the cluster of the
            kubeconfig, if there is one.
        namespace: of the cluster; empty: the context's.
        kube_context: of the kubeconfig; empty: the current one.

    Raises:
        UsageError: there is no such job, or several.
    """
    where = places(backend, namespace, kube_context, os.environ)
    known: dict[str, bool] = {}
    problem = ""
    for place in where:
        at: Place = Here() if place == LOCAL else There(namespace, kube_context)
        try:
            if job := at.named(name):
                return job
            names = at.names()
        except EdlError as error:
            if len(where) == 1:
                raise
            problem = f"; {error}"
            continue
        if found := match(name, names):
            return at.attach(found)
        known |= names
    raise _unknown(name, known, where, problem)


class Place(Protocol):
    """Where there may be jobs."""

    def named(self, name: str) -> JobHandle | None:
        """The job of exactly this name."""

    def names(self) -> dict[str, bool]:
        """All jobs, and whether they run."""

    def attach(self, name: str) -> JobHandle:
        """A job that is there."""


class Here:
    """This machine."""

    def named(self, name: str) -> JobHandle | None:
        return self.attach(name) if name in local_jobs.names(os.environ) else None

    def names(self) -> dict[str, bool]:
        return {each: local_jobs.runs(each, os.environ) for each in local_jobs.names(os.environ)}

    def attach(self, name: str) -> JobHandle:
        return local_jobs.attach(name, os.environ)


class There:
    """A namespace of a cluster; the arguments are those of `attach`."""

    def __init__(self, namespace: str, kube_context: str) -> None:
        self._namespace, self._context = namespace, kube_context

    def named(self, name: str) -> JobHandle | None:
        if re.fullmatch(JOB_NAME, name):
            with contextlib.suppress(UsageError):  # then the list of all tells more
                return self.attach(name)
        return None

    def names(self) -> dict[str, bool]:
        return {each.name: not each.ended for each in self.summaries()}

    def attach(self, name: str) -> JobHandle:
        from launcher.kubernetes import api

        return api.attach(name, self._namespace, self._context)

    def summaries(self) -> list[JobSummary]:
        """A line for each job."""
        from launcher.kubernetes import api

        return api.jobs(self._namespace, self._context)


def summaries(backend: str = "", namespace: str = "", kube_context: str = "") -> tuple[list[JobSummary], list[str]]:
    """All jobs, newest first, and what people should know about places that could not be asked.

    The arguments are those of `attach`.

    Raises:
        EdlError: the only place does not answer.
    """
    found: list[JobSummary] = []
    notes: list[str] = []
    where = places(backend, namespace, kube_context, os.environ)
    for place in where:
        if place == LOCAL:
            found += local_jobs.summaries(os.environ)
            continue
        try:
            found += There(namespace, kube_context).summaries()
        except EdlError as error:
            if len(where) == 1:
                raise
            notes.append(f"jobs on Kubernetes are not listed: {error}")
    return sorted(found, key=lambda each: -each.began), notes


def places(backend: str, namespace: str, kube_context: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Where to look for jobs, in this order.

    Raises:
        UsageError: there is no such backend.
    """
    chosen = backend or environ.get("EDL_BACKEND", "") or (KUBERNETES if namespace or kube_context else "")
    if chosen not in ("", LOCAL, KUBERNETES):
        raise UsageError(f"--backend: expected local or kubernetes, got {chosen!r}")
    return (chosen,) if chosen else (LOCAL, KUBERNETES) if _has_cluster(environ) else (LOCAL,)


def _has_cluster(environ: Mapping[str, str]) -> bool:
    """Whether somebody has set this machine up for a cluster, and our client for it is installed."""
    usual = f"{environ.get('HOME', '')}/.kube/config"
    files = (environ.get("KUBECONFIG") or usual).split(os.pathsep)
    configured = any(Path(each).expanduser().is_file() for each in files if each) or IN_CLUSTER.is_file()
    return configured and importlib.util.find_spec("kubernetes") is not None


def match(name: str, running: Mapping[str, bool]) -> str | None:
    """The job that is meant by a name or its beginning.

    Args:
        running: every job's name; whether it runs.

    Raises:
        UsageError: several may be meant.
    """
    if name in running:
        return name
    alike = [each for each in running if name and each.startswith(name)]
    alike = [each for each in alike if running[each]] or alike
    if len(alike) > 1:
        raise UsageError(f"{name!r} may be {', '.join(sorted(alike))}; give more of the job's name")
    return alike[0] if alike else None


def _unknown(name: str, known: Mapping[str, bool], where: Collection[str], problem: str) -> UsageError:
    running = sorted(each for each, runs in known.items() if runs)
    now = f"running are {', '.join(running)}" if running else "no job is running"
    names = {LOCAL: str(home(os.environ) / "jobs"), KUBERNETES: "the cluster's namespace"}
    looked = " or in ".join(names[each] for each in where)
    return UsageError(
        f"there is no job {name!r} in {looked}{did_you_mean(name, known)}; {now}; edl jobs lists all{problem}"
    )
