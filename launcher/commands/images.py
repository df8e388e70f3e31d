"""What `edl image build`, `edl image push` and `edl image base` do. The docstrings are their help texts."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from edl_allreduce.errors import UsageError
from launcher import zoo_source
from launcher.commands.arguments import boolean
from launcher.image import builder


def image_build(
    *,
    model_zoo: str,
    image_repository: str = "",
    base_image: str = "",
    push: str | bool = True,
    dry_run: str | bool = False,
) -> None:
    """Builds the image with a model zoo and pushes it; prints its name, pinned, for --image.

    --model_zoo         folder of the models, or the URL of a Git repository: https://host/team/repo.git@v1#folder
    --image_repository  where it is pushed: registry.example.com/team/name, or with a tag of your own behind a colon;
                        `docker login` says who you are
    --base_image        image to put the zoo on, one of `edl image base` or made from one (default: that of this
                        version, made when it is not there)
    --nopush            only build; prints the name that the Docker engine knows
    --dry_run           print the Dockerfile, the files and the name; build nothing

    What .dockerignore names is left out, and so is what looks like keys or passwords. Pods start from what is pushed.

    Example:
      edl image build --model_zoo=fintech --image_repository=registry.example.com/team/fintech
    """
    pushed = boolean("push", push)
    plan = _plan(model_zoo, image_repository or ("" if pushed else _local_name(model_zoo)), base_image)
    _make(plan, boolean("dry_run", dry_run), pushed)


def image_push(*, model_zoo: str, image_repository: str, base_image: str = "") -> None:
    """Pushes the image that `edl image build --nopush` built from the same files; prints its name, pinned.

    --model_zoo         as for edl image build
    --image_repository  as for edl image build
    --base_image        as for edl image build

    Example:
      edl image push --model_zoo=fintech --image_repository=registry.example.com/team/fintech
    """
    plan = _plan(model_zoo, image_repository, base_image)
    with builder.engine() as client:
        if not builder.has(client, plan.name):
            raise UsageError(
                f"{plan.name}: the Docker engine has no such image; the zoo has changed since it was built, or was "
                "never built: edl image build"
            )
        print(builder.push(client, plan.repository, plan.tag, _tell))


def image_base(
    *, image_repository: str = "", gpu: str | bool = False, python_image: str = "", dry_run: str | bool = False
) -> None:
    """Builds the base image (TensorFlow, Horovod, edl_allreduce, its models), and pushes it where that is asked for.

    --image_repository  push it there; others then name it by --base_image and need not build it
    --gpu               for nodes with NVIDIA GPUs (not tried yet: docs/images.md)
    --python_image      what it begins with (default: $EDL_PYTHON_IMAGE, else python:3.11-slim)
    --dry_run           print the Dockerfile, the files and the name; build nothing

    It takes minutes, once for each version of edl_allreduce; after a change of ours, seconds.

    Example:
      edl image base --image_repository=registry.example.com/team/edl-allreduce
    """
    environ = os.environ | ({"EDL_PYTHON_IMAGE": python_image} if python_image else {})
    plan = builder.plan_base(boolean("gpu", gpu), image_repository, environ)
    _make(plan, boolean("dry_run", dry_run), bool(image_repository))


def _plan(model_zoo: str, repository: str, base: str) -> builder.Plan:
    folder = zoo_source.fetch(model_zoo, os.environ)
    return builder.plan_zoo(folder, repository, base, os.environ, zoo_source.labels(model_zoo, folder, os.environ))


def _make(plan: builder.Plan, dry_run: bool, pushed: bool) -> None:
    """Builds what is planned, and prints its name; only the plan in a dry run."""
    if dry_run:
        print(plan.describe())
        return
    with builder.engine() as client:
        builder.make(client, plan, _tell)
        print(builder.push(client, plan.repository, plan.tag, _tell) if pushed else plan.name)


def _local_name(model_zoo: str) -> str:
    """A name for an image that stays here."""
    return re.sub(r"[^a-z0-9]+", "-", Path(model_zoo).resolve().name.lower()).strip("-") or "zoo"


def _tell(line: str) -> None:
    """The result alone goes to the standard output, so that scripts can use it."""
    print(line, file=sys.stderr, flush=True)
