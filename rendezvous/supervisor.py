"""Keeps the coordinator of a job of this machine alive: `python -m rendezvous.supervisor --job_folder=FOLDER`.

The outermost process of the job and the leader of its process group (the launcher starts it). It starts the
coordinator, and starts it again when that ends without having written how the job has ended; workers that it leaves
behind become the supervisor's children and go on. When the supervisor ends, no process of the job is left. It does so
little, with so little, that hardly anything but a kill can end it early; then its launcher cleans up.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from edl_allreduce.cluster import CONFIG_FOLDER, SECRET_FOLDER, SPEC_FILE, TOKEN_FILE
from edl_allreduce.job_folder import JobFolder, write_whole
from edl_allreduce.processes import describe_exit, kinship_of, pids, process_of, signal_name

MAX_DEATHS = 5  # in a row, of coordinators that were of no use: then the supervisor gives up
USEFUL_SECONDS = 3.0  # a coordinator that has served, and lived so long, was of use
HUNG_SECONDS = 30.0  # a coordinator that has given signs of life, and gives none for so long, is killed
STOP_SECONDS = 30.0  # for the coordinator to save what it has and to end the job, once it has been told to
CLEANUP_SECONDS = 5.0  # for killed processes to be gone
FAILED_EXIT_CODE, STOPPED_EXIT_CODE, DEPARTED_EXIT_CODE = 6, 130, 143
TERMINATION_LOG = "/dev/termination-log"  # what a pod's status says of its end
ENDED = ("done", "failed", "stopped")
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def main() -> int:
    """The exit code of the job."""
    parser = argparse.ArgumentParser(prog="python -m rendezvous.supervisor", description=__doc__, allow_abbrev=False)
    parser.add_argument("--job_folder", required=True, type=Path, help="with spec.json and token in it")
    parser.add_argument("--detached", action="store_true", help="the job goes on when its launcher ends")
    parser.add_argument("--pod", action="store_true", help="it runs in a pod of Kubernetes, and its workers do")
    parser.add_argument("--open_to_readers", action="store_true", help="the dashboard may be read without the token")
    arguments = parser.parse_args()
    folder = JobFolder(arguments.job_folder.absolute())
    if arguments.pod:
        furnish(folder)
    if arguments.detached:
        _hold_own_input()
    _adopt_orphans()
    me = process_of(os.getpid())
    assert me
    write_whole(folder.supervisor, json.dumps(dataclasses.asdict(me)))
    given = {"--pod": arguments.pod, "--open_to_readers": arguments.open_to_readers}
    options = tuple(option for option, is_given in given.items() if is_given)
    return (PodSupervisor if arguments.pod else Supervisor)(folder, options).run()


def useless_in_a_row(before: int, served: bool, seconds: float) -> int:
    """How many coordinators in a row were of no use, after one that ended unexpectedly.

    A job may lose any number of coordinators, as long as they work in between. Those that fail as soon as they are
    started would do so forever.

    Args:
        before: how many there were before this one.
        served: whether workers could reach it.
        seconds: how long it lived.
    """
    return 0 if served and seconds >= USEFUL_SECONDS else before + 1


def furnish(folder: JobFolder) -> None:
    """Makes the job's folder in a pod, from what is mounted there."""
    spec = (Path(CONFIG_FOLDER) / SPEC_FILE).read_text(encoding="utf-8")
    token = (Path(SECRET_FOLDER) / TOKEN_FILE).read_text(encoding="ascii")
    with contextlib.suppress(FileExistsError):
        folder.create(spec, token)


class Supervisor:
    """Runs one coordinator after the other, until the job has ended. One thread, which waits for signals.

    Args:
        options: for each coordinator.
    """

    def __init__(self, folder: JobFolder, options: tuple[str, ...] = ()) -> None:
        self._folder, self._options = folder, options
        self._told_to_stop = ""  # why; empty: the job goes on
        self._deadline: float | None = None  # then a coordinator that does not stop is killed
        self._hung_at: float | None = None  # then a coordinator is killed, unless it gives a sign of life before
        self._heeds = False  # this coordinator minds signals
        self._poll = select.poll()
        (self._signals, wakes), (self._beats, self._pulse) = os.pipe(), os.pipe()
        for end in (self._signals, wakes, self._beats, self._pulse):
            os.set_blocking(end, False)
        os.set_inheritable(self._pulse, True)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # it arrives in the pipe; a program that is started has the default
        self._poll.register(self._signals, select.POLLIN)
        self._poll.register(self._beats, select.POLLIN)
        with contextlib.suppress(OSError):
            os.fstat(0)
            self._poll.register(0, 0)  # never read, only its end is noticed

    def run(self) -> int:
        """The exit code of the job, of which no process is left."""
        restarts = useless = 0
        while True:
            began, address = time.monotonic(), _identity(self._folder.address)
            how = self._run_coordinator(restarts)
            exit_code = final_exit_code(self._folder.status)
            if exit_code is not None:
                return self._end(exit_code)
            if self._told_to_stop:
                return self._stopped(self._told_to_stop)
            served = _identity(self._folder.address) != address
            useless = useless_in_a_row(useless, served, time.monotonic() - began)
            if useless >= MAX_DEATHS:
                verdict = f"the coordinator ended unexpectedly {useless} times in a row ({how})"
                _say("ERROR", verdict)
                return self._failed(verdict)
            restarts += 1
            _say("WARNING", f"the coordinator ended unexpectedly ({how}); restart {restarts}")

    def _run_coordinator(self, restarts: int) -> str:
        """How the coordinator ended."""
        self._hung_at, self._heeds = None, not restarts  # one that takes over has something to save, and is let begin
        told: list[int] = []
        try:
            pid = _start_coordinator(self._folder, restarts, self._options, self._pulse)
        except OSError as error:
            return f"could not be started: {error.strerror}"
        while (code := _reap_and_tell(pid)) is None:
            told += self._await()
            if self._heeds:
                for number in told:
                    os.kill(pid, number)
                told = []
            now = time.monotonic()
            if self._hung_at is not None and now >= self._hung_at:
                _say("WARNING", f"the coordinator has given no sign of life for {HUNG_SECONDS:g} s: it is killed")
            if any(when is not None and now >= when for when in (self._deadline, self._hung_at)):
                os.kill(pid, signal.SIGKILL)
                self._deadline = self._hung_at = None
        return describe_exit(code)

    def _await(self, most: float | None = None) -> list[int]:
        """Waits for something to happen; returns the signals that ask for the job's end.

        What comes while there is no coordinator waits for the next one, who is told as soon as it heeds signals.
        """
        began, when = time.monotonic(), [each for each in (self._deadline, self._hung_at) if each is not None]
        left = max(0.0, min(when) - began) if when else None
        patience = min((each for each in (most, left) if each is not None), default=None)
        happened = dict(self._poll.poll(None if patience is None else patience * 1000))
        now = time.monotonic()
        if self._beats in happened:
            os.read(self._beats, 1 << 10)
            self._hung_at, self._heeds = now + HUNG_SECONDS, True
        elif self._hung_at is not None and patience is not None and now - began > patience + USEFUL_SECONDS:
            self._hung_at = now + HUNG_SECONDS  # it was this process that was held up
        if 0 in happened:
            self._poll.unregister(0)
            if happened[0] & select.POLLHUP:
                self._stop("its launcher has ended")  # the coordinator notices that as well
        if self._signals not in happened:
            return []
        numbers = [number for number in os.read(self._signals, 1 << 10) if number != signal.SIGCHLD]
        for number in numbers:
            self._stop(f"stopped by {signal_name(number)}")
        return numbers

    def _stop(self, why: str) -> None:
        self._told_to_stop = self._told_to_stop or why
        self._deadline = self._deadline or time.monotonic() + STOP_SECONDS

    def _stopped(self, why: str) -> int:
        """The exit code, after a coordinator has done what a signal asked for, or could not."""
        return self._end(STOPPED_EXIT_CODE, "stopped", why)

    def _failed(self, verdict: str) -> int:
        """The exit code, when no coordinator is of any use."""
        return self._end(FAILED_EXIT_CODE, "failed", f"{verdict}; see {self._folder.coordinator_log}")

    def _end(self, exit_code: int, phase: str = "", message: str = "") -> int:
        """Leaves nothing behind but the job's files; writes the final status, if the coordinator could not."""
        self._deadline = time.monotonic() + CLEANUP_SECONDS
        while (others := list(_others())) and time.monotonic() < self._deadline:
            for pid in others:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._await(0.05)
            _reap()
        self._folder.remove_tmp()
        if phase:
            _write_status(self._folder, exit_code, phase, message)
        return exit_code


class PodSupervisor(Supervisor):
    """The outermost process of a coordinator's pod. The job may outlive it: its pod is replaced then."""

    def _stopped(self, why: str) -> int:
        _say("INFO", f"{why}: the job goes on with another coordinator")
        return super()._end(DEPARTED_EXIT_CODE)

    def _failed(self, verdict: str) -> int:
        _write_status(self._folder, FAILED_EXIT_CODE, "failed", f"{verdict}; its log says why")
        self._run_coordinator(0)  # finds that status, and tells the cluster
        return self._end(FAILED_EXIT_CODE)

    def _end(self, exit_code: int, phase: str = "", message: str = "") -> int:
        code = super()._end(exit_code, phase, message)
        with contextlib.suppress(OSError, ValueError):
            said = json.loads(self._folder.status.read_text(encoding="utf-8"))
            Path(TERMINATION_LOG).write_text(str(said.get("message", "")) or str(said["phase"]), encoding="utf-8")
        return code


def final_exit_code(path: Path) -> int | None:
    """The exit code in a final status (a Status message as JSON); None when the job has not ended."""
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
        return int(status.get("exit_code", 0)) if status.get("phase") in ENDED else None
    except (FileNotFoundError, ValueError):
        return None


def _write_status(folder: JobFolder, exit_code: int, phase: str, message: str) -> None:
    write_whole(folder.status, json.dumps({"phase": phase, "message": message, "exit_code": exit_code}))


def _identity(path: Path) -> tuple[int, int] | None:
    """What changes whenever a file is written anew; None when there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _start_coordinator(folder: JobFolder, restarts: int, options: tuple[str, ...], pulse: int) -> int:
    command = [sys.executable, "-m", "rendezvous", f"--job_folder={folder.path}", *options]
    return os.posix_spawn(command[0], command, os.environ | {"EDL_RESTARTS": str(restarts), "EDL_PULSE": str(pulse)})


def _reap() -> dict[int, int]:
    """The return code of every child that has ended since the last time."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return ended


def _reap_and_tell(coordinator: int) -> int | None:
    """The coordinator's return code, once it has ended; how orphans have ended is noted."""
    ended = _reap()
    for pid in ended.keys() - {coordinator}:
        _say("INFO", f"process {pid} of an earlier coordinator ended ({describe_exit(ended[pid])})")
    return ended.get(coordinator)


def _others() -> Iterator[int]:
    """Our children, grown or adopted, and the other members of our process group if we lead it."""
    own = os.getpid()
    group = own if os.getpgrp() == own else None
    for pid in pids():
        kinship = kinship_of(pid)
        if kinship and pid != own and (kinship.parent == own or (kinship.group == group and not kinship.zombie)):
            yield pid


def _hold_own_input() -> None:
    """Makes our standard input a pipe that ends with us; its other end is nobody else's."""
    read_end, _ = os.pipe()
    os.dup2(read_end, 0)
    os.close(read_end)


def _adopt_orphans() -> None:
    """Makes us the parent of every descendant whose own parent ends; without it they are found by their group."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _say(level: str, text: str) -> None:
    """A line in the coordinator's log, in its own format."""
    now = time.time()
    print(f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03d} {level} {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
