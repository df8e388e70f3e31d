"""The benchmark of faults: its arithmetic on times that are known, and one short run of it as a user would start it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from math import inf
from pathlib import Path
from random import Random

import pytest

from benchmarks.common.summary import summarize
from benchmarks.elasticity import figures, history, horovod_elastic, torchrun
from benchmarks.elasticity.figures import HOROVOD, NEXT_STEP, OURS, REPEATED, Measurement
from benchmarks.elasticity.settings import next_of, order_of
from benchmarks.elasticity.stamps import (
    Span,
    Stamp,
    StampLog,
    TooLate,
    aftermath,
    longest_gap,
    until,
    within,
)
from benchmarks.peers.stamp import Stamper
from edl_allreduce.processes import kinship_of
from tests.jobs import REPOSITORY, left_over

pytestmark = pytest.mark.job

FAULT = 10.0


def stamps(*rows: tuple[float, int, int, int]) -> list[Stamp]:
    return [Stamp(*row) for row in rows]


def test_a_step_that_was_all_but_done_is_not_the_next_one() -> None:
    before = [(9.8, 1, 6, 1), (9.8, 2, 6, 1), (9.9, 1, 7, 1), (9.9, 2, 7, 1)]
    finished = [(10.01, 2, 8, 1)]
    after = [(10.25, 2, 9, 2), (10.26, 3, 9, 2)]
    found = aftermath(stamps(*before, *finished, *after), FAULT, victim=1)
    assert found and (found.repeated, found.ring) == (0, 2)
    assert found.next_step == pytest.approx(0.25) and found.pause == pytest.approx(0.24)


def test_steps_that_survivors_do_again_are_counted_and_the_victims_are_not() -> None:
    before = [(9.7, 1, 19, 1), (9.8, 1, 20, 1), (9.8, 2, 20, 1), (9.9, 1, 21, 1), (9.9, 2, 21, 1), (9.95, 1, 22, 1)]
    restarted = [(15.0, 3, 19, 0), (15.0, 4, 19, 0)]
    found = aftermath(stamps(*before, *restarted), FAULT, victim=1)
    assert found and found.repeated == 3  # 19, 20, 21
    told_to_go = aftermath(stamps(*before, *restarted), FAULT)
    assert told_to_go and told_to_go.repeated == 4  # whoever is told to go must not lose a step either


def test_as_long_as_nobody_steps_in_another_ring_nothing_has_followed() -> None:
    assert aftermath(stamps((9.0, 1, 1, 1), (11.0, 1, 2, 1)), FAULT) is None


def test_the_longest_gap_may_begin_before_the_time_that_is_looked_at() -> None:
    found = stamps((1.0, 1, 1, 1), (1.1, 2, 1, 1), (4.0, 1, 2, 1), (4.1, 2, 2, 1), (9.0, 1, 3, 1))
    assert longest_gap(found, 2.0, 4.1) == pytest.approx(2.9)
    assert longest_gap(found, 4.05, 4.1) == pytest.approx(0.1)


def test_a_newcomer_that_tries_its_step_alone_is_in_no_ring() -> None:
    spans = [Span(1, 1, 100.0), Span(2, 51, 110.0), Span(3, 51, 111.0), Span(4, 80, 120.0)]
    tries, trains = (115.0, 9, 1, 0), (121.0, 9, 80, 0)
    early, first, again = (99.0, 8, 1, 0), (100.5, 8, 1, 0), (111.5, 8, 51, 0)
    found = within(stamps(tries, trains, early, first, again), spans)
    assert [(each.time, each.ring) for each in found] == [(121.0, 4), (100.5, 1), (111.5, 3)]


def test_stamps_are_read_as_they_come(tmp_path: Path) -> None:
    log, stamp = StampLog(tmp_path), Stamper(str(tmp_path))
    stamp(7, ring=2)
    with open(tmp_path / "99999", "w") as file:
        file.write("0.5 6 1\n0.6 7")  # its writer has not finished, or has been killed
    [first, second] = log.read()
    assert first == Stamp(0.5, 99999, 6, 1) and (second.pid, second.step, second.ring) == (os.getpid(), 7, 2)
    assert abs(second.time - time.monotonic()) < 5
    with open(tmp_path / "99999", "a") as file:
        file.write(" 1\n")
    assert log.since(0.55)[0] == Stamp(0.6, 99999, 7, 1) and len(log.read()) == 3


def test_waiting_has_an_end() -> None:
    with pytest.raises(TooLate, match="rain did not come within 0.1 s"):
        until(lambda: None, 0.1, "rain")


def test_the_logs_times_of_day_are_found_again_also_past_midnight(tmp_path: Path) -> None:
    log = tmp_path / "coordinator.log"
    log.write_text("23:59:59.500 INFO Lost(id=1, why)\n00:00:00.250 INFO Lost(id=1, late)\nno time: Lost(id=1,\n")
    since = time.mktime((2026, 3, 3, 23, 59, 59, 0, 0, -1))
    assert list(history.logged(log, "Lost(id=1,", since)) == [since + 0.5, since + 1.25]
    assert list(history.logged(log, "Lost(id=1,", since + 1)) == [since + 1.25]


def test_steps_are_told_from_the_ends_of_epochs_and_of_those_done_again_the_last_counts(tmp_path: Path) -> None:
    lines = (
        {"round": 1, "members": [0], "kind": "start", "cause": "start", "first_step": 1, "time": 5.0},
        {"step": 1, "epoch": 1, "loss": 0.5, "useful": 0.1},
        {"step": 2, "epoch": 1, "loss": 0.4, "useful": 0.1},
        {"step": 2, "epoch": 1, "loss": 0.3, "useful": 0.1},
        {"epoch_end": 1, "step": 2, "figures": {"loss": 0.45}, "seconds": 0.1, "stopped": ""},
        {"round": 1, "paused_seconds": 0.2},
    )
    file = tmp_path / "history.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"step": 3, "us')
    assert [(step["step"], step["loss"]) for step in history.steps(file)] == [(1, 0.5), (2, 0.3)]
    assert history.rounds(file) == [history.Round(1, 1, "start", 1, 5.0, 0.2)]


def test_faults_are_mixed_and_who_leaves_joins_again() -> None:
    order = order_of(("kill", "join", "coordinator"), 5, Random(1))
    assert sorted(order) == sorted(["kill", "coordinator", "join", "leave"] * 5)
    assert order != sorted(order)
    assert all(after == "join" for before, after in pairwise(order) if before == "leave")


@pytest.mark.parametrize(
    ("left", "size", "kind"),
    [
        ({"kill": 1, "join": 1}, 3, "kill"),
        ({"kill": 1, "join": 0}, 2, "join"),  # not wanted, but needed
        ({"kill": 0, "join": 1}, 3, "leave"),
        ({"kill": 0, "join": 1}, 2, "join"),
        ({"kill": 0, "join": 0}, 2, None),
    ],
)
def test_a_lost_worker_is_made_up_for_before_the_next_fault(left: dict[str, int], size: int, kind: str | None) -> None:
    assert next_of(left, size, full=3) == kind


def test_the_table_puts_systems_side_by_side() -> None:
    ours = [Measurement(OURS, "kill", 0.0, {NEXT_STEP: each, REPEATED: 0}) for each in (0.3, 0.1, 0.2)]
    theirs = [Measurement(HOROVOD, "kill", 0.0, {NEXT_STEP: each, REPEATED: 3}) for each in (2.5, None, None)]
    theirs.append(Measurement(HOROVOD, "hang", 0.0, {NEXT_STEP: None}))
    lines = figures.table([*ours, *theirs], limit=120).splitlines()
    assert lines[0].split("   ")[-2:] != [] and OURS in lines[0] and HOROVOD in lines[0]
    kill = next(line for line in lines if NEXT_STEP in line)
    assert "0.200 (0.100 … 0.300) ×3" in kill and "> 120 (2.5 … > 120) ×3" in kill
    assert any("0 (0 … 0) ×3" in line and "3 (3 … 3) ×3" in line for line in lines if REPEATED in line)
    assert any("–" in line and "> 120 ×1" in line for line in lines)
    assert figures.as_json([1.0, None, 3.0]) == {"count": 3, "median": 3.0, "least": 1.0, "most": None}
    assert summarize([]) is None and figures.shown(inf, NEXT_STEP, 60) == "> 60"


STARTS_A_FAMILY = """
import sys
from pathlib import Path
from benchmarks.elasticity.family import Family
folder = Path(sys.argv[1])
family = Family(folder / "log")
family.start(["/bin/sh", "-c", f"(setsid sh -c 'touch {folder}/$$; sleep 1000' & sleep 1000) & wait"], {})
sys.stdin.read()
assert family.alive()
family.end()
assert not family.alive()
"""


@pytest.mark.parametrize("kill", [False, True])
def test_nothing_is_left_of_what_others_start(kill: bool, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTS_A_FAMILY, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE) as process:
        pid = int(until(lambda: next(iter(tmp_path.glob("[0-9]*")), None), 20, "its number").name)
        if kill:
            process.kill()
        process.communicate(timeout=20)
    assert process.returncode == (-signal.SIGKILL if kill else 0)
    until(lambda: None if runs(pid) else True, 10, "the end of the grandchild")


def runs(pid: int) -> bool:
    kinship = kinship_of(pid)
    return kinship is not None and not kinship.zombie


def test_what_is_not_installed_is_said() -> None:
    assert "pip install torch" in torchrun.peer("/no/torchrun").missing
    assert horovod_elastic.peer().name == HOROVOD


def benchmark(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.elasticity", *flags]
    return subprocess.Popen(
        command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--kinds=kill,flood", "--kinds: expected some of kill, hang, join, leave, sigterm, coordinator, got 'flood'"),
        ("--repeats=0", "--repeats: expected at least 1, got 0"),
        ("--data=/no/such/*.recordio", "/no/such/*.recordio"),
    ],
)
def test_wrong_requests_are_answered_in_a_line(flag: str, message: str, tmp_path: Path) -> None:
    process = benchmark(flag, "--peers=", f"--output={tmp_path}")
    text = process.communicate(timeout=60)[0]
    assert process.returncode in (2, 3) and message in text and "Traceback" not in text
    assert len(text.strip().splitlines()) == 1, text


@pytest.fixture
def needs_horovod() -> None:
    pytest.importorskip("horovod", reason="Horovod is not installed: python -m edl_allreduce.horovod_wheel install")


@pytest.mark.usefixtures("needs_horovod")
def test_a_short_run(digits: Path, tmp_path: Path) -> None:
    flags = ("--kinds=kill,coordinator", "--repeats=1", "--workers=2", "--peers=torchrun", "--torchrun=/no/torchrun")
    process = benchmark(*flags, f"--data={digits}/train/*.recordio", f"--output={tmp_path}")
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 0, text
    written = json.loads((tmp_path / "elasticity.json").read_text())
    kill, coordinator = sorted(written["measurements"], key=lambda each: str(each["kind"]), reverse=True)
    assert kill["kind"] == "kill" and coordinator["kind"] == "coordinator"
    assert kill["values"][REPEATED] == 0 and 0 < kill["values"][NEXT_STEP] < 60
    assert abs(kill["values"][figures.PAUSE] - kill["values"][figures.TOLD]) < 1
    assert coordinator["values"][figures.GAP] < coordinator["values"][figures.GREETED] + 1
    assert written["largest relative difference of a step's loss"] < 1e-4 and written["steps compared"] > 10
    assert written["machine"]["cores"] and written["versions"]["horovod"]
    assert "not installed" in written["notes"]["torchrun"] and "not installed" in text
    assert (tmp_path / "elasticity.png").read_bytes().startswith(b"\x89PNG")
    assert NEXT_STEP in text and left_over(tmp_path) == []


@pytest.mark.usefixtures("needs_horovod")
def test_ctrl_c_leaves_nothing_behind(digits: Path, tmp_path: Path) -> None:
    process = benchmark("--repeats=1", "--peers=", f"--data={digits}/train/*.recordio", f"--output={tmp_path}")
    until(lambda: list(tmp_path.glob("work/home/jobs/*/workers.json")) or None, 60, "the first workers")
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=90)[0]
    assert process.returncode == 130 and "Traceback" not in text, text
    assert left_over(tmp_path) == []
