"""Faults in a job of torchrun: kills under one agent with all workers, workers that come and go as agents of one."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from benchmarks.elasticity.figures import TORCHRUN
from benchmarks.elasticity.peer import Peer, PeerJob, Setting
from benchmarks.elasticity.settings import READY_SECONDS
from benchmarks.elasticity.stamps import until

ALONE, AGENTS = ("kill",), ("leave", "join")
GROUPS = (ALONE, AGENTS, ("hang",))
RESTARTS = 10_000
ABOUT = (
    "DistributedDataParallel with Gloo on the CPU, a snapshot every 10 steps; kill and hang: one agent with all "
    "workers; join and leave: one agent per worker, last_call_timeout=1 (default 30 s); "
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, without which restarts fail (github.com/pytorch/pytorch/issues/135712)"
)


def peer(command: str) -> Peer:
    """The torchrun at a path, or of that name."""
    found = shutil.which(command)
    missing = "" if found else f"{command} is not installed: pip install torch numpy (--torchrun=PATH says where)"
    about = f"PyTorch {_version(found)}, {ABOUT}" if found else ABOUT
    return Peer(TORCHRUN, GROUPS, lambda setting, group: TorchrunJob(setting, group, str(found)), missing, about)


class TorchrunJob(PeerJob):
    """A job under torchrun.

    Args:
        group: the kinds of faults that will come.
        command: torchrun.
    """

    name = TORCHRUN

    def __init__(self, setting: Setting, group: tuple[str, ...], command: str) -> None:
        super().__init__(setting)
        self._agents_wanted, self._command = group == AGENTS, command
        self._agents: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        """Starts the agents."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self._id = secrets.token_hex(4)
        self._start_agent()
        until(self._meeting_place, READY_SECONDS, "torchrun's store")  # the first agent's, not whoever is fastest
        for _ in range(self.size - 1 if self._agents_wanted else 0):
            self._start_agent()

    def leave(self) -> None:
        """Tells an agent to end; never the first, which keeps the others' meeting place."""
        agent = self._agents.pop(self._chance.randrange(1, len(self._agents)))
        self._family.forget(agent)
        agent.send_signal(signal.SIGTERM)
        self.size -= 1

    def join(self) -> None:
        """Starts another agent."""
        self._start_agent()
        self.size += 1

    def environ(self) -> dict[str, str]:
        """Restarted workers would find the addresses of those before them in a shared store."""
        return super().environ() | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

    def _meeting_place(self) -> bool | None:
        self.check()
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", self._port)):
            return True
        return None

    def _start_agent(self) -> None:
        full = self._settings.workers
        nodes, each = (f"{full - 1}:{full}", 1) if self._agents_wanted else ("1", full)
        agent = self._family.start(
            [
                self._command,
                f"--nnodes={nodes}",
                f"--nproc-per-node={each}",
                f"--max-restarts={RESTARTS}",
                "--rdzv-backend=c10d",
                f"--rdzv-endpoint=127.0.0.1:{self._port}",
                f"--rdzv-id={self._id}",
                "--rdzv-conf=last_call_timeout=1",
                "--local-addr=127.0.0.1",
                *("-m", "benchmarks.peers.torch_elastic"),
                *self.training_flags(),
                f"--snapshot={self._folder / 'snapshot.pt'}",
            ],
            self.environ(),
        )
        self._agents.append(agent)


def _version(torchrun: str) -> str:
    """Of the PyTorch that a torchrun belongs to."""
    code = "from importlib.metadata import version; print(version('torch'))"
    python = Path(torchrun).parent / "python"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return asked.stdout.strip() or "of unknown version"
