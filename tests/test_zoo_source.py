"""Model zoos in Git repositories: real repositories, cloned by the real git; no network."""

from __future__ import annotations

import os
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from edl_allreduce.errors import EdlError, StorageError, UsageError
from launcher import zoo_source
from launcher.zoo_source import GitZoo


def git(folder: Path, *words: str) -> str:
    who = {f"GIT_{kind}_{what}": "x@example.com" for kind in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(["git", "-C", str(folder), *words], env=os.environ | who, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two commits, the first tagged v1; a branch feature/x; a folder models/fraud."""
    folder = tmp_path_factory.mktemp("git") / "zoo.git"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "models/fraud").mkdir(parents=True)
    (folder / "models/fraud/model.py").write_text("VERSION = 1\n")
    (folder / "model.py").write_text("VERSION = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    git(folder, "tag", "-a", "v1", "-m", "first")
    git(folder, "branch", "feature/x")
    (folder / "model.py").write_text("VERSION = 2\n")
    git(folder, "commit", "--quiet", "-a", "-m", "two")
    return folder


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return dict(os.environ) | {"EDL_HOME": str(tmp_path / "home")}


@pytest.mark.parametrize(
    ("model_zoo", "expected"),
    [
        ("model_zoo", None),
        ("./a@b", None),
        ("/srv/zoo", None),
        ("~/zoo", None),
        ("gs://bucket/zoo", None),
        ("https://h/t/r.git", GitZoo("https://h/t/r.git")),
        ("https://h/t/r.git@v1.2", GitZoo("https://h/t/r.git", "v1.2")),
        ("https://h/t/r@feature/x#a/b", GitZoo("https://h/t/r", "feature/x", "a/b")),
        ("https://h/t/r.git@v1//a/b", GitZoo("https://h/t/r.git", "v1", "a/b")),
        ("https://h/t/r.git//a/b@v1", GitZoo("https://h/t/r.git", "v1", "a/b")),
        ("git+https://h/r.git@main#subdirectory=a", GitZoo("https://h/r.git", "main", "a")),
        ("https://h/@scope/r", GitZoo("https://h/@scope/r")),
        ("https://u:p@h/r.git@v1", GitZoo("https://u:p@h/r.git", "v1")),
        ("git@h:t/r.git@v2#m", GitZoo("git@h:t/r.git", "v2", "m")),
        ("ssh://git@h:22/t/r.git", GitZoo("ssh://git@h:22/t/r.git")),
        ("file:///srv/r.git@v1#x", GitZoo("file:///srv/r.git", "v1", "x")),
    ],
)
def test_what_a_url_names(model_zoo: str, expected: GitZoo | None) -> None:
    assert zoo_source.parse(model_zoo) == expected


@pytest.mark.parametrize(
    "model_zoo", ["https://h/r.git#../x", "https://h/r.git@--upload-pack=x", "https://h/r.git@a..b", "https://h/#x"]
)
def test_urls_that_are_refused(model_zoo: str) -> None:
    with pytest.raises(UsageError, match="--model_zoo: https://h/"):
        zoo_source.parse(model_zoo)


def test_a_folder_is_taken_as_it_is(tmp_path: Path, environ: dict[str, str]) -> None:
    assert zoo_source.fetch(str(tmp_path), environ) == tmp_path
    assert zoo_source.labels(str(tmp_path), tmp_path, environ) == {}


@pytest.mark.parametrize(
    ("ref", "version"), [("", 2), ("@main", 2), ("@v1", 1), ("@feature/x", 1), ("@COMMIT", 1), ("@SHORT", 1)]
)
def test_a_ref_is_cloned_once(repository: Path, environ: dict[str, str], ref: str, version: int) -> None:
    commit = git(repository, "rev-parse", f"{'v1' if version == 1 else 'main'}^{{commit}}")
    url = f"file://{repository}{ref.replace('COMMIT', commit).replace('SHORT', commit[:9])}"
    folder = zoo_source.fetch(url, environ)
    assert (folder / "model.py").read_text() == f"VERSION = {version}\n" and folder.name == commit
    assert not (folder / ".git").exists()
    (folder / "mark").touch()
    assert zoo_source.fetch(url, environ) == folder and (folder / "mark").exists()
    assert [each.name for each in folder.parent.iterdir()] == [commit]
    about = zoo_source.labels(url, folder, environ)
    assert about["org.opencontainers.image.revision"] == commit


def test_a_branch_that_moved_is_cloned_again(repository: Path, environ: dict[str, str], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "--quiet", str(repository), str(copy))
    before = zoo_source.fetch(f"file://{copy}@main#models/fraud", environ)
    assert before.parts[-2:] == ("models", "fraud")
    (copy / "models/fraud/model.py").write_text("VERSION = 3\n")
    git(copy, "commit", "--quiet", "-a", "-m", "three")
    after = zoo_source.fetch(f"file://{copy}@main#models/fraud", environ)
    assert after != before and (after / "model.py").read_text() == "VERSION = 3\n"
    assert (before / "model.py").read_text() == "VERSION = 1\n"
    assert zoo_source.labels(f"file://{copy}@main#models/fraud", after, environ)[
        "org.opencontainers.image.revision"
    ] == git(copy, "rev-parse", "HEAD")


def test_a_commit_that_is_there_needs_no_server(repository: Path, environ: dict[str, str], tmp_path: Path) -> None:
    copy = tmp_path / "copy.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), str(copy))
    url = f"file://{copy}@{git(repository, 'rev-parse', 'main')}"
    folder = zoo_source.fetch(url, environ)
    copy.rename(tmp_path / "gone.git")
    assert zoo_source.fetch(url, environ) == folder


@pytest.mark.parametrize("rest", ["", "@main#models/fraud", "@v1", "@COMMIT"])
def test_a_pinned_zoo_is_asked_for_once(repository: Path, environ: dict[str, str], tmp_path: Path, rest: str) -> None:
    copy = tmp_path / "copy.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), str(copy))
    url = f"file://{copy}{rest.replace('COMMIT', git(repository, 'rev-parse', 'main')[:9])}"
    folder = zoo_source.fetch(url, environ)
    pinned = zoo_source.pinned(url, environ)
    copy.rename(tmp_path / "gone.git")
    assert zoo_source.fetch(pinned, environ) == folder
    assert zoo_source.labels(pinned, folder, environ) == zoo_source.labels(url, folder, environ)
    assert zoo_source.pinned("model_zoo", environ) == "model_zoo"


@pytest.mark.parametrize(
    ("rest", "kind", "words"),
    [
        ("@v9", UsageError, r"no branch, tag or commit v9"),
        ("@" + "ab" * 20, UsageError, r"no branch, tag or commit abab"),
        ("@abcdef1", UsageError, r"no branch, tag or commit abcdef1"),
        ("#models/nope", UsageError, r"has no folder models/nope; there are: models"),
        ("/none.git", UsageError, r"there is no such repository"),
    ],
)
def test_what_is_not_there(
    repository: Path, environ: dict[str, str], rest: str, kind: type[EdlError], words: str
) -> None:
    with pytest.raises(kind, match=words) as raised:
        zoo_source.fetch(f"file://{repository}{rest}", environ)
    assert "\n" not in str(raised.value)
    kept = list((Path(environ["EDL_HOME"]) / "zoos").glob("*/.clone-*"))
    assert not kept


def test_without_git(environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs git, which is not there"):
        zoo_source.fetch("https://user:secret@host/r.git", environ | {"PATH": str(tmp_path)})


def test_a_host_that_is_not_reached(environ: dict[str, str]) -> None:
    with pytest.raises(StorageError, match=r"http://127.0.0.1:9/r.git: cannot be reached"):
        zoo_source.fetch("http://user:secret@127.0.0.1:9/r.git", environ)


class Closed(BaseHTTPRequestHandler):
    """A server that wants a password."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("user", ["", "user:s3cret@"])
def test_a_password_is_never_asked_for_and_never_shown(environ: dict[str, str], user: str) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UsageError, match="the server asks who you are") as raised:
            zoo_source.fetch(f"http://{user}127.0.0.1:{server.server_port}/r.git", environ)
        server.shutdown()
    assert "s3cret" not in str(raised.value) and "\n" not in str(raised.value)


def test_passwords_of_urls_are_hidden() -> None:
    said = "fatal: https://u:p@h/r and https://tok@h/r, ssh://git:pw@h/r, ssh://git@h/r, git@h:r"
    hidden = "fatal: https://h/r and https://h/r, ssh://git@h/r, ssh://git@h/r, git@h:r"
    assert zoo_source.without_password(said) == hidden
