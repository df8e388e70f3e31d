"""Finds the folder of a model zoo, and clones it first when it is named by the URL of a Git repository.

    https://host/team/repo.git                     the default branch
    https://host/team/repo.git@v1.2                a branch, a tag or a commit
    https://host/team/repo.git@v1.2#models/fraud   a folder in it; also @v1.2//models/fraud, and with pip's
                                                   git+ before and #subdirectory= behind
    ssh://git@host/team/repo.git, git@host:team/repo.git, file:///srv/repo.git     likewise

A clone has no history. It is kept in EDL_HOME/zoos under its commit; the same commit is never fetched again.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edl_allreduce.errors import StorageError, UsageError
from edl_allreduce.job_folder import home
from edl_allreduce.storage_ranges import local_errors

URL = re.compile(r"(?:git\+)?(?P<host>(?:https?|ssh|git|file)://[^/]*/|[\w.+-]+@[\w.-]+:(?!//))(?P<path>.+)", re.DOTALL)
COMMIT = re.compile(r"[0-9a-f]{40}")
NO_NETWORK = re.compile(
    r"resolve host|Couldn't connect|Could not connect|Connection (refused|reset|timed out)|unreachable|timed out"
    r"|too slow|Name or service not known",
    re.IGNORECASE,
)
TIMEOUT_SECONDS = 1800
SILENCE = ("-c", "http.lowSpeedLimit=100", "-c", "http.lowSpeedTime=60", "-c", "core.askPass=")


@dataclass(frozen=True)
class GitZoo:
    """A model zoo in a Git repository.

    Attributes:
        url: what `git` understands.
        ref: branch, tag or commit; empty: the default branch.
        folder: in the repository; empty: its root.
    """

    url: str
    ref: str = ""
    folder: str = ""

    @property
    def shown(self) -> str:
        """The URL without passwords, for messages."""
        return without_password(self.url)


def without_password(text: str) -> str:
    """A text in which the URLs have no user and no password; the user of ssh stays."""
    hidden = re.sub(r"((?:https?|git|file)://)[^/@\s]*@", r"\1", text)
    return re.sub(r"(ssh://[^:/@\s]*):[^/@\s]*@", r"\1@", hidden)


def parse(model_zoo: str) -> GitZoo | None:
    """The repository that a URL names; None for a local folder.

    Raises:
        UsageError: the URL names no repository, or a folder out of it.
    """
    found = URL.fullmatch(model_zoo)
    if not found:
        return None
    path, _, folder = found["path"].partition("#")
    path, slashes, inner = path.partition("//")
    if slashes and not folder:
        inner, at, ref = inner.partition("@")
        folder, path = inner, f"{path}{at}{ref}"
    folder = folder.removeprefix("subdirectory=").strip("/")
    path, ref = _cut_ref(path)
    shown = without_password(model_zoo)
    if not path.strip("/"):
        raise UsageError(f"--model_zoo: {shown} names no repository; expected https://host/team/repo.git@ref#folder")
    if ".." in PurePosixPath(folder).parts:
        raise UsageError(f"--model_zoo: {shown}: the folder {folder} leads out of the repository")
    if ref.startswith("-") or re.search(r"[\s~^:?*\[\\]|\.\.", ref):
        raise UsageError(f"--model_zoo: {shown}: {ref!r} is no name of a branch, a tag or a commit")
    return GitZoo(found["host"] + path, ref, folder)


def _cut_ref(path: str) -> tuple[str, str]:
    """A path and what stands behind its @; one at the beginning of a name belongs to the name."""
    found = re.match(r"(.+?\.git)@(.+)$", path) or re.match(r"(.*[^/])@([^@]+)$", path)
    return (found[1], found[2]) if found else (path, "")


def fetch(model_zoo: str, environ: Mapping[str, str]) -> Path:
    """The local folder of a model zoo; a repository is cloned, unless its commit is there already.

    Never asks for a password: what `git` needs must be in its credential helper, in ssh's agent or in the URL.

    Args:
        model_zoo: a folder or the URL of a repository.
        environ: of the process; EDL_HOME says where clones are kept.

    Raises:
        UsageError: there is no `git`, no such repository, ref or folder, or no permission.
        StorageError: the network or the disk failed.
    """
    zoo = parse(model_zoo)
    if zoo is None:
        return Path(model_zoo).expanduser()
    if not shutil.which("git", path=environ.get("PATH")):
        raise UsageError(f"--model_zoo: cloning {zoo.shown} needs git, which is not there: apt-get install git")
    clone = _clone(zoo, environ)
    folder = clone / zoo.folder
    if not folder.is_dir() or not folder.resolve().is_relative_to(clone.resolve()):
        there = ", ".join(sorted(each.name for each in clone.iterdir() if each.is_dir())[:10])
        raise UsageError(f"--model_zoo: {zoo.shown} has no folder {zoo.folder}; there are: {there or 'none'}")
    return folder


def pinned(model_zoo: str, environ: Mapping[str, str]) -> str:
    """The same model zoo, at the commit that it is at now, which is fetched: no server is asked for it again.

    Args, Raises: see `fetch`. A local folder stays as it is.
    """
    zoo = parse(model_zoo)
    if zoo is None:
        return model_zoo
    commit = fetch(model_zoo, environ).relative_to(_place(zoo, environ)).parts[0]
    return f"{zoo.url}@{commit}" + (f"#{zoo.folder}" if zoo.folder else "")


def labels(model_zoo: str, folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Labels of an image, in OCI's words, that say which commit it holds; none for a local folder.

    Args:
        model_zoo: as `fetch` got it.
        folder: what `fetch` gave.
    """
    zoo = parse(model_zoo)
    if zoo is None:
        return {}
    commit = folder.relative_to(_place(zoo, environ)).parts[0]
    return {
        "org.opencontainers.image.source": zoo.shown,
        "org.opencontainers.image.revision": commit,
    }


def _place(zoo: GitZoo, environ: Mapping[str, str]) -> Path:
    """Where the clones of a repository are kept."""
    return home(environ) / "zoos" / hashlib.sha256(zoo.shown.encode()).hexdigest()[:16]


def _clone(zoo: GitZoo, environ: Mapping[str, str]) -> Path:
    place = _place(zoo, environ)
    name, commit = _resolve(zoo, environ) if not COMMIT.fullmatch(zoo.ref) else (zoo.ref, zoo.ref)
    if commit and (place / commit).is_dir():
        return place / commit
    with local_errors(str(place)):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        work = Path(tempfile.mkdtemp(prefix=".clone-", dir=place))
        try:
            commit = _check_out(zoo, name, work, environ)
            shutil.rmtree(work / ".git")
            work.chmod(0o755)
            if not (place / commit).is_dir():
                _move(work, place / commit)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return place / commit


def _move(work: Path, target: Path) -> None:
    try:
        work.rename(target)
    except OSError:
        if not target.is_dir():  # else somebody else was faster with the same
            raise


def _resolve(zoo: GitZoo, environ: Mapping[str, str]) -> tuple[str, str]:
    """The full name of a ref, and its commit; both empty for what may be the beginning of a commit."""
    wanted = [f"refs/heads/{zoo.ref}", f"refs/tags/{zoo.ref}", f"refs/tags/{zoo.ref}^{{}}"] if zoo.ref else ["HEAD"]
    lines = _git(zoo, ["ls-remote", "--", zoo.url, *wanted], environ).splitlines()
    found = {name: commit for commit, name in (line.split("\t", 1) for line in lines if "\t" in line)}
    for name in wanted[:2]:
        if name in found:
            return name, found.get(f"{name}^{{}}", found[name])
    if re.fullmatch(r"[0-9a-f]{7,39}", zoo.ref):
        return "", ""
    if not zoo.ref:
        raise UsageError(f"--model_zoo: {zoo.shown} has no commit yet")
    raise UsageError(f"--model_zoo: {zoo.shown} has no branch, tag or commit {zoo.ref}: git ls-remote {zoo.shown}")


def _check_out(zoo: GitZoo, name: str, work: Path, environ: Mapping[str, str]) -> str:
    """Puts the files of a ref into a folder; returns its commit."""
    inside = ["-C", str(work)]
    _git(zoo, [*inside, "init", "--quiet"], environ)
    everything = ["+refs/heads/*:refs/heads/edl/*", "+refs/tags/*:refs/tags/*"]
    if name:
        try:
            _git(zoo, [*inside, "fetch", "--quiet", "--depth=1", "--no-tags", "--", zoo.url, name], environ)
            name = "FETCH_HEAD"
        except UsageError:
            if name != zoo.ref:
                raise
            name = ""  # a server that gives no commit by its name alone
    if not name:
        _git(zoo, [*inside, "fetch", "--quiet", "--", zoo.url, *everything], environ)
        name = zoo.ref
    try:
        commit = _git(zoo, [*inside, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"], environ).strip()
    except StorageError:
        raise UsageError(f"--model_zoo: {zoo.shown} has no branch, tag or commit {zoo.ref}") from None
    _git(zoo, [*inside, "checkout", "--quiet", "--detach", commit], environ)
    return commit


def _git(zoo: GitZoo, words: list[str], environ: Mapping[str, str]) -> str:
    """Runs git without any question; returns what it prints.

    Raises:
        UsageError: what it says is the user's to change.
        StorageError: anything else went wrong.
    """
    ssh = environ.get("GIT_SSH_COMMAND") or "ssh"
    quiet = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "GCM_INTERACTIVE": "never",
        "GIT_SSH_COMMAND": f"{ssh} -oBatchMode=yes -oConnectTimeout=30",
        "GIT_ALLOW_PROTOCOL": "https:http:ssh:git:file",
        "LC_ALL": "C",
    }
    clean = {
        name: value for name, value in environ.items() if not name.startswith(("GIT_DIR", "GIT_WORK", "GIT_INDEX"))
    }
    try:
        done = subprocess.run(
            ["git", *SILENCE, *words],
            env=clean | quiet,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StorageError(f"--model_zoo: {zoo.shown}: git did not finish in {TIMEOUT_SECONDS} seconds") from error
    if done.returncode:
        raise failure(zoo, done.stderr)
    return done.stdout


def failure(zoo: GitZoo, said: str) -> UsageError | StorageError:
    """The error for what git complained about."""
    lines = [line for line in without_password(said).splitlines() if line.strip() and not line.startswith("hint:")]
    words = " ".join(" ".join(lines[-4:]).split())[:300]
    about = f"--model_zoo: {zoo.shown}"
    if re.search(
        r"could not read (Username|Password)|Authentication failed|Permission denied|HTTP Basic|403|401", said
    ):
        return UsageError(
            f"{about}: the server asks who you are ({words}): set up git's credential helper or an ssh key, so that "
            f"'git ls-remote {zoo.shown}' works without a question"
        )
    if "Host key verification failed" in said:
        return UsageError(f"{about}: ssh does not know this host yet: connect once by hand (ssh HOST), then again")
    if re.search(r"couldn't find remote ref|not our ref|unadvertised object|not a tree|unknown revision", said):
        return UsageError(f"{about} has no branch, tag or commit {zoo.ref}")
    if re.search(r"not found|does not appear to be a git repository|does not exist|No such file", said):
        return UsageError(f"{about}: there is no such repository ({words})")
    if NO_NETWORK.search(said):
        return StorageError(f"{about}: cannot be reached ({words}): check the network, then again")
    return StorageError(f"{about}: git failed: {words or 'without a word'}")
