"""A network on this machine whose connections can be cut, for tests: Linux's network namespaces (ip-netns(8)).

    the machine itself: the coordinator ───┐
    namespace edl-PID-0:  worker 0 ────── switch, namespace edl-PID-switch
    namespace edl-PID-1:  worker 1 ────────┘

Every line is a pair of veth interfaces. The switch forwards, and drops what nftables tells it to; nobody is told of
that, as when a cable is cut. Needs root, and the Debian packages iproute2 and nftables.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

COORDINATOR = -1
_NAMESPACES = Path("/run/netns")
_RULES = """
table ip edl {
  set cut { type ipv4_addr . ipv4_addr; }
  set refused { type ipv4_addr . ipv4_addr; }
  set alone { type ipv4_addr; }
  chain loses { }
  chain forward {
    type filter hook forward priority 0;
    ip saddr . ip daddr @cut drop
    ip saddr . ip daddr @refused ip protocol tcp reject with tcp reset
    ip saddr @alone drop
    ip daddr @alone drop
    jump loses
  }
}
"""


def why_not() -> str | None:
    """Why there can be no such network here; None: there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "namespaces are made by root"
    if missing := [tool for tool in ("ip", "nft") if not shutil.which(tool)]:
        return f"not installed: {', '.join(missing)} (Debian packages iproute2, nftables)"
    probe = f"edl-{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", probe)
        try:
            _run("ip", "netns", "exec", probe, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
            _run("ip", "netns", "exec", probe, "nft", "-f", "-", text=_RULES)
        finally:
            _run("ip", "netns", "delete", probe)
    except subprocess.CalledProcessError as error:
        return f"namespaces cannot be made here: {' '.join(error.cmd)}: {error.stderr.strip()}"
    return None


@contextlib.contextmanager
def network(size: int) -> Iterator[Network]:
    """A network with places for so many workers; nothing of it is left afterwards, nor of runs that were killed.

    Raises:
        subprocess.CalledProcessError: this system does not allow it, or lacks something.
    """
    for owner in {int(found[1]) for name in _namespaces() if (found := re.match(r"edl-(\d+)-", name))}:
        if not Path(f"/proc/{owner}").exists():
            _remove(f"edl-{owner}")
    made = Network(f"edl-{os.getpid()}", size)
    try:
        made.build()
        yield made
    finally:
        _remove(made.name)


class Network:
    """Places numbered from 0, one for each worker, and the coordinator's.

    Args:
        name: what the names of all its namespaces begin with.
        size: how many places there are.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name, self._size = name, size
        self._prefix = ""

    def build(self) -> None:
        """Makes the namespaces and connects them."""
        self._prefix = _free_prefix()
        switch = f"{self.name}-switch"
        _run("ip", "netns", "add", switch)
        self._in(switch, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self._nft(_RULES)
        outside = _outside(self.name)
        _run("ip", "link", "add", outside, "type", "veth", "peer", "name", "coordinator", "netns", switch)
        self._connect([], outside, "coordinator", COORDINATOR)
        for place in range(self._size):
            own = self._namespace(place)
            _run("ip", "netns", "add", own)
            _run("ip", "-n", own, "link", "set", "lo", "up")
            _run("ip", "-n", own, "link", "add", "net0", "type", "veth", "peer", "name", f"to{place}", "netns", switch)
            self._connect(["-n", own], "net0", f"to{place}", place)

    def _connect(self, where: list[str], interface: str, port: str, place: int) -> None:
        """Gives both ends of a line their addresses: point to point, the switch has the same one everywhere."""
        own, switch, at_switch = self.address(place), f"{self._prefix}.254", ["-n", f"{self.name}-switch"]
        for end, name, address, peer in ((where, interface, own, switch), (at_switch, port, switch, own)):
            _run("ip", *end, "address", "add", address, "peer", peer, "dev", name)
            _run("ip", *end, "link", "set", name, "up")
        _run("ip", *where, "route", "add", f"{self._prefix}.0/24", "via", switch)

    def address(self, place: int) -> str:
        """The IP address of a place."""
        return f"{self._prefix}.{10 + place}"

    def inside(self, place: int, command: Sequence[str]) -> list[str]:
        """The command that runs a command at a place, which is a host of its own, called like its address.

        (Horovod 0.28.1 makes its ring between the addresses that hosts' names have, whatever HOROVOD_GLOO_IFACE is.)
        """
        named = ["unshare", "--uts", "sh", "-c", 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"']
        return ["ip", "netns", "exec", self._namespace(place), *named, self.address(place), *command]

    def drop(self, source: int, target: int) -> None:
        """From now on, nothing gets from `source` to `target`; the other direction is as it was."""
        self._nft(f"add element ip edl cut {{ {self.address(source)} . {self.address(target)} }}")

    def cut(self, one: int, other: int) -> None:
        """From now on, nothing gets from either of them to the other."""
        self.drop(one, other)
        self.drop(other, one)

    def refuse(self, one: int, other: int) -> None:
        """From now on, connections between them are reset, as by a firewall that rejects them."""
        addresses = self.address(one), self.address(other)
        for source, target in (addresses, addresses[::-1]):
            self._nft(f"add element ip edl refused {{ {source} . {target} }}")

    def isolate(self, place: int) -> None:
        """From now on, nothing gets to or from a place."""
        self._nft(f"add element ip edl alone {{ {self.address(place)} }}")

    def lose(self, per_mille: int) -> None:
        """From now on, so many of 1000 packets get lost, anywhere."""
        self._nft(f"add rule ip edl loses numgen random mod 1000 < {per_mille} drop")

    def heal(self) -> None:
        """From now on, everything gets everywhere."""
        self._nft("flush set ip edl cut; flush set ip edl refused; flush set ip edl alone; flush chain ip edl loses")

    def _nft(self, text: str) -> None:
        self._in(f"{self.name}-switch", "nft", "-f", "-", text=text)

    def _namespace(self, place: int) -> str:
        return f"{self.name}-{place}"

    def _in(self, namespace: str, *command: str, text: str = "") -> None:
        _run("ip", "netns", "exec", namespace, *command, text=text)


def processes_in(name: str) -> list[int]:
    """Process ids in all namespaces whose names begin so."""
    found = []
    for each in _namespaces():
        if each.startswith(f"{name}-"):
            found += [int(pid) for pid in _run("ip", "netns", "pids", each).split()]
    return found


def _namespaces() -> list[str]:
    return sorted(os.listdir(_NAMESPACES)) if _NAMESPACES.is_dir() else []


def _outside(name: str) -> str:
    """The interface of this machine itself."""
    return name.replace("-", "")


def _remove(name: str) -> None:
    """Ends what runs in the namespaces whose names begin so, and removes them with their interfaces."""
    for pid in processes_in(name):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if Path("/sys/class/net", _outside(name)).exists():
        _run("ip", "link", "delete", _outside(name))  # at once: a namespace's own go some time after it
    for each in _namespaces():
        if each.startswith(f"{name}-"):
            _run("ip", "netns", "delete", each)


def _free_prefix() -> str:
    """Three bytes of a private network that this machine has no route to."""
    routes = _run("ip", "-4", "route", "show", "table", "all")
    numbers = (str((os.getpid() + i) % 256) for i in range(256))
    return next(f"10.211.{number}" for number in numbers if f"10.211.{number}." not in routes)


def _run(*command: str, text: str = "") -> str:
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True, timeout=30).stdout
