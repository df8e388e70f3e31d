"""The ends of logs of pods: asked of an API server by HTTP, of the job's own pods only, or said why there are none."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from rendezvous.logs import LogTail
from rendezvous.pod_logs import PodLogs
from rendezvous.provisioner.kubernetes import Api
from rendezvous.provisioner.pods import Owner

PODS = "/api/v1/namespaces/team/pods"
OURS = {"metadata": {"ownerReferences": [{"uid": "1"}]}}
OTHERS = {"metadata": {"ownerReferences": [{"uid": "2"}]}}
DENIED = {"message": 'pods "digits-1-coordinator-x" is forbidden: cannot get resource "pods/log"'}


class Server(BaseHTTPRequestHandler):
    """As much of an API server as logs need."""

    asked: ClassVar[list[tuple[str, dict[str, list[str]]]]] = []
    answers: ClassVar[dict[str, tuple[int, bytes]]] = {
        "digits-1-worker-0": (200, json.dumps(OURS).encode()),
        "digits-1-worker-0/log": (200, b"17\n" + b"caf\xe9 \x1b[31m\n" + b"last\n"),
        "digits-1-worker-1": (200, json.dumps(OTHERS).encode()),
        "digits-1-worker-1/log": (200, b"secret\n"),
        "digits-1-worker-3": (200, json.dumps(OURS).encode()),
        "digits-1-worker-3/log": (200, b"x" * (1 << 18) + b"\nnewest\n"),
        "digits-1-coordinator-x/log": (403, json.dumps(DENIED).encode()),
    }

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.asked.append((url.path, parse_qs(url.query)))
        status, body = self.answers.get(url.path.removeprefix(f"{PODS}/"), (404, b'{"message": "not found"}'))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def logs() -> Iterator[PodLogs]:
    client = pytest.importorskip("kubernetes.client", reason="not installed: pip install 'edl_allreduce[kubernetes]'")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
        api = Api("digits-1", "team", settings)
        yield PodLogs(api, Owner("digits-1", "1"), "digits-1-coordinator-x", "worker")
        api.close()
        server.shutdown()


def tail(logs: PodLogs, worker: int | None, lines: int = 2) -> LogTail:
    return asyncio.run(logs.tail(worker, lines))


def test_the_last_lines_of_a_worker(logs: PodLogs) -> None:
    assert tail(logs, 0) == LogTail(["caf\ufffd \x1b[31m", "last"], truncated=True)
    assert tail(logs, 0, 3) == LogTail(["17", "caf\ufffd \x1b[31m", "last"], truncated=False)
    path, query = Server.asked[-1]
    assert path == f"{PODS}/digits-1-worker-0/log"
    assert (query["container"], query["tailLines"], query["limitBytes"]) == (["worker"], ["4"], [str(4 << 20)])


def test_very_long_lines_are_cut(logs: PodLogs) -> None:
    found = tail(logs, 3)
    assert found.truncated and found.lines[-1] == "newest" and len(found.lines[0]) < 1 << 18


@pytest.mark.parametrize(
    ("worker", "why"),
    [
        (1, "the pod digits-1-worker-1 is not of this job"),
        (2, "its pod is gone, and with it its log"),
        (None, f"the cluster does not give its log: {DENIED['message']}"),
    ],
)
def test_why_there_is_none(logs: PodLogs, worker: int | None, why: str) -> None:
    assert tail(logs, worker) == LogTail(unavailable=why)
    assert not any(path.endswith("worker-1/log") for path, _ in Server.asked)


def test_a_server_that_is_away(logs: PodLogs) -> None:
    client = pytest.importorskip("kubernetes.client")
    api = Api("digits-1", "team", client.Configuration(host="http://127.0.0.1:1"))
    found = tail(PodLogs(api, Owner("digits-1", "1"), "x", "worker"), 0)
    assert found.unavailable.startswith("its log cannot be read: no answer from the API server: ")
