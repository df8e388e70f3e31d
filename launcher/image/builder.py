"""Builds and pushes the image with a user's model zoo, since pods can only run what a registry holds."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edl_allreduce import __version__
from edl_allreduce.errors import EdlError, UsageError
from edl_allreduce.extras import need
from launcher.image.context import Context, ignore_patterns, zoo_context
from launcher.image.package import base_context, base_dockerfile, base_tag, dockerfile
from launcher.image.report import Report, engine_error, innermost

if TYPE_CHECKING:
    from docker import DockerClient

ZOO_DOCKERFILE = "zoo.Dockerfile"
BASE_REPOSITORY = "edl-allreduce"
PIP_SETTINGS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")
ANSWER_SECONDS, SILENT_SECONDS = 20, 3600  # an engine that is asked something; one that builds or pushes
NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
HOST = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:\d))(?::\d+)?"
REFERENCE = re.compile(rf"(?P<repository>(?:{HOST}/)?{NAME}(?:/{NAME})*)(?::(?P<tag>[\w][\w.-]{{0,127}}))?")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """An image that is to be built.

    Attributes:
        what: for people.
        dockerfile: the name of its Dockerfile among ours.
        repository, tag: its name.
        base: the image it begins with; empty: the Dockerfile says.
        arguments: build arguments besides the base.
        labels: as OCI recommends them.
    """

    what: str
    dockerfile: str
    repository: str
    tag: str
    context: Context
    base: str = ""
    arguments: Mapping[str, str] | None = None
    labels: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """REPOSITORY:TAG."""
        return f"{self.repository}:{self.tag}"

    def describe(self) -> str:
        """What would be built, for people."""
        texts = {entry.name: entry for entry in self.context.entries}
        lines = [
            f"{self.what}: {self.name}",
            *([f"base image: {self.base}"] if self.base else []),
            f"Dockerfile ({self.dockerfile}):",
        ]
        with texts["Dockerfile"].open() as file:
            lines += [f"    {line}" for line in file.read().decode().splitlines()]
        lines += [f"context, {len(texts)} files, {self.context.size:,} bytes:"]
        lines += [f"    {entry.size:>12,}  {name}" for name, entry in texts.items()]
        return "\n".join([*lines, *self.context.remarks(self.what)])


def build(zoo: Path, repository: str, base: str, tell: Tell, labels: Mapping[str, str] | None = None) -> str:
    """Builds the image of a zoo, pushes it, and returns it pinned, as REPO@sha256:….

    Args:
        zoo: the folder.
        repository: where it is pushed; its tag, if it has none, is made of its content.
        base: image to begin with; empty: our own, made now if it is not there.
        tell: gets short lines of what goes on.
        labels: of the image, besides ours.

    Raises:
        UsageError: what the user can change: no engine, no or a wrong repository, a requirement that cannot be had.
        EdlError: the engine failed.
    """
    plan = plan_zoo(zoo, repository, base, os.environ, labels)
    with engine() as client:
        make(client, plan, tell)
        return push(client, plan.repository, plan.tag, tell)


def describe(zoo: Path, repository: str, base: str) -> str:
    """What `build` would build, for people; the engine is not asked."""
    return plan_zoo(zoo, repository, base, os.environ, None).describe()


def plan_zoo(
    zoo: Path, repository: str, base: str, environ: Mapping[str, str], labels: Mapping[str, str] | None
) -> Plan:
    """The image of a zoo. Raises as `build`."""
    if not zoo.is_dir():
        raise UsageError(f"--model_zoo: {zoo} is {'no folder' if zoo.exists() else 'not there'}")
    place, tag = split_reference(repository)
    base = base or plan_base(False, "", environ).name
    matcher = need("docker.utils.build", "docker", "building an image").PatternMatcher(ignore_patterns(zoo))
    listed = (name for name in matcher.walk(str(zoo)) if name != ".dockerignore")
    context = zoo_context(zoo, listed, dockerfile(ZOO_DOCKERFILE))
    made = hashlib.sha256(f"{base}\n{context.digest}".encode()).hexdigest()[:12]
    about = _labels(f"model zoo {zoo.resolve().name}", base) | dict(labels or {})
    arguments = {"BASE_IMAGE": base, **_pip_settings(environ, secret=False)}
    return Plan(f"image of {zoo.resolve().name}", ZOO_DOCKERFILE, place, tag or made, context, base, arguments, about)


def plan_base(gpu: bool, repository: str, environ: Mapping[str, str]) -> Plan:
    """Our base image, of this very installation.

    Args:
        gpu: for nodes with GPUs.
        repository: empty: it stays in the engine.
    """
    place, tag = split_reference(repository) if repository else (BASE_REPOSITORY, "")
    context = base_context(gpu, environ)
    chosen = {"PYTHON_IMAGE": environ["EDL_PYTHON_IMAGE"]} if environ.get("EDL_PYTHON_IMAGE") and not gpu else {}
    platform = environ.get("DOCKER_DEFAULT_PLATFORM", "")
    made = base_tag(context, chosen | {"platform": platform}) + ("-gpu" if gpu else "")
    arguments = chosen | _pip_settings(environ, secret=True)
    return Plan(
        "base image", base_dockerfile(gpu), place, tag or made, context, "", arguments, _labels("edl_allreduce", "")
    )


def split_reference(reference: str, flag: str = "image_repository") -> tuple[str, str]:
    """The repository and the tag of an image's name; the tag is empty if it has none.

    Raises:
        UsageError: it is empty, or cannot be pushed to.
    """
    if not reference:
        raise UsageError(
            "--image_repository: not given; it is where the image is pushed: registry.example.com/team/name"
        )
    found = REFERENCE.fullmatch(reference)
    if not found:
        example = "lower case, such as registry.example.com/team/name, or with a tag, registry.example.com/team/name:v1"
        raise UsageError(f"--{flag}: {reference!r} is no name of an image; expected {example}")
    return found["repository"], found["tag"] or ""


def _labels(title: str, base: str) -> dict[str, str]:
    prefix = "org.opencontainers.image"
    told = {f"{prefix}.title": title, f"{prefix}.version": __version__}
    return told | ({f"{prefix}.base.name": base} if base else {})


def _pip_settings(environ: Mapping[str, str], secret: bool) -> dict[str, str]:
    """Where pip finds packages; with passwords only for a stage of which nothing but files is taken.

    The history of an image shows the arguments of its last stage.
    """
    found = {name: environ[name] for name in PIP_SETTINGS if environ.get(name)}
    return {name: value for name, value in found.items() if secret or not any(map(_password, value.split()))}


def _password(url: str) -> bool:
    return "@" in urlsplit(url).netloc


@contextmanager
def engine() -> Iterator[DockerClient]:
    """The Docker engine that the `docker` command would use; what it answers wrongly is raised as our errors.

    Raises:
        UsageError: it cannot be reached.
    """
    docker = need("docker.client", "docker", "building an image")
    errors, requests = need("docker.errors", "docker", "building an image"), need("requests", "docker", "docker")
    stores = need("docker.credentials.errors", "docker", "building an image")
    address, tls = _address()
    where = f"the Docker engine at {address}"
    try:
        client = docker.DockerClient(base_url=address, tls=tls, timeout=ANSWER_SECONDS, version="auto")
    except (errors.DockerException, requests.RequestException, OSError) as error:
        raise UsageError(
            f"{where} does not answer ({innermost(error)}): start it, or set DOCKER_HOST; with --image=… none is needed"
        ) from error
    client.api.timeout = SILENT_SECONDS
    try:
        yield client
    except errors.APIError as error:
        raise engine_error(where, str(error.explanation or error)) from error
    except stores.StoreError as error:
        raise UsageError(f"credentials of ~/.docker/config.json cannot be used ({error}): docker login") from error
    except (errors.DockerException, requests.RequestException) as error:
        raise EdlError(f"{where} broke off: {innermost(error)}; build again") from error
    finally:
        client.close()


def _address() -> tuple[str, Any]:
    """Where the engine is, and its TLS settings: by DOCKER_HOST, or else by what `docker context use` chose."""
    if os.environ.get("DOCKER_HOST"):
        found = need("docker.utils", "docker", "building an image").kwargs_from_env()
        return found["base_url"], found.get("tls") or False
    chosen = need("docker.context", "docker", "building an image").ContextAPI.get_current_context()
    return chosen.Host, chosen.TLSConfig or False


def make(client: DockerClient, plan: Plan, tell: Tell) -> None:
    """Builds an image; of a zoo's base, only what is not there yet."""
    for line in plan.context.remarks(plan.what):
        tell(line)
    if plan.base:
        _provide_base(client, plan.base, tell)
    report = Report(plan.what, tell, plan.dockerfile)
    with plan.context.tar() as archive:
        stream = client.api.build(
            fileobj=archive,
            custom_context=True,
            tag=plan.name,
            buildargs=dict(plan.arguments or {}),
            labels=dict(plan.labels or {}),
            platform=os.environ.get("DOCKER_DEFAULT_PLATFORM") or None,
            use_config_proxy=True,
            rm=True,
            forcerm=True,
            decode=True,
        )
        report.follow(stream)
    tell(f"{plan.what}: built {plan.name}")


def _provide_base(client: DockerClient, base: str, tell: Tell) -> None:
    """Makes our own base image, or pulls another one, unless the engine has it."""
    if has(client, base):
        return
    own = plan_base(False, "", os.environ)
    if base == own.name:
        tell(f"base image {base}: made once, which takes some minutes")
        make(client, own, tell)
        return
    what = f"base image {base}"
    report = Report(what, tell)
    name, at, digest = base.partition("@")
    repository, tag = split_reference(name, "base_image")
    try:
        report.follow(client.api.pull(repository, digest if at else tag or "latest", stream=True, decode=True))
    except need("docker.errors", "docker", "building an image").APIError as error:
        raise engine_error(what, str(error.explanation or error)) from error


def has(client: DockerClient, image: str) -> bool:
    """Whether the engine has an image."""
    errors = need("docker.errors", "docker", "building an image")
    try:
        client.images.get(image)
    except errors.ImageNotFound:
        return False
    return True


def push(client: DockerClient, repository: str, tag: str, tell: Tell) -> str:
    """Pushes an image with the credentials of Docker's own configuration; returns REPO@sha256:….

    Raises:
        UsageError: the registry refuses it or cannot be reached.
    """
    tell(f"pushing {repository}:{tag}")
    report = Report(f"{repository}:{tag}", tell)
    messages: Any = client.api.push(repository, tag, stream=True, decode=True)
    report.follow(messages)
    if not report.digest:
        raise EdlError(f"{repository}:{tag}: the engine told no digest of what it pushed; push again")
    tell(f"pushed {repository}@{report.digest}")
    return f"{repository}@{report.digest}"
