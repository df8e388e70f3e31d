"""A process is told apart from whoever gets its number later."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from edl_allreduce.processes import (
    Process,
    command_line,
    describe_exit,
    environment,
    kinship_of,
    open_process,
    pids,
    process_of,
)


def test_a_process_is_known_by_its_number_and_its_birth() -> None:
    me = process_of(os.getpid())
    assert me and me == process_of(os.getpid()) and me != Process(me.pid, "some other day")
    descriptor = open_process(me)
    assert descriptor is not None and open_process(Process(me.pid, "some other day")) is None
    assert not select.select([descriptor], [], [], 0)[0]
    os.close(descriptor)


def test_an_ended_process_is_nobody() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        process = process_of(child.pid)
        assert process
        descriptor = open_process(process)
        assert descriptor is not None
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        assert select.select([descriptor], [], [], 10)[0]
        kinship = kinship_of(child.pid)
        assert kinship and kinship.zombie and kinship.parent == os.getpid()
    os.close(descriptor)
    assert process_of(child.pid) is None and kinship_of(child.pid) is None and open_process(process) is None
    assert command_line(child.pid) == [] and environment(child.pid) == {}


def test_names_with_brackets_and_empty_words_are_read() -> None:
    code = "import sys; open('/proc/self/comm', 'w').write(') R 1 ('); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, "", "--last=ä b"]
    environ = {"A": "1=2", "EMPTY": ""}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as child:
        assert child.stdout and child.stdout.readline()
        kinship = kinship_of(child.pid)
        assert kinship and (kinship.parent, kinship.group, kinship.zombie) == (os.getpid(), os.getpgrp(), False)
        assert command_line(child.pid)[1:] == command[1:] and environment(child.pid) == environ
        assert {child.pid, os.getpid()} <= set(pids())


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "exit code 0"), (-9, "killed by SIGKILL"), (-41, "killed by signal 41"), (130, "exit code 130")],
)
def test_how_a_process_ended(code: int, text: str) -> None:
    assert describe_exit(code) == text
