"""Images for tests, made by a real Docker engine; a test that needs what there is not is skipped and says so.

EDL_TEST_BASE_IMAGE   stands in for python:3.11-slim
EDL_TEST_REGISTRY     a registry that the engine may push to
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from edl_allreduce.errors import UsageError
from launcher.image import builder

SLIM = "edl-test/python:3.11-slim"
COMPILERS = ("g++", "gcc", "cpp", "make", "git")


@contextmanager
def engine() -> Iterator[Any]:
    """The Docker engine of this machine."""
    with ExitStack() as opened:
        try:
            client = opened.enter_context(builder.engine())
        except UsageError as error:
            pytest.skip(f"no Docker engine: {error}")
        yield client


def registry() -> str:
    """Where images are pushed."""
    return os.environ.get("EDL_TEST_REGISTRY") or pytest.skip("EDL_TEST_REGISTRY is not set")


def python_image(client: Any) -> str:
    """An image with Python 3.11 and no compiler; what stands in for Docker's may have one, which is taken away."""
    if builder.has(client, SLIM):
        return SLIM
    name = os.environ.get("EDL_TEST_BASE_IMAGE", "python:3.11-slim")
    if not builder.has(client, name):
        pytest.skip(f"the Docker engine has no {name}; EDL_TEST_BASE_IMAGE may name what stands in for it")
    remove = f"apt-get purge -y --auto-remove {' '.join(COMPILERS)}; rm -rf /var/lib/apt/lists/*"
    container = client.containers.run(name, ["sh", "-c", remove], detach=True)
    try:
        container.wait()
        settings = [f"ENV {each}" for each in container.image.attrs["Config"]["Env"] or ()]
        repository, _, tag = SLIM.partition(":")
        with tempfile.NamedTemporaryFile() as whole:  # flattened: no layer below has what was removed
            for block in container.export():
                whole.write(block)
            whole.flush()
            client.api.import_image_from_file(whole.name, repository, tag, changes=settings)
    finally:
        container.remove(force=True)
    return SLIM


def base(client: Any, repository: str = "") -> builder.Plan:
    """Our base image, built now if the engine has no such one; that takes minutes."""
    environ: Mapping[str, str] = dict(os.environ) | {"EDL_PYTHON_IMAGE": python_image(client)}
    plan = builder.plan_base(False, repository, environ)
    if not builder.has(client, plan.name):
        builder.make(client, plan, print)
    return plan


def pushed_base() -> str:
    """Our base image, as the nodes of a cluster can pull it: REGISTRY/edl-allreduce@sha256:…."""
    with engine() as client:
        plan = base(client, f"{registry()}/edl-allreduce")
        return builder.push(client, plan.repository, plan.tag, print)
