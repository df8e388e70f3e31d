"""Runs a long build command so that a person sees it move and can read afterwards what it said.

On a terminal one live line shows the percentage, what is being made and the time elapsed; piped, a plain line appears
at every fifth of the way. Everything the command prints is kept in a file.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

from edl_allreduce.errors import EdlError

MADE = re.compile(r"\[ *(\d+)%\] (.+)")  # a progress line of CMake's makefiles: `[ 42%] Building CXX object x.o`
COMPLAINT = re.compile(r"\berror: |\bError \d|Killed|No space left|CMake Error", re.IGNORECASE)
PIP = re.compile(r"error: (subprocess-exited|failed)", re.IGNORECASE)  # what pip says of every failure


class Progress:
    """Writes phases as lines and, in between, one line that changes (terminal) or few lines (pipe)."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self.stream, self.live = stream, stream.isatty()
        self.title, self.percent, self.what = "the command", 0, ""
        self.started = time.monotonic()

    def phase(self, text: str) -> None:
        """Begins a phase: its line stays."""
        self.clear()
        print(text, file=self.stream, flush=True)
        self.title, self.percent, self.what, self.started = text.strip(), 0, "", time.monotonic()

    def line(self, text: str) -> None:
        """Takes one line of the command's output."""
        found = MADE.search(text)
        if not found:
            return
        before, self.percent = self.percent, int(found[1])
        self.what = found[2].rpartition("/")[2] if "/" in found[2] else found[2]
        if not self.live and self.percent // 20 > before // 20:
            print(f"  {self.percent:3d} %, {self._elapsed()}", file=self.stream, flush=True)

    def tick(self) -> None:
        """Shows on a terminal how far the command is; called about once a second and after each output."""
        if not self.live:
            return
        text = f"  {self.percent:3d} % {self._elapsed()} {self.what}" if self.what else f"  {self._elapsed()}"
        self.stream.write("\r\033[K" + text[: shutil.get_terminal_size().columns - 1])
        self.stream.flush()

    def clear(self) -> None:
        """Takes the live line away."""
        if self.live:
            self.stream.write("\r\033[K")
            self.stream.flush()

    def _elapsed(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60}:{seconds % 60:02d} min"


def run_logged(command: Sequence[str], environ: Mapping[str, str], log: Path, progress: Progress) -> None:
    """Runs a command to its end, its output (both streams) appended to `log` and shown through `progress`.

    The command gets a session of its own, so that whatever ends the waiting ends all of its processes.

    Raises:
        EdlError: it failed; the text has its complaints, its last lines and the log's path.
    """
    with log.open("ab") as kept, log.open("rb") as said:
        kept.write(f"$ {' '.join(command)}\n".encode())
        kept.flush()
        begin = said.seek(0, os.SEEK_END)
        with subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=kept,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            try:
                _show(process, said, progress)
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)
                raise
            finally:
                progress.clear()
        if process.returncode:
            said.seek(begin)
            lines = said.read().decode(errors="replace").splitlines()
            raise EdlError(_failure(progress.title, process.returncode, lines, log))


def _show(process: subprocess.Popen[bytes], said: BinaryIO, progress: Progress) -> None:
    """Passes what the log grows by to `progress`, about once a second, until the process has ended."""
    rest = ""
    ended = False
    while not ended:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1.0)
            ended = True
        *lines, rest = (rest + said.read().decode(errors="replace")).split("\n")
        for line in lines:
            progress.line(line)
        progress.tick()


def _failure(title: str, code: int, lines: Sequence[str], log: Path) -> str:
    """What to tell of a command that failed: its first complaints or else its last lines, and where the rest is."""
    found = [number for number, line in enumerate(lines) if COMPLAINT.search(line) and not PIP.search(line)][:3]
    shown = [line for number in found for line in lines[number : number + 4]] or lines[-12:]
    ended = f"exit code {code}" if code > 0 else f"signal {-code}"
    text = "\n".join(f"    {line.strip()[:300]}" for line in shown if line.strip())
    return f"{title}: failed ({ended}):\n{text}\nIts whole output: {log}"
