"""Faults in a job of Horovod Elastic: every worker on a "host" of its own, as it takes a failed host out of service."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.elasticity.family import REPOSITORY
from benchmarks.elasticity.figures import HOROVOD
from benchmarks.elasticity.peer import Peer, PeerJob, Setting
from edl_allreduce.job_folder import write_whole
from edl_allreduce.processes import environment

GROUPS = (("kill", "leave", "join"), ("hang",))
ABOUT = (
    "horovodrun with one slot on each of several loopback addresses, ssh replaced by a local shell; state committed "
    "every 10 steps; Gloo's timeout is the default (30 s); Horovod is "
)
OURS = (
    "the one of our own build, with all changes of edl_allreduce/horovod_patches.py, which make its reforms faster, too"
)
INSTALL = "horovodrun is not installed: python -m edl_allreduce.horovod_wheel install"
ANOTHER = "that of --horovod={}"  # made by `python -m edl_allreduce.horovod_wheel build --as_released`, if all is well
SSH = """\
#!/bin/sh
# Stands in for ssh: what is meant for another host of the loopback network runs here.
while [ "$1" = -o ] || [ "$1" = -p ] || [ "$1" = -i ]; do shift 2; done
shift
exec /bin/sh -c "$*"
"""


def peer(folder: str = "") -> Peer:
    """Horovod Elastic as it is installed here, or in a folder of its own."""
    there = _command(folder) and (folder or find_spec("horovod"))
    missing = f"--horovod={folder}: there is no bin/horovodrun in it" if folder else INSTALL
    about = ABOUT + (ANOTHER.format(folder) if folder else OURS)
    return Peer(HOROVOD, GROUPS, lambda setting, _: HorovodJob(setting, folder), "" if there else missing, about)


class HorovodJob(PeerJob):
    """A job under horovodrun.

    Args:
        setting: what it is given.
        installed: the folder that Horovod is installed in; empty: this Python's environment.
    """

    name = HOROVOD

    def __init__(self, setting: Setting, installed: str) -> None:
        super().__init__(setting)
        self._installed = installed

    def begin(self) -> None:
        """Starts horovodrun."""
        self._addresses = (f"127.0.{number // 250}.{number % 250 + 2}" for number in itertools.count())
        self._hosts = [next(self._addresses) for _ in range(self.size)]
        self._announce()
        bin = self._folder / "bin"
        bin.mkdir()
        _write_script(bin / "ssh", SSH)
        _write_script(self._folder / "discover", f"#!/bin/sh\ncat '{self._folder / 'hosts'}'\n")
        run = _command(self._installed)
        assert run
        self._family.start(
            [
                run,
                *("--min-np", str(self.size - 1)),
                *("--max-np", str(self.size)),
                *("-np", str(self.size)),
                *("--host-discovery-script", str(self._folder / "discover")),
                *("--network-interfaces", "lo"),
                *(sys.executable, "-m", "benchmarks.peers.horovod_elastic"),
                *self.training_flags(),
            ],
            self.environ()
            | {
                "PATH": f"{bin}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
                "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), self._installed])),
            },
        )

    def leave(self) -> None:
        """Takes a host away."""
        self._hosts.remove(self._chance.choice(self._hosts))
        self.size -= 1
        self._announce()

    def join(self) -> None:
        """Offers a host that has not been there before."""
        self._hosts.append(next(self._addresses))
        self.size += 1
        self._announce()

    def kill(self, pid: int) -> None:
        """Horovod never uses a host again on which a worker has failed; the next host makes up for it."""
        self._hosts.remove(environment(pid)["HOROVOD_HOSTNAME"])
        self.size -= 1
        super().kill(pid)

    def _announce(self) -> None:
        write_whole(self._folder / "hosts", "".join(f"{host}:1\n" for host in self._hosts))


def _command(installed: str) -> str | None:
    """Where horovodrun is; None: nowhere."""
    ours = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    path = os.path.join(installed, "bin") if installed else os.pathsep.join(ours)
    return shutil.which("horovodrun", path=path)


def _write_script(path: Path, text: str) -> None:
    write_whole(path, text, mode=0o755)
