"""Real images, built by a Docker engine and pushed to a registry; skipped where there is none.

The first base image takes minutes; the engine keeps it, and with it all layers that a change of ours leaves alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from edl_allreduce.errors import UsageError
from launcher.image import builder
from tests import images

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]  # the first base image

RUN = uuid.uuid4().hex[:8]
SECRET = f"secret-{uuid.uuid4().hex}"
MINE = re.compile(rf".*/edl-test/(zoo|never)-{RUN}")
MODEL = "import humanize\nNAME = 'first'\n"

LOOK = """
import importlib.metadata, json, os, shutil, subprocess, sys
import humanize, launcher, rendezvous, edl_allreduce.worker, edl_allreduce.cluster
import kubernetes, gcsfs, s3fs, pyarrow, sqlglot, psycopg

def writable(folder):
    try:
        open(os.path.join(folder, "x"), "w").close()
    except OSError:
        return False
    return True

places = ["/model_zoo", "/build", "/etc", "/opt/venv/bin"]
found = subprocess.run(["grep", "-rl", sys.argv[1], *places], capture_output=True)
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "home": os.environ["HOME"],
    "tools": [tool for tool in sys.argv[2:] if shutil.which(tool)],
    "writable": [each for each in ("/", "/model_zoo", "/model_zoo/custom", "/opt/venv", "/tmp") if writable(each)],
    "custom": sorted(os.listdir("/model_zoo/custom")), "stock": os.path.isfile("/model_zoo/digits.py"),
    "secret": found.stdout.decode(), "tensorflow": sorted({each.name.replace("_", "-") for each in
    importlib.metadata.distributions() if each.name.startswith("tensorflow")}),
    "libraries": os.path.exists("/opt/venv/lib/python3.11/site-packages/tensorflow/libtensorflow_cc.so.2"),
}))
"""


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with images.engine() as client:
        yield client
        for tag in (tag for each in client.images.list() for tag in each.tags if MINE.match(tag)):
            client.images.remove(tag, force=True)


@pytest.fixture(scope="module")
def base(client: Any) -> str:
    return images.base(client).name


@pytest.fixture(scope="module")
def repository() -> str:
    return f"{images.registry()}/edl-test/zoo-{RUN}"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With requirements that the base image has, in part; with a secret."""
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "model.py").write_text(MODEL)
    (folder / "requirements.txt").write_text("humanize\ntensorflow>=2.10\n")
    (folder / ".env").write_text(SECRET)
    return folder


@pytest.fixture(scope="module")
def built(zoo: Path, repository: str, base: str) -> tuple[str, float]:
    """The image of the zoo, and how many seconds it took."""
    began = time.monotonic()
    return builder.build(zoo, repository, base, print), time.monotonic() - began


def run(client: Any, name: str, *command: str, network: str = "none") -> str:
    """What a command prints in a container that is as restricted as a pod."""
    said: bytes = client.containers.run(
        name,
        list(command),
        remove=True,
        read_only=True,
        tmpfs={"/tmp": ""},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode=network,
    )
    return said.decode()


@pytest.fixture(scope="module")
def seen(client: Any, built: tuple[str, float]) -> dict[str, Any]:
    """What a look around in the image of the zoo finds."""
    found: dict[str, Any] = json.loads(
        run(client, built[0], "python", "-c", LOOK, SECRET, *images.COMPILERS, "cc", "c++", "cmake")
    )
    return found


def test_it_runs_as_a_user_that_can_write_nothing_but_tmp(seen: dict[str, Any]) -> None:
    assert (seen["uid"], seen["gid"], seen["home"], seen["writable"]) == (1000, 1000, "/tmp", ["/tmp"])


def test_it_has_the_zoos_and_no_secret(seen: dict[str, Any]) -> None:
    assert seen["custom"] == ["model.py", "requirements.txt"] and seen["stock"] and seen["secret"] == ""


def test_it_has_no_compiler(seen: dict[str, Any]) -> None:
    assert seen["tools"] == []


def test_who_requires_tensorflow_gets_the_one_that_is_there(seen: dict[str, Any]) -> None:
    assert seen["tensorflow"] == ["tensorflow", "tensorflow-cpu"] and seen["libraries"]


def test_horovod_works_inside(client: Any, built: tuple[str, float]) -> None:
    said = run(client, built[0], "python", "-m", "edl_allreduce.horovod_wheel", "check", network="bridge")
    assert "works with TensorFlow 2." in said and "gloo yes" in said


def test_no_secret_is_in_its_history(client: Any, built: tuple[str, float]) -> None:
    assert SECRET not in json.dumps([client.images.get(built[0]).history(), client.images.get(built[0]).attrs])


def test_its_labels(client: Any, built: tuple[str, float], base: str) -> None:
    labels = client.images.get(built[0]).labels
    assert labels["org.opencontainers.image.base.name"] == base
    assert labels["org.opencontainers.image.version"] == "0.1.0"


def test_the_registry_has_what_is_returned(client: Any, built: tuple[str, float], repository: str) -> None:
    assert built[0].startswith(f"{repository}@sha256:")
    assert client.images.get_registry_data(built[0]).id == built[0].partition("@")[2]


def test_the_base_image_is_small(client: Any, base: str) -> None:
    own = sum(layer["Size"] for layer in client.images.get(base).history()[:-1])
    print(f"{own / 1e6:.0f} MB over {images.SLIM}")
    assert own < 1_900_000_000


def test_an_unchanged_zoo_gives_the_same_image(zoo: Path, repository: str, base: str, built: tuple[str, float]) -> None:
    os.utime(zoo / "model.py", (1, 1))
    assert builder.build(zoo, repository, base, print) == built[0]


def test_a_changed_model_is_one_small_layer_and_takes_seconds(
    client: Any, zoo: Path, repository: str, base: str, built: tuple[str, float]
) -> None:
    (zoo / "model.py").write_text(MODEL.replace("first", "second"))
    told: list[str] = []
    began = time.monotonic()
    try:
        changed = builder.build(zoo, repository, base, told.append)
    finally:
        (zoo / "model.py").write_text(MODEL)
    seconds = time.monotonic() - began
    print(f"first {built[1]:.1f} s, then {seconds:.1f} s")
    before, after = (client.images.get(name) for name in (built[0], changed))
    *same, last = after.attrs["RootFS"]["Layers"]
    assert same == before.attrs["RootFS"]["Layers"][:-1] and last != before.attrs["RootFS"]["Layers"][-1]
    assert seconds < 10 and not any("Collecting" in line for line in told)
    assert "second" in run(client, changed, "cat", "/model_zoo/custom/model.py")


@pytest.mark.parametrize(
    ("requirements", "words"),
    [
        ("no-such-package-of-ours==1\n", "requirements.txt asks for no-such-package-of-ours==1"),
        ("keras<3\n", "contradicts itself or the base image"),
        ("a b c\n", "has a line that is no requirement"),
    ],
)
def test_requirements_that_cannot_be_had(tmp_path: Path, base: str, requirements: str, words: str) -> None:
    (tmp_path / "model.py").write_text("x = 1\n")
    (tmp_path / "requirements.txt").write_text(requirements)
    with pytest.raises(UsageError, match=words) as raised:
        builder.build(tmp_path, f"127.0.0.1:9/edl-test/never-{RUN}", base, print)
    assert "of zoo.Dockerfile (RUN cd /build/requirements" in str(raised.value)


class Closed(BaseHTTPRequestHandler):
    """A registry that wants a password."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_registry_that_wants_a_password(zoo: Path, base: str) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UsageError, match=r"the registry refuses \(.*docker login") as raised:
            builder.build(zoo, f"127.0.0.1:{server.server_port}/edl-test/never-{RUN}", base, print)
        server.shutdown()
    assert "\n" not in str(raised.value)


def test_a_registry_that_is_not_there(zoo: Path, base: str) -> None:
    with pytest.raises(UsageError, match="does not reach the registry"):
        builder.build(zoo, f"127.0.0.1:9/edl-test/never-{RUN}", base, print)


def test_a_base_image_that_is_not_there(zoo: Path) -> None:
    with pytest.raises(UsageError, match=r"base image .*/edl-test/none:1: there is no such image"):
        builder.build(zoo, f"127.0.0.1:9/edl-test/never-{RUN}", f"{images.registry()}/edl-test/none:1", print)


def test_the_engine_reads_the_gpu_dockerfile(client: Any) -> None:
    """As far as can be seen without NVIDIA's images: the whole file is read before the first image is asked for."""
    plan = dataclasses.replace(builder.plan_base(True, "", {}), arguments={"CUDA_DEVEL_IMAGE": "127.0.0.1:9/cuda:1"})
    told: list[str] = []
    with pytest.raises(UsageError, match="does not reach the registry"):
        builder.make(client, plan, told.append)
    assert told == ["base image, step 5/33: FROM ${CUDA_DEVEL_IMAGE} AS builder"]


def edl(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edl_allreduce.launch", "image", *words]
    return subprocess.run(command, env=dict(os.environ) | environ, capture_output=True, text=True, timeout=600)


def test_the_commands(zoo: Path, repository: str, base: str, client: Any) -> None:
    where = [f"--model_zoo={zoo}", f"--image_repository={repository}-cli", f"--base_image={base}"]
    early = edl("push", *where)
    assert early.returncode == 2 and "the Docker engine has no such image" in early.stderr
    made = edl("build", *where, "--nopush")
    assert made.returncode == 0 and builder.has(client, made.stdout.strip()), made.stderr
    pushed = edl("push", *where)
    assert pushed.returncode == 0 and pushed.stdout.startswith(f"{repository}-cli@sha256:"), pushed.stderr
    again = edl("build", *where)
    assert again.stdout == pushed.stdout and "left out, since they look like keys or passwords: .env" in again.stderr
    dry = edl("base", "--dry_run", EDL_PYTHON_IMAGE=images.SLIM)
    assert f"base image: {builder.BASE_REPOSITORY}:" in dry.stdout and "horovod_wheel install" in dry.stdout


def test_no_engine(zoo: Path) -> None:
    ended = edl("build", f"--model_zoo={zoo}", "--image_repository=a/b", DOCKER_HOST="unix:///nowhere")
    assert ended.returncode == 2 and ended.stderr.count("\n") < 3
    assert "the Docker engine at unix:///nowhere does not answer (No such file or directory)" in ended.stderr
