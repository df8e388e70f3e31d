"""The supervisor starts a killed coordinator again, knows when to give up, and leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from google.protobuf import json_format

from edl_allreduce.control.control_pb2 import Status
from edl_allreduce.job_folder import JobFolder
from edl_allreduce.processes import Process, process_of
from rendezvous import supervisor
from tests.fakes import alive, gone

COORDINATOR = """\
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1].removeprefix("--job_folder="))
restarts = int(os.environ["EDL_RESTARTS"])
def say(*words):
    with (folder / "said").open("a") as file:
        print(restarts, *words, file=file)
def end(phase, exit_code):
    (folder / "status.json").write_text(json.dumps({"phase": phase, "exit_code": exit_code}))
    sys.exit(exit_code)
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def beat():
    os.write(int(os.environ["EDL_PULSE"]), b".")
def worker(*command):
    return os.posix_spawnp("sleep", ["sleep", *(command or ["600"])], os.environ)
say("up", os.getpid())
"""


class Site:
    """A job whose coordinator is a few lines of Python."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = JobFolder(tmp_path / "jobs" / "a")
        self.folder.create("{}", "secret")
        self.package = tmp_path / "fakes" / "rendezvous"
        self.package.mkdir(parents=True)
        extend = "import pkgutil\n__path__ = pkgutil.extend_path(__path__, __name__)\n"
        (self.package / "__init__.py").write_text(extend)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, coordinator: str, *flags: str, **limits: float) -> subprocess.Popen[bytes]:
        """The supervisor; our end of its standard input is what a launcher holds."""
        (self.package / "__main__.py").write_text(COORDINATOR + textwrap.dedent(coordinator))
        changes = "".join(f"supervisor.{name} = {value}; " for name, value in limits.items())
        code = f"import sys; from rendezvous import supervisor; {changes}sys.exit(supervisor.main())"
        path = f"{self.package.parent}:{Path(__file__).parent.parent}"
        with self.folder.coordinator_log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, f"--job_folder={self.folder.path}", *flags],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": path},
                cwd=self.package.parent,
                start_new_session=True,
            )
        return self.process

    def said(self, count: int = 0) -> list[str]:
        """What coordinators have said, once it is so many lines."""
        file = self.folder.path / "said"
        until(lambda: (file.read_text().count("\n") if file.exists() else 0) >= count)
        return file.read_text().splitlines()

    def ended(self, code: int) -> Status:
        """The final status, of a job that ended with this code and left nothing behind."""
        assert self.process
        assert self.process.wait(20) == code, self.folder.coordinator_log.read_text()
        assert alive(self.process.pid) == [] and not self.folder.tmp.exists()
        return json_format.Parse(self.folder.status.read_text(), Status())

    def log(self) -> list[str]:
        """The log's lines without their times."""
        return [line.partition(" ")[2] for line in self.folder.coordinator_log.read_text().splitlines()]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    if made.process:
        for process in psutil.process_iter():
            if process.is_running() and process.pid != os.getpid() and _group(process.pid) == made.process.pid:
                process.kill()  # a test has failed
        made.process.communicate()


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def until(done: Callable[[], bool]) -> None:
    from time import monotonic, sleep

    end = monotonic() + 20
    while not done():
        assert monotonic() < end, "it did not come to that"
        sleep(0.01)  # other processes' doings: there is no event to await


@pytest.mark.parametrize(("phase", "code"), [("done", 0), ("failed", 5), ("stopped", 130)])
def test_a_job_that_ends_by_itself_just_ends(phase: str, code: int, site: Site) -> None:
    site.start(f"worker(); end({phase!r}, {code})")
    assert site.ended(code).phase == phase
    assert [line.split()[:2] for line in site.said()] == [["0", "up"]] and site.log() == []


def test_a_killed_coordinator_is_started_again_and_its_workers_go_on(site: Site) -> None:
    process = site.start("""
        if restarts == 0:
            say("worker", worker())
        if restarts < 2:
            die()
        [pid] = [line.split()[2] for line in (folder / "said").read_text().splitlines() if "worker" in line]
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text().split()
        say("it is", stat[2], "under", stat[3])
        end("done", 0)
    """)
    assert site.ended(0).phase == "done"
    assert site.said()[-1] == f"2 it is S under {process.pid}", "an orphan is the supervisor's, and lives"
    assert site.log()[:2] == [
        f"WARNING the coordinator ended unexpectedly (killed by SIGKILL); restart {number}" for number in (1, 2)
    ]


@pytest.mark.parametrize(
    ("death", "how"),
    [("die()", "killed by SIGKILL"), ("sys.exit(1)", "exit code 1"), ("pass", "exit code 0")],
)
def test_it_gives_up_after_several_deaths(death: str, how: str, site: Site) -> None:
    site.start(f"worker(); (folder / 'tmp').mkdir(exist_ok=True); {death}")
    status = site.ended(6)
    verdict = f"the coordinator ended unexpectedly 5 times in a row ({how})"
    assert (status.phase, status.exit_code) == ("failed", 6)
    assert status.message == f"{verdict}; see {site.folder.coordinator_log}"
    assert len(site.said()) == 5 and site.log()[-1] == f"ERROR {verdict}"


@pytest.mark.parametrize(
    ("before", "served", "seconds", "after"),
    [(0, False, 0.1, 1), (3, False, 600, 4), (3, True, 2.9, 4), (3, True, 3.0, 0), (0, True, 3600, 0)],
)
def test_who_was_of_use_does_not_count(before: int, served: bool, seconds: float, after: int) -> None:
    assert supervisor.useless_in_a_row(before, served, seconds) == after


def test_a_job_may_lose_any_number_of_coordinators_that_work(site: Site) -> None:
    site.start(
        """
        if restarts == 12:
            end("done", 0)
        if restarts % 4:  # one in four is of use
            die()
        (folder / ".address").write_text("127.0.0.1:1")
        os.replace(folder / ".address", folder / "address")
        time.sleep(0.2)
        die()
        """,
        USEFUL_SECONDS=0.2,
    )
    assert site.ended(0).phase == "done" and len(site.said()) == 13


def test_a_coordinator_killed_after_the_jobs_end_is_not_started_again(site: Site) -> None:
    site.start("(folder / 'status.json').write_text('{\"phase\": \"done\"}'); die()")
    assert site.ended(0).phase == "done" and len(site.said()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(number: signal.Signals, site: Site) -> None:
    process = site.start("""
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda number, frame: (say("told", number), end("stopped", 130)))
        say("ready")
        signal.pause()
    """)
    site.said(2)
    process.send_signal(number)
    assert site.ended(130).message == "" and site.said()[-1] == f"0 told {number}"


def test_a_coordinator_that_dies_of_the_signal_has_stopped(site: Site) -> None:
    process = site.start("worker(); signal.pause()")
    site.said(1)
    process.terminate()
    assert site.ended(130) == Status(phase="stopped", message="stopped by SIGTERM", exit_code=130)
    assert len(site.said()) == 1


def test_a_signal_while_there_is_no_coordinator_is_not_lost(site: Site) -> None:
    process = site.start("worker(); signal.pause()")
    coordinator = int(site.said(1)[0].split()[2])
    process.send_signal(signal.SIGSTOP)
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    os.kill(coordinator, signal.SIGKILL)
    process.terminate()
    process.send_signal(signal.SIGCONT)
    assert site.ended(130).message == "stopped by SIGTERM" and len(site.said()) == 1


def test_a_coordinator_that_takes_over_is_told_once_it_heeds_signals(site: Site) -> None:
    process = site.start("""
        if restarts == 0:
            die()
        say("importing")
        while not (folder / "go").exists():
            time.sleep(0.01)
        signal.signal(signal.SIGTERM, lambda number, frame: (say("saves"), end("stopped", 130)))
        beat()
        signal.pause()
    """)
    site.said(3)
    process.terminate()
    (site.folder.path / "go").touch()
    assert site.ended(130).message == "" and site.said()[-1] == "1 saves"


def test_a_coordinator_that_hangs_is_killed_once_it_has_given_signs_of_life(site: Site) -> None:
    site.start(
        """
        if restarts:
            end("done", 0)
        time.sleep(0.8)  # it indexes, and has not begun
        beat()
        say("began")
        worker()
        os.kill(os.getpid(), signal.SIGSTOP)
        """,
        HUNG_SECONDS=0.5,
    )
    assert site.ended(0).phase == "done"
    assert [line.partition(" (")[0] for line in site.log()[:2]] == [
        "WARNING the coordinator has given no sign of life for 0.5 s: it is killed",
        "WARNING the coordinator ended unexpectedly",
    ]
    assert [line.split()[1] for line in site.said()] == ["up", "began", "up"]


def test_a_coordinator_that_does_not_obey_is_killed(site: Site) -> None:
    process = site.start("worker(); os.kill(os.getpid(), signal.SIGSTOP)", STOP_SECONDS=0.3)
    site.said(1)
    process.terminate()
    assert site.ended(130).message == "stopped by SIGTERM"


def test_every_coordinator_sees_the_launchers_death(site: Site) -> None:
    process = site.start("""
        worker()
        if restarts == 0:
            die()
        say("waits")
        assert sys.stdin.read() == ""
        say("alone")
        end("stopped", 130)
    """)
    site.said(3)
    assert process.stdin
    process.stdin.close()
    assert site.ended(130).phase == "stopped" and site.said()[-1] == "1 alone"


def test_the_launchers_death_ends_a_deaf_coordinator_too(site: Site) -> None:
    process = site.start("worker(); signal.pause()", STOP_SECONDS=0.3)
    site.said(1)
    assert process.stdin
    process.stdin.close()
    assert site.ended(130).message == "its launcher has ended"


def test_a_detached_job_survives_its_launcher_but_not_its_supervisor(site: Site) -> None:
    process = site.start(
        """
        files = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        say("open", *[os.readlink(file).partition(":")[0] for file in files if os.path.lexists(file)])
        sys.stdin.read()
        say("alone")
        """,
        "--detached",
    )
    assert process.stdin
    process.stdin.close()
    assert site.said(2)[1].split()[2:].count("pipe") == 2, "standing for the launcher's life, and for its own"
    assert process.poll() is None
    process.kill()
    process.wait()
    assert site.said(3)[-1] == "0 alone" and gone(process.pid)


def test_orphans_leave_no_zombies(site: Site) -> None:
    process = site.start("""
        if restarts == 0:
            say("worker", worker("0.2"))
            die()
        sys.stdin.read()
        end("done", 0)
    """)
    pid = int(next(line for line in site.said(3) if "worker" in line).split()[2])
    until(lambda: not psutil.pid_exists(pid))
    assert f"INFO process {pid} of an earlier coordinator ended (exit code 0)" in site.log()
    assert process.stdin
    process.stdin.close()
    site.ended(0)


def test_processes_in_sessions_of_their_own_end_with_the_job(site: Site) -> None:
    site.start("""
        if os.fork() == 0:  # a worker
            if os.fork() == 0:  # what its user's code has started
                os.setsid()
                say("session", os.getpid())
                signal.pause()
            signal.pause()
        while "session" not in (folder / "said").read_text():
            time.sleep(0.01)
        end("done", 0)
    """)
    assert site.ended(0).phase == "done"
    [session] = [int(line.split()[2]) for line in site.said() if "session" in line]
    until(lambda: not psutil.pid_exists(session))


def test_whoever_looks_for_the_job_finds_its_supervisor(site: Site) -> None:
    process = site.start("sys.stdin.read(); end('done', 0)")
    site.said(1)
    assert Process(**json.loads(site.folder.supervisor.read_text())) == process_of(process.pid)
    assert process.stdin
    process.stdin.close()
    site.ended(0)


def test_it_is_light() -> None:
    code = "import rendezvous.supervisor, sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"grpc", "google", "numpy", "asyncio", "subprocess", "logging"} & set(ran.stdout.split())
