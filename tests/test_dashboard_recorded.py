"""Recorded runs over real HTTP, as `edl dashboard OUTPUT` serves them: the API of a job, and what is damaged."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import psutil
import pytest
from openapi_spec_validator import validate

from edl_allreduce import storage
from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.errors import StorageError, UsageError
from edl_allreduce.job_folder import JobFolder
from launcher.local.ended import EndedJob
from launcher.recorded import served
from rendezvous.dashboard.recording import HistoryReader, find
from rendezvous.dashboard.site import identifiers
from tests import clouds
from tests.dashboards import BATCH, past
from tests.recordings import Asked, asked, done, record
from tests.served import until
from tests.test_dashboard_api import read_paths

STEPS = 1200
EDL = [sys.executable, "-m", "edl_allreduce.launch"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with a run that is done, one that was killed, and one with another job's settings."""
    output = tmp_path_factory.mktemp("out")
    record(output, "digits-1", STEPS, done(STEPS))
    record(output, "digits-2", 700)
    record(output, "digits-3", 800, done(800), params="hidden_units=9", num_workers=2)
    return output


@pytest.fixture(scope="module")
def one(runs: Path) -> Iterator[Asked]:
    with asked([runs / "_runs" / "digits-1"]) as server:
        yield server


@pytest.fixture(scope="module")
def all(runs: Path) -> Iterator[Asked]:
    with asked([runs]) as server:
        yield server


@pytest.mark.parametrize("path", read_paths())
def test_a_recorded_run_answers_as_a_running_job_does(one: Asked, path: str) -> None:
    document = one.get("/api/openapi.json")
    name = "/api/" + path.partition("?")[0].replace("workers/0", "workers/{worker}")
    schema = document["paths"][name]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator(schema | {"components": document["components"]}).validate(one.get(f"/api/{path}"))


def test_all_of_a_run_is_there(one: Asked, runs: Path) -> None:
    job, points = one.get("/api/job"), one.get("/api/history?points=5000")["points"]
    assert (job["name"], job["ended"], job["may_write"], job["source"]) == ("digits-1", True, False, str(runs))
    assert points["step"] == list(range(1, STEPS + 1))
    assert points["loss"] == [line["loss"] for line in past(STEPS, 3) if "loss" in line]
    assert one.get("/api/rounds")["total"] == 3 and len(one.get("/api/figures")["figures"]) == 2
    assert one.get("/api/status")["phase"] == "done" and job["tasks"] == 1 and job["notes"] == []


def test_nothing_can_be_done_about_it(one: Asked) -> None:
    assert one.ask("/api/status", token="")[0] == 401 and one.ask("/", token="")[0] == 200
    connection = http.client.HTTPConnection(urlsplit(one.url).netloc, timeout=20)
    headers = {"X-EDL-Token": one.token, "Content-Type": "application/json"}
    connection.request("POST", "/api/scale", '{"num_workers": 4}', headers)
    assert connection.getresponse().status == 409
    connection.close()


def test_runs_are_listed_with_what_differs(all: Asked) -> None:
    document, answer = all.get("/api/openapi.json"), all.get("/api/runs")
    validate(document)
    schema = document["components"]["schemas"]["Runs"]
    jsonschema.Draft202012Validator(schema | {"components": document["components"]}).validate(answer)
    first, second, third = answer["runs"]
    assert [each["phase"] for each in answer["runs"]] == ["done", "unfinished", "done"]
    assert first["figures"] == pytest.approx(
        {"steps": STEPS, "seconds": 60, "records_per_second": STEPS * BATCH / 60, "goodput": 5 / 6}
    )
    assert second["figures"]["steps"] == 700 and 0 < second["figures"]["val_accuracy"] < 1
    differing = {name for name in third["settings"] if third["settings"][name] != first["settings"].get(name)}
    assert differing == {"params hidden_units", "num_workers"}
    assert first["began"] == pytest.approx(time.time() - STEPS * 0.05, abs=60)


def test_each_run_has_its_own_api_behind_the_same_token(all: Asked) -> None:
    for run in all.get("/api/runs")["runs"]:
        assert all.get(f"/runs/{run['id']}/api/job")["name"] == run["name"]
        for path in ("api/job", "api/stream", "metrics"):
            assert all.ask(f"/runs/{run['id']}/{path}", token="wrong")[0] == 401
        assert all.ask(f"/runs/{run['id']}/", token="")[0] == 200
    assert all.ask("/api/runs", token="")[0] == 401
    assert all.ask("/runs/nobody/api/job")[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/runs/digits-1//api/job",
        "/runs//digits-1/api/job",
        "//api/runs",
        "/api//runs",
        "/runs/digits-1/../digits-1/api/job",
        "/runs/digits-1%2Fapi/job",
        "/runs/digits-1/%61pi/job",
        "/runs/digits-1/assets/../../../spec.json",
    ],
)
def test_no_other_spelling_of_a_path_leads_past_the_token(all: Asked, path: str) -> None:
    assert all.ask(path, token="")[0] in (401, 404)


def test_it_answers_to_its_own_names_only(all: Asked) -> None:
    connection = http.client.HTTPConnection(urlsplit(all.url).netloc, timeout=20)
    connection.request("GET", "/", headers={"Host": "stranger.example"})
    assert connection.getresponse().status == 421
    connection.close()
    connection.request("GET", "/")
    assert "default-src 'none'" in connection.getresponse().headers["content-security-policy"]
    connection.close()


def test_what_a_killed_run_has_come_to_follows_from_its_history(all: Asked) -> None:
    status = all.get("/runs/digits-2/api/status")
    assert (status["position"]["step"], status["position"]["epoch"], status["round"]) == (700, 1, 2)
    assert status["position"]["offset"] == 200 * BATCH and status["records"] == 500 * BATCH
    assert "it runs, or all its processes were killed: last heard of " in status["message"]
    goodput = all.get("/runs/digits-2/api/goodput")
    assert goodput["records"] == 700 * BATCH and goodput["goodput"] == pytest.approx(1, rel=1e-3)
    assert [each["id"] for each in status["workers"]] == [0, 1, 5]


def test_a_run_that_goes_on_is_followed_in_its_record(tmp_path: Path) -> None:
    folder = record(tmp_path, "digits-1", 400)
    lines = [json.dumps(line) + "\n" for line in past(900, 3)]
    (folder / "history-000001.jsonl").write_text("".join(lines[:400]))
    with asked([tmp_path]) as server:
        assert 390 < server.get("/api/status")["position"]["step"] < 400
        (folder / "history-000001.jsonl").write_text("".join(lines[:500]))
        (folder / "history-000002.jsonl").write_text("".join(lines[500:]))
        (folder / "status.json").write_text('{"phase": "stopped", "message": "enough"}')
        until(lambda: server.get("/api/job")["ended"], 20)
        status = server.get("/api/status")
        assert (status["phase"], status["message"], status["position"]["step"]) == ("stopped", "enough", 900)
        assert server.get("/api/history?points=5000")["points"]["step"] == list(range(1, 901))


def test_an_ended_job_of_this_machine_shows_its_own_folder_with_logs(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "jobs" / "digits-1")
    spec = (record(tmp_path / "out", "digits-1") / "spec.json").read_text()
    folder.create(spec, "secret")
    folder.history.write_text("".join(json.dumps(line) + "\n" for line in past(300, 2)))
    folder.worker_log(1).write_text("hello\n")
    with EndedJob(folder).dashboard() as url:
        server = Asked(url)
        assert server.get("/api/workers/1/log")["lines"] == ["hello"] and server.get("/api/job")["logs"]
        status = server.get("/api/status")
        assert (status["phase"], status["message"]) == ("failed", "all its processes were killed")
        assert "secret" not in url


def test_runs_in_an_object_store_beside_those_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "there", "digits-1", STEPS, done(STEPS))
    record(tmp_path / "here", "digits-1", 100, done(100))
    with clouds.s3_server() as server:
        url = f"{clouds.use_s3(server, monkeypatch.setenv)}/digits"
        try:
            storage.upload_tree(str(tmp_path / "there"), url)
            with asked([url, tmp_path / "here"]) as runs:
                first, second = runs.get("/api/runs")["runs"]
                assert (first["source"], second["source"]) == (url, str(tmp_path / "here"))
                assert (first["id"], second["id"]) == ("digits-1", "digits-1-2")
                points = runs.get("/runs/digits-1/api/history?points=5000")["points"]
                assert points["step"] == list(range(1, STEPS + 1))
        finally:
            clouds.forget()


# What is damaged.


def test_what_is_damaged_is_told_and_the_cut_off_tail_is_not(tmp_path: Path) -> None:
    folder = record(tmp_path, "digits-1", STEPS, done(STEPS))
    first, second, third = sorted(folder.glob("history-*"))
    lines = first.read_text().splitlines()
    lines[7], lines[9] = lines[7][:30], '{"step": "x", "loss": 1, "records": 1, "seconds": 1, "useful": 1}'
    first.write_text("\n".join(lines) + "\n")
    second.unlink()
    with open(third, "a", encoding="utf-8") as file:
        file.write('{"step": 12')
    with asked([tmp_path]) as server:
        assert server.get("/api/job")["notes"] == [
            "Of the history history-000002.jsonl is missing; what it told is not shown",
            "Damaged lines of the history are left out: line 8 and 1 more",
        ]
        steps = server.get("/api/history?points=5000")["points"]["step"]
        assert steps[-1] == STEPS and 7 not in steps


def test_a_line_that_a_killed_coordinator_has_cut_off_is_no_damage(tmp_path: Path) -> None:
    folder = record(tmp_path, "digits-1", 100)
    with open(folder / "history-000001.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 101, "lo\n{"time": 5.0, "restart": 1}\n')
    with asked([tmp_path]) as server:
        assert server.get("/api/job")["notes"] == [] and server.get("/api/status")["coordinator_restarts"] == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "there is no folder {}"),
        (lambda path: path.mkdir(), "no run is recorded in {}: it is empty; expected the output of edl train or "),
        (lambda path: (path / "_runs").mkdir(parents=True), "no run is recorded in {}/_runs: it is empty"),
        (lambda path: path.write_text("x"), "there is no folder {}"),
    ],
)
def test_where_nothing_is_recorded_that_is_said(tmp_path: Path, make: Any, said: str) -> None:
    make(tmp_path / "out")
    with pytest.raises((UsageError, StorageError)) as error, served([str(tmp_path / "out")]):
        pass
    assert str(error.value).startswith(said.format(tmp_path / "out")) and "\n" not in str(error.value)


def test_a_run_that_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    record(tmp_path, "digits-1", 50, done(50))
    (record(tmp_path, "digits-2", 50) / "spec.json").write_text("{")
    found, notes = find(str(tmp_path))
    assert [each.name for each in found] == ["digits-1"]
    assert notes[0].startswith(
        f"{tmp_path}/_runs/digits-2 is left out: its spec.json is damaged, or of another version"
    )


def test_a_reader_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "history-000001.jsonl").write_bytes(b"1\n2\n")
    reader = HistoryReader(str(tmp_path))
    assert list(reader.lines()) == [b"1", b"2"] and list(reader.lines()) == []
    (tmp_path / "history-000001.jsonl").write_bytes(b"1\n2\n3\n")
    (tmp_path / "history-000002.jsonl").write_bytes(b"4\n5\n6\n7")
    assert list(reader.lines()) == [b"3", b"4", b"5", b"6"]
    (tmp_path / "history-000002.jsonl").write_bytes(b"4\n5\n6\n7\n8\n")
    assert list(reader.lines()) == [b"7", b"8"]
    (tmp_path / "history.jsonl").write_bytes(b"a\nb")
    reader = HistoryReader(str(tmp_path))
    assert list(reader.lines()) == [b"a"]
    with open(tmp_path / "history.jsonl", "ab") as file:
        file.write(b"c\nd\n")
    assert list(reader.lines()) == [b"bc", b"d"]


def test_identifiers_are_plain_and_differ() -> None:
    assert identifiers(["a-1", "ä{x}", "a-1", ".."]) == ["a-1", "--x-", "a-1-2", "run"]


# The command.


def test_the_command_serves_until_ctrl_c_and_leaves_nothing_behind(tmp_path: Path, runs: Path) -> None:
    environ = os.environ | {"EDL_HOME": str(tmp_path), "EDL_BACKEND": "local"}
    command = [*EDL, "dashboard", str(runs), "--noopen"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as shows:
        assert shows.stdout
        server = Asked(shows.stdout.readline().strip())
        assert len(server.get("/api/runs")["runs"]) == 3
        [child] = psutil.Process(shows.pid).children()
        shows.send_signal(signal.SIGINT)
        assert shows.wait(20) == 0
        until(lambda: not child.is_running())


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    environ = os.environ | {"EDL_HOME": str(tmp_path), "EDL_BACKEND": "local"}
    found = subprocess.run(
        [*EDL, "dashboard", f"{tmp_path}/nowhere"], env=environ, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr, found.stdout) == (2, f"error: there is no folder {tmp_path}/nowhere\n", "")


def test_a_status_says_how_a_run_ended_even_if_nobody_but_the_supervisor_could(tmp_path: Path) -> None:
    status = pb.Status(phase="failed", message="the coordinator ended unexpectedly 5 times in a row", exit_code=6)
    record(tmp_path, "digits-1", 60, status)
    with asked([tmp_path]) as server:
        told = server.get("/api/status")
        assert (told["phase"], told["exit_code"], told["position"]["step"]) == ("failed", 6, 60)
