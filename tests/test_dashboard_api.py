"""The dashboard's API over real HTTP: what it answers is what its document says, whoever asks and however badly."""

from __future__ import annotations

import datetime
import http.client
import json
import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families
from starlette.datastructures import Headers

from edl_allreduce.control import control_pb2 as pb
from launcher.kubernetes.certificates import make_certificate
from rendezvous.dashboard.access import Rules
from rendezvous.status import make_status
from rendezvous.tls import Tls
from tests.dashboards import TOKEN
from tests.served import Served, until

PAST = 3000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    job = Served(tmp_path_factory.mktemp("job"), workers=3, past_steps=PAST)
    yield job
    job.close()


# What is answered.


def test_the_document_is_valid_openapi(served: Served) -> None:
    _, _, data = served.ask("/api/openapi.json", token=None)
    validate(json.loads(data))


def read_paths() -> list[str]:
    paths = ["job", "status", "workers", "workers/0/log", "coordinator/log", "history", "activity", "rounds", "events"]
    return [
        *paths,
        "figures",
        "goodput",
        "spec",
        "history?by=time&points=50",
        "history?from=100&to=200",
        "rounds?limit=2",
    ]


@pytest.mark.parametrize("path", read_paths())
def test_answers_are_what_the_document_says(served: Served, path: str) -> None:
    document = served.get("/api/openapi.json")
    name = "/api/" + path.partition("?")[0].replace("workers/0", "workers/{worker}")
    schema = document["paths"][name]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    check(document, schema, served.get(f"/api/{path}"))


def check(document: dict[str, Any], schema: dict[str, Any], answer: Any) -> None:
    jsonschema.Draft202012Validator(schema | {"components": document["components"]}).validate(answer)


def test_every_read_path_is_tested(served: Served) -> None:
    paths = {path for path, methods in served.get("/api/openapi.json")["paths"].items() if "get" in methods}
    tested = {f"/api/{path.partition('?')[0]}".replace("workers/0", "workers/{worker}") for path in read_paths()}
    assert paths - {"/api/stream"} == tested


def test_the_numbers_are_those_of_the_command_line(served: Served) -> None:
    served.beats = False
    try:
        status, answer = served.do(lambda: make_status(served.job.coordinator)), served.get("/api/status")
    finally:
        served.beats = True
    told = json_format.Parse(json.dumps(answer), pb.Status())
    for each in (status, told):  # what goes on with the clock
        each.ClearField("seconds")
        each.ClearField("training_seconds")
        each.goodput.ClearField("wall_seconds")
        for worker in each.workers:
            worker.ClearField("heartbeat_seconds")
    assert told == status


def test_a_long_history_comes_in_few_points_that_leave_nothing_out(served: Served) -> None:
    every, few = served.get(f"/api/history?to={PAST}&points=5000"), served.get(f"/api/history?to={PAST}&points=100")
    assert every["width"] == 0 and every["points"]["step"] == list(range(1, PAST + 1))
    assert few["width"] == 32 and len(few["points"]["step"]) == math.ceil((PAST + 1) / 32)
    assert sum(few["points"]["count"]) == PAST
    assert min(few["points"]["loss_min"]) == min(every["points"]["loss"])
    mean = sum(loss * count for loss, count in zip(few["points"]["loss"], few["points"]["count"], strict=True)) / PAST
    assert mean == pytest.approx(sum(every["points"]["loss"]) / PAST)
    assert every["points"]["time"] == sorted(every["points"]["time"])


def test_a_round_says_who_came_and_went(served: Served) -> None:
    first, second = served.get("/api/rounds")["rounds"][:2]
    assert (first["came"], first["gone"], first["paused_seconds"]) == ([0, 1, 2], [], 0)
    assert (second["came_count"], second["gone_count"], second["steps"]) == (1, 1, first["steps"])


def test_a_slow_worker_stands_out(served: Served) -> None:
    slow = until(lambda: [each for each in served.get("/api/workers")["workers"] if each["rank"] >= 0])[0]["id"]
    served.job.slow = slow
    until(lambda: [each["id"] for each in served.get("/api/workers")["workers"] if each["straggler"]] == [slow])
    served.job.slow = -1


def test_the_end_of_a_log(served: Served) -> None:
    coordinator = served.job.coordinator
    assert coordinator.telemetry.history
    logs = Path(coordinator.telemetry.history.name).parent / "logs"
    (logs / "worker-7.log").write_bytes(b"".join(b"line %d \xff\n" % number for number in range(50)))
    tail = served.get("/api/workers/7/log?lines=2")
    assert tail == {"lines": ["line 48 \ufffd", "line 49 \ufffd"], "truncated": True, "unavailable": ""}
    assert served.get("/api/workers/8/log")["unavailable"].endswith("worker-8.log")


# What changes.


def test_the_stream_tells_of_steps_and_workers(served: Served) -> None:
    document, schemas = (
        served.get("/api/openapi.json"),
        {"status": "ShortStatus", "workers": "Workers", "steps": "Points"},
    )
    serial, seen, steps = served.get("/api/job")["serial"], set(), []
    with served.stream(serial) as events:
        for event, data, id in events:
            seen.add(event)
            if event in schemas:
                check(document, {"$ref": f"#/components/schemas/{schemas[event]}"}, data)
            if event == "steps":
                assert id and id > serial
                steps += data["step"]
            if len(steps) > 10 and {"status", "workers"} <= seen:
                break
    assert steps == list(range(steps[0], steps[0] + len(steps)))


def test_whoever_comes_back_misses_nothing(served: Served) -> None:
    with served.stream(served.get("/api/job")["serial"]) as events:
        told = (each for each in events if each[0] == "steps" and each[1]["step"] and each[2])
        _, points, left_at = next(told)
    assert left_at
    last = points["step"][-1]
    until(lambda: served.get("/api/status")["position"]["step"] > last + 5)
    with served.stream(left_at) as events:
        assert next(data["step"][0] for event, data, _ in events if event == "steps") == last + 1


def test_who_comes_from_another_history_is_told_to_ask_anew(served: Served) -> None:
    for serial in (-1, 10**9):
        with served.stream(serial) as events:
            assert next(event for event, _, _ in events if event in ("reset", "steps", "events")) in ("reset", "events")
    with served.stream(10**9) as events:
        assert next(id for event, _, id in events if event == "reset")


def test_it_speaks_a_few_times_a_second_also_to_who_comes_first_after_a_while(served: Served) -> None:
    for _ in range(2):
        until(lambda: served.dashboard.clients == 0)
        with served.stream() as events:
            began, told = time.monotonic(), 0
            for event, _data, _id in events:
                told += event == "status"
                if time.monotonic() - began > 0.8:
                    break
        assert told <= 6


def test_a_client_that_reads_nothing_costs_nothing(served: Served) -> None:
    """Its socket fills up; the others go on."""
    lazy = socket.create_connection(("127.0.0.1", served.dashboard.port))
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    lazy.sendall(f"GET /api/stream?after=0 HTTP/1.1\r\nHost: localhost\r\nX-EDL-Token: {TOKEN}\r\n\r\n".encode())
    with served.stream() as events:
        assert len([event for event, _ in zip(events, range(20), strict=False)]) == 20
    lazy.close()


# What is done.


def test_scale(served: Served) -> None:
    assert served.ask("/api/scale", "POST", {"num_workers": 4})[0] == 202
    until(lambda: served.get("/api/status")["target_workers"] == 4 and len(served.get("/api/workers")["workers"]) == 4)
    served.ask("/api/scale", "POST", {"num_workers": 3})
    until(lambda: len(served.get("/api/workers")["workers"]) == 3)


def test_checkpoint_now(served: Served) -> None:
    sent: list[pb.ToWorker | None] = []
    presence = until(lambda: next(iter(served.job.coordinator.presences.values()), None))
    root = until(lambda: served.job.coordinator.state.round).members[0]
    presence = served.job.coordinator.presences[root]
    served.do(lambda: sent.extend(presence.outbox.get_nowait() for _ in range(presence.outbox.qsize())))
    assert served.ask("/api/checkpoint", "POST", {})[0] == 202
    served.do(lambda: sent.extend(presence.outbox.get_nowait() for _ in range(presence.outbox.qsize())))
    assert [message.WhichOneof("message") for message in sent if message].count("checkpoint") == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("scale", {"num_workers": 0}, 422, "1 to 100000"),
        ("scale", {"num_workers": True}, 422, "whole number"),
        ("scale", {"num_workers": "3"}, 422, "whole number"),
        ("scale", {}, 422, "whole number"),
        ("scale", {"workers": 3}, 422, "'workers' is not known"),
        ("scale", [3], 422, "JSON object"),
        ("scale", b"{", 400, "not JSON"),
        ("scale", b"[" * 15000, 400, "not JSON"),
        ("scale", b" " * 20000, 413, "16384 bytes"),
        ("stop", {"reason": 5}, 422, "500 characters"),
        ("checkpoint", {"now": 1}, 422, "expected nothing"),
    ],
)
def test_a_wish_that_is_not_understood(served: Served, path: str, body: Any, status: int, words: str) -> None:
    code, headers, data = served.ask(f"/api/{path}", "POST", body)
    problem = json.loads(data)
    assert (code, headers["content-type"]) == (status, "application/problem+json")
    assert problem["status"] == status and words in problem["detail"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("history?points=1", 400, "points: expected a number from 2 to 5000, got '1'"),
        ("history?from=nan", 400, "from: expected"),
        ("history?by=loss", 400, "by: expected step or time"),
        ("workers/99999999999999/log", 404, "no such worker"),
        ("workers/x/log", 404, "not found"),
        ("nothing", 404, "not found"),
        ("status?" + "x" * 5000, 414, "4096 bytes"),
    ],
)
def test_a_question_that_is_not_understood(served: Served, path: str, status: int, words: str) -> None:
    code, headers, data = served.ask(f"/api/{path}")
    assert (code, headers["content-type"]) == (status, "application/problem+json")
    assert words in json.loads(data)["detail"]


# Who may ask.


@pytest.mark.parametrize("path", ["api/status", "api/stream", "api/spec", "metrics", "api/anything"])
@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", "\u00e9"])
def test_nothing_of_the_job_without_its_token(served: Served, path: str, token: str | None) -> None:
    code, _, data = served.ask(f"/{path}", token=token)
    assert code == 401 and "edl dashboard" in json.loads(data)["detail"]


def test_nothing_is_done_without_the_token(served: Served) -> None:
    assert served.ask("/api/stop", "POST", {}, token=None)[0] == 401
    assert not served.job.coordinator.ended.is_set()


def test_the_page_itself_needs_no_token_and_brings_all_with_it(served: Served) -> None:
    code, headers, data = served.ask("/", token=None)
    assert code == 200 and b"assets/main.js" in data
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert served.ask("/assets/vendor/uplot.js", token=None)[0] == 200


@pytest.mark.parametrize("path", ["/assets/../api.py", "/assets/%2e%2e/api.py", "/assets//etc/passwd", "/assets/"])
def test_assets_are_all_that_is_served_of_the_disk(served: Served, path: str) -> None:
    assert served.ask(path)[0] in (404, 405)


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("localhost:8080", True),
        ("127.0.0.1", True),
        ("[::1]:80", True),
        ("10.0.0.7:99", True),
        ("job.localhost", True),
        ("evil.example", False),
        ("evil.example:8080", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("x" * 300, False),
    ],
)
def test_only_its_own_names(served: Served, host: str, answered: bool) -> None:
    for path in ("/", "/api/status"):
        assert served.ask(path, Host=host)[0] == (200 if answered else 421)


@pytest.mark.parametrize(
    ("path", "token", "host", "code"),
    [
        ("/", "", "api.example.com", None),
        ("/assets/main.js", "", "api.example.com", None),
        ("/api/status", "", "api.example.com", 421),
        ("/api/status", "t", "api.example.com", None),
        ("/api/status", "wrong", "api.example.com", 421),
        ("/metrics", "", "api.example.com", 421),
        ("/api/status", "", "job.team.svc:8080", None),
    ],
)
def test_behind_the_proxy_of_the_api_server(path: str, token: str, host: str, code: int | None) -> None:
    """It passes on the name by which it was called itself; a page brought here by DNS rebinding holds no token."""
    rules = Rules("t", frozenset({"job.team.svc"}), proxied=True, open_to_readers=True)
    refusal = rules.refusal("GET", path, Headers({"host": host, "x-edl-token": token}))
    assert (refusal and refusal[0]) == code


def test_with_tls(tmp_path: Path) -> None:
    made = make_certificate("job", "team", datetime.datetime.now(datetime.timezone.utc))
    (tmp_path / "tls.crt").write_text(made.certificate)
    (tmp_path / "tls.key").write_text(made.key)
    job = Served(tmp_path / "job", tls=Tls(tmp_path / "tls.crt", tmp_path / "tls.key"), hosts=["job.team.svc"])
    context = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
    connection = http.client.HTTPSConnection("localhost", job.dashboard.port, context=context, timeout=10)
    connection.request("GET", "/api/job", headers={"X-EDL-Token": TOKEN})
    assert connection.getresponse().status == 200
    connection.close()
    job.close()


def test_a_bearer_is_a_holder_of_the_token(served: Served) -> None:
    assert served.ask("/metrics", token=None, Authorization=f"Bearer {TOKEN}")[0] == 200


def test_a_job_may_be_open_to_readers(tmp_path: Path) -> None:
    job = Served(tmp_path / "job", open_to_readers=True, hosts=["train.example.com"])
    try:
        assert job.ask("/api/status", token=None)[0] == 200
        assert json.loads(job.ask("/api/job", token=None)[2])["may_write"] is False
        assert json.loads(job.ask("/api/job")[2])["may_write"] is True
        assert job.ask("/api/scale", "POST", {"num_workers": 2}, token=None)[0] == 401
        assert job.ask("/api/status", token=None, Host="Train.Example.com.:80")[0] == 200
        assert job.ask("/api/status", token=None, Host="evil.example")[0] == 421
    finally:
        job.close()


# Whatever is sent.


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_crash_it(served: Served, data: bytes, begun: bool) -> None:
    head = f"POST /api/scale HTTP/1.1\r\nHost: localhost\r\nX-EDL-Token: {TOKEN}\r\n".encode() if begun else b""
    with socket.create_connection(("127.0.0.1", served.dashboard.port), timeout=5) as connection:
        connection.sendall(head + data)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    assert served.ask("/api/job")[0] == 200


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["history", "activity", "rounds", "events", "workers/0/log", "stream"]),
    st.sampled_from(["from", "to", "points", "limit", "after", "lines", "by"]),
    st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=20),
)
def test_no_query_crashes_it(served: Served, path: str, name: str, value: str) -> None:
    from urllib.parse import quote

    connection = http.client.HTTPConnection("127.0.0.1", served.dashboard.port, timeout=10)
    connection.request("GET", f"/api/{path}?{name}={quote(value)}", headers={"X-EDL-Token": TOKEN})
    assert connection.getresponse().status in (200, 400)
    connection.close()


# Prometheus.


def test_metrics_are_what_prometheus_reads(served: Served) -> None:
    code, headers, data = served.ask("/metrics")
    assert code == 200 and headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(data.decode())}
    [step] = families["edl_step"].samples
    assert step.value >= PAST and step.labels == {"job_name": served.job.coordinator.site.name}
    assert [each.labels["phase"] for each in families["edl_phase"].samples if each.value] == [
        served.get("/api/status")["phase"]
    ]
    assert {each.labels["cause"] for each in families["edl_paused_seconds"].samples} >= {"lost", "hung", "joined"}


def test_every_metric_is_documented(served: Served) -> None:
    root = Path(__file__).parent.parent
    page = (root / "docs" / "dashboard.md").read_text()
    lines = served.ask("/metrics")[2].decode().splitlines()
    names = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {name for name in names if f"`{name}" not in page} == set()
    shown = json.dumps(json.loads((root / "docs" / "grafana-dashboard.json").read_text()))
    assert {name for name in names if name in shown} >= {"edl_step", "edl_loss", "edl_workers", "edl_goodput_ratio"}


# The end.


def test_it_closes_at_once_with_pages_open(tmp_path: Path) -> None:
    job = Served(tmp_path / "job")
    with job.stream() as events:
        next(events)
        began = time.monotonic()
        closing = threading.Thread(target=job.close)
        closing.start()
        assert [event for event, _, _ in events][-1] == "end"
        closing.join(10)
        assert time.monotonic() - began < 3


def test_the_last_status_reaches_whoever_looks(tmp_path: Path) -> None:
    job = Served(tmp_path / "job")
    with job.stream() as events:
        next(events)
        assert job.ask("/api/stop", "POST", {"reason": "enough\nof it"})[0] == 202
        told = [(event, data) for event, data, _ in events]
    assert told[-1][0] == "end"
    status = [data for event, data in told if event == "status"][-1]
    assert (status["phase"], status["message"], status["exit_code"]) == ("stopped", "enough of it", 130)
    assert job.ask("/api/scale", "POST", {"num_workers": 2})[0] == 409
    job.close()
