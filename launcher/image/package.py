"""Puts together what the base image is built of: this very installation of edl_allreduce, a checkout or not."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from edl_allreduce import __version__
from edl_allreduce.errors import UsageError
from edl_allreduce.horovod_recipe import HOROVOD, SDIST_SHA256, patches_digest
from edl_allreduce.horovod_wheel import cache_folder
from edl_allreduce.storage_ranges import local_errors
from launcher.image.context import Context, Entry

SITE = Path(__file__).resolve().parents[2]
DOCKERFILES = Path(__file__).resolve().parent / "dockerfiles"
PACKAGES = ("edl_allreduce", "launcher", "model_zoo", "rendezvous")
COMPILES_HOROVOD = (
    *("__init__", "build_log", "errors"),
    *sorted(path.stem for path in (SITE / "edl_allreduce").glob("horovod_*.py")),
)
EXTRAS = ("gcs", "kubernetes", "parquet", "s3", "sql")
CPU, GPU = "worker", "worker-gpu"  # the extra that brings TensorFlow


def dockerfile(name: str) -> bytes:
    """The text of one of our Dockerfiles.

    Raises:
        StorageError: this installation lacks it.
    """
    with local_errors(str(DOCKERFILES / name)):
        return (DOCKERFILES / name).read_bytes()


def base_dockerfile(gpu: bool) -> str:
    """The name of the base image's Dockerfile."""
    return "gpu.Dockerfile" if gpu else "Dockerfile"


def base_context(gpu: bool, environ: Mapping[str, str]) -> Context:
    """What the base image is built of; the Horovod wheels of the local cache are in it as seeds.

    Raises:
        UsageError: edl_allreduce is not installed, only its files are there.
        StorageError: a file cannot be read.
    """
    needed = requirements((GPU if gpu else CPU, *EXTRAS), _distribution().requires or ())
    entries = [
        Entry("Dockerfile", dockerfile(base_dockerfile(gpu))),
        Entry("requirements.txt", "".join(f"{line}\n" for line in needed).encode()),
        *(
            Entry(f"horovod/edl_allreduce/{name}.py", SITE / "edl_allreduce" / f"{name}.py")
            for name in COMPILES_HOROVOD
        ),
        Entry(f"dist/edl_allreduce-{__version__}-py3-none-any.whl", wheel()),
        *(Entry(name, SITE / name) for name in package_files("model_zoo")),
        Entry("seed/README", b"Horovod wheels that were compiled elsewhere, each in a folder named by its recipe.\n"),
        *seeds(cache_folder(environ)),
    ]
    return Context(tuple(sorted(entries, key=lambda entry: entry.name)))


def base_tag(context: Context, settings: Mapping[str, str]) -> str:
    """The tag of the base image: our version, and a digest of all that makes a difference to it.

    A seed makes none, since it is what would be compiled otherwise.
    """
    kept = Context(tuple(entry for entry in context.entries if not entry.name.startswith("seed/")))
    whole = json.dumps([kept.digest, sorted(settings.items())])
    return f"{__version__}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"


def requirements(extras: Iterable[str], stated: Iterable[str]) -> list[str]:
    """What an installation with some extras needs, as lines of a requirements.txt.

    Args:
        extras: names.
        stated: the package's own `Requires-Dist`.
    """
    wanted, lines = set(extras), set()
    for line in stated:
        extra = re.search(r"(?:;| and) *extra *== *[\"'](.+?)[\"']$", line)
        if extra is None:
            lines.add(line)
        elif extra[1] in wanted:
            lines.add(line[: extra.start()])
    return sorted(lines)


def package_files(package: str) -> Iterator[str]:
    """The files of one of our packages, relative to the folder that holds it, sorted."""
    for folder, folders, names in os.walk(SITE / package, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
        here = Path(folder).relative_to(SITE)
        for name in sorted(names):
            if not name.startswith(".") and not name.endswith((".pyc", ".pyo")):
                yield (here / name).as_posix()


def wheel() -> bytes:
    """A wheel of this installation's files, the same bytes for the same files."""
    about = _distribution()
    info = f"edl_allreduce-{__version__}.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: edl_allreduce\nVersion: {__version__}"]
    lines += [f"Provides-Extra: {name}" for name in about.metadata.get_all("Provides-Extra") or ()]
    lines += [f"Requires-Dist: {line}" for line in about.requires or ()]
    with local_errors(str(SITE)):
        files = {name: (SITE / name).read_bytes() for package in PACKAGES for name in package_files(package)}
    files |= {
        f"{info}/METADATA": ("\n".join(lines) + "\n").encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: edl_allreduce\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": (about.read_text("entry_points.txt") or "").encode(),
    }
    record = "".join(f"{name},sha256={_hash(content)},{len(content)}\n" for name, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            place = zipfile.ZipInfo(name)  # of 1980-01-01
            place.external_attr = 0o644 << 16
            archive.writestr(place, content, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("edl_allreduce")
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(f"edl_allreduce lies in {SITE} but is not installed: pip install {SITE}") from None


def seeds(cache: Path) -> list[Entry]:
    """The wheels of a local cache that a build of the base image may find to be its own.

    Each stays in the folder named by the key of its recipe, so that the image's own recipe decides. Those of another
    Horovod, of other changes to it, or in a folder that their recipe does not name cannot be it, and are left out.
    """
    found = []
    for recipe in sorted(cache.glob("*/recipe.json")):
        try:
            text = recipe.read_text(encoding="utf-8")
            about = json.loads(text)
            wheels = [(path, path.read_bytes()) for path in sorted(recipe.parent.glob("*.whl"))]
        except (OSError, ValueError):
            continue
        same = (HOROVOD, SDIST_SHA256, patches_digest())
        if (about.get("horovod"), about.get("sdist"), about.get("patches")) != same:
            continue
        if hashlib.sha256(text.encode()).hexdigest()[:16] == recipe.parent.name:
            found += [Entry(f"seed/{recipe.parent.name}/{path.name}", content) for path, content in wheels]
    return found
