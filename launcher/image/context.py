"""Chooses what an image is built of: nothing secret enters it, and an unchanged zoo gives the very same image."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import IO

from edl_allreduce.errors import UsageError
from edl_allreduce.storage_ranges import local_errors

REQUIREMENTS = "requirements.txt"
IGNORED = (
    *("**/.git", "**/.hg", "**/.svn", "**/.dockerignore", "**/.gitignore", "**/.DS_Store"),
    *("**/__pycache__", "**/*.py[cod]", "**/.venv", "**/venv", "**/*.egg-info", "**/.ipynb_checkpoints"),
    *("**/.mypy_cache", "**/.pytest_cache", "**/.ruff_cache", "**/.idea", "**/.vscode", "**/node_modules"),
    *("**/*.recordio", "**/*.tfrecord"),
)
"""What no zoo needs in an image, as .dockerignore writes it; the zoo's own .dockerignore comes after it."""

SECRET_NAMES = (
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", ".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".gcloud"),
    *(
        ".netrc",
        "_netrc",
        ".pypirc",
        ".pgpass",
        ".my.cnf",
        ".git-credentials",
        ".htpasswd",
        ".boto",
        ".s3cfg",
        ".npmrc",
    ),
    *(
        "kubeconfig",
        "credentials",
        "credentials.json",
        "application_default_credentials.json",
        "pip.conf",
        ".vault-token",
    ),
)
"""Names of files and folders that hold keys or passwords; no .dockerignore brings them back."""

SECRET_TEXT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----\s+[A-Za-z0-9+/=:\s-]{40,}"
    rb"|\"private_key\":\s*\"-----BEGIN|aws_secret_access_key\s*=\s*[\"']?[A-Za-z0-9+/]{40}"
)
SEARCHED_BYTES = 200_000  # of a file, for what is secret
LARGE_BYTES, MAX_BYTES = 100_000_000, 10_000_000_000
MADE = 315532800  # 1980-01-01: the first time that a zip file can express


@dataclass(frozen=True)
class Entry:
    """A file of a build context; `content` is a local file, or bytes made here."""

    name: str
    content: Path | bytes
    executable: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def open(self) -> IO[bytes]:
        """The content, from its beginning."""
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content.open("rb")


@dataclass(frozen=True)
class Context:
    """The files that Docker gets.

    Attributes:
        entries: sorted by name.
        secret: files that were left out since they look like keys or passwords.
        outside: symbolic links that were left out since they lead out of the zoo.
    """

    entries: tuple[Entry, ...]
    secret: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.entries)

    @cached_property
    def digest(self) -> str:
        """A hash of all names and contents."""
        whole = hashlib.sha256()
        for entry in self.entries:
            with entry.open() as file:
                content = hashlib.sha256()
                while block := file.read(1 << 20):
                    content.update(block)
            whole.update(f"{entry.name}\0{entry.executable}\0{content.hexdigest()}\n".encode())
        return whole.hexdigest()

    def tar(self) -> IO[bytes]:
        """A tar archive in which nothing but names and contents makes a difference."""
        archive = tempfile.TemporaryFile(prefix="edl-context-")  # noqa: SIM115 (the caller closes it)
        with tarfile.open(mode="w", fileobj=archive, format=tarfile.PAX_FORMAT) as tar:
            for entry in self.entries:
                about = tarfile.TarInfo(entry.name)
                about.size, about.mtime, about.mode = entry.size, MADE, 0o755 if entry.executable else 0o644
                with entry.open() as file:
                    tar.addfile(about, file)
        archive.seek(0)
        return archive

    def remarks(self, zoo: str) -> list[str]:
        """What whoever builds an image of `zoo` should know about what goes into it."""
        lines = []
        if self.secret:
            lines.append(f"left out, since they look like keys or passwords: {_some(self.secret)}")
        if self.outside:
            lines.append(f"left out, since these symbolic links lead out of {zoo}: {_some(self.outside)}")
        if self.size > LARGE_BYTES:
            largest = sorted(self.entries, key=lambda entry: -entry.size)[:3]
            named = ", ".join(f"{entry.name.removeprefix('zoo/')} ({entry.size / 1e6:.0f} MB)" for entry in largest)
            lines.append(
                f"warning: {zoo} brings {self.size / 1e6:,.0f} MB into the image, above all {named}; "
                f"name what is not code in {zoo}/.dockerignore"
            )
        return lines


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def ignore_patterns(zoo: Path) -> list[str]:
    """What is left out of an image of a zoo: our patterns, then those of its .dockerignore."""
    file = zoo / ".dockerignore"
    own: list[str] = []
    if file.is_file():
        with local_errors(str(file)):
            own = file.read_text(encoding="utf-8-sig").splitlines()
    return [*IGNORED, *(line.strip() for line in own if line.strip() and not line.startswith("#"))]


def zoo_context(zoo: Path, listed: Iterable[str], dockerfile: bytes) -> Context:
    """What an image of a zoo is built of.

    Args:
        zoo: the folder.
        listed: paths in it, relative to it, that no pattern leaves out.
        dockerfile: the text of zoo.Dockerfile.

    Raises:
        UsageError: no file is left, or too much, or requirements.txt names a file that is not there.
        StorageError: a file cannot be read.
    """
    files, secret, outside = [], [], []
    root = zoo.resolve()
    for name in sorted(listed):
        path = zoo / name
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            outside.append(name)
        elif path.is_file():
            with local_errors(str(path)):
                hidden = is_secret(name) or _holds_secret(path)
                executable = bool(path.stat().st_mode & 0o100)
            if hidden:
                secret.append(name)
            else:
                files.append(Entry(f"zoo/{name}", path, executable))
    if not files:
        raise UsageError(f"{zoo}: no file to put into an image; is it the model zoo, and what does .dockerignore say?")
    if (size := sum(entry.size for entry in files)) > MAX_BYTES:
        raise UsageError(
            f"{zoo}: {size / 1e9:,.0f} GB are too much for an image; is it the model zoo? Its .dockerignore names "
            "what to leave out"
        )
    made = [Entry("Dockerfile", dockerfile), *_requirements(zoo, {entry.name[4:] for entry in files})]
    return Context(tuple(sorted([*files, *made], key=lambda entry: entry.name)), tuple(secret), tuple(outside))


def is_secret(name: str) -> bool:
    """Whether the name of a file, or of a folder above it, is one of those that keep secrets."""
    return any(fnmatch(part.lower(), pattern) for part in name.split("/") for pattern in SECRET_NAMES)


def _holds_secret(path: Path) -> bool:
    with path.open("rb") as file:
        return bool(SECRET_TEXT.search(file.read(SEARCHED_BYTES)))


def _requirements(zoo: Path, there: set[str]) -> list[Entry]:
    """requirements.txt, empty if the zoo has none, and the files that it includes, for a layer of their own."""
    if REQUIREMENTS not in there:
        return [Entry(f"requirements/{REQUIREMENTS}", b"")]
    wanted, found = [REQUIREMENTS], {}
    while wanted:
        name = wanted.pop()
        with local_errors(str(zoo / name)):
            found[name] = Entry(f"requirements/{name}", (zoo / name).read_bytes())
        for included in included_files(found[name].open().read().decode(errors="replace")):
            path = (Path(name).parent / included).as_posix()
            if path not in there:
                raise UsageError(f"{zoo / name}: includes {included}, which is not among the files of the image")
            if path not in found:
                wanted.append(path)
    return list(found.values())


def included_files(requirements: str) -> list[str]:
    """The local files that the text of a requirements.txt includes by -r and -c."""
    found = re.findall(r"^\s*(?:-r|-c|--requirement|--constraint)(?:\s+|=)?(\S+)", requirements, re.MULTILINE)
    return [name for name in found if "://" not in name]
