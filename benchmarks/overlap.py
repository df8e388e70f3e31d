"""What it gains that gradients travel while others are still being computed: a step in buckets against all at the end.

Two workers train ResNet-50 (100 MB of gradients) on random images, over networks of several speeds. A network is made
slow by a limit on the loopback interface of a network namespace of this benchmark's own (`tc`, tbf), which root may do.
Without that right the machine's own loopback is measured, where sending costs the cores as much as it saves.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # it may be started as a file

from benchmarks.common import plots
from benchmarks.common.command import run
from benchmarks.common.report import Report
from benchmarks.common.summary import alternate, ratios, summary
from benchmarks.elasticity.settings import thread_settings
from benchmarks.ring.team import Team, team

CLONE_NEWNET = 0x40000000  # of <linux/sched.h>
BURST_BYTES, LATENCY_SECONDS = 1 << 20, 0.05  # of tbf: little enough to limit a step's 100 MB
WARM_UP_STEPS = 2
BUCKETS, AT_ONCE = "in buckets of 16 MB", "all at the end"
BYTES = {BUCKETS: 16 << 20, AT_ONCE: 1 << 40}


def measure(
    gbits: tuple[float, ...] = (2.0, 5.0, 10.0),
    batch: int = 16,
    image_size: int = 64,
    steps: int = 3,
    repeats: int = 9,
    short: bool = False,
    output: str = "out/overlap",
) -> None:
    """Runs the benchmark.

    Args:
        gbits: per second, of the network, for what both workers send together.
        batch: images per step and worker.
        image_size: width and height of the images.
        steps: of one measurement.
        repeats: measurements of each way, in turn.
        short: a look at it: one speed, two measurements.
        output: folder for results.
    """
    if short:
        gbits, repeats = gbits[1:2], 2
    report = Report("overlap", output, gbits=gbits, batch=batch, image_size=image_size, steps=steps)
    config = {"image_size": image_size, "classes": 1000, "precision": "", "batch": batch}
    gains: list[tuple[float, float]] = []
    limit = own_network()
    with _teams(config) as teams:
        for speed in gbits if limit else (0.0,):
            if limit:
                limit(speed)
            gains.append((speed, _measure(report, speed, teams, steps, repeats)))
    report.close(partial(_panel, gains))


def _panel(gains: Sequence[tuple[float, float]], axes: Any) -> None:
    names = {f"{speed:g} Gbit/s" if speed else "loopback": gain for speed, gain in gains}
    plots.bars(axes, names, 1.0)
    axes.set_xlabel("times as long as a step in buckets")
    plots.title(axes, "A step that sends all at the end")


def _measure(report: Report, speed: float, teams: Mapping[str, Team], steps: int, repeats: int) -> float:
    """How many times longer a step takes when all is sent at its end."""

    def seconds(way: str) -> float:
        slowest: float = max(teams[way].ask(do="train", steps=steps))
        return slowest / steps

    found = alternate({way: partial(seconds, way) for way in teams}, repeats)
    longer = ratios(found[AT_ONCE], found[BUCKETS])
    rows = [{"a step": way, "ms": summary(1e3 * each for each in found[way])} for way in found]
    report.table(f"{speed:g} Gbit/s" if speed else "loopback, not limited", rows)
    report.result[f"{speed:g} Gbit/s: {AT_ONCE} / {BUCKETS}"] = longer.median
    print(f"{AT_ONCE} / {BUCKETS}: {longer}")
    return longer.median


@contextmanager
def _teams(config: Mapping[str, Any]) -> Iterator[dict[str, Team]]:
    """Two workers for each way; those whose turn it is not sleep."""
    with ExitStack() as stack:
        teams = {}
        for way, size in BYTES.items():
            told = json.dumps({**config, "bucket_bytes": size})
            teams[way] = stack.enter_context(team("benchmarks.ring.synthetic", 2, thread_settings(2), told))
            teams[way].join()
            teams[way].ask(do="train", steps=WARM_UP_STEPS)
        yield teams


def own_network() -> Callable[[float], None] | None:
    """What limits the loopback interface to so many Gbit/s; None: that is not allowed here.

    This process, and what it starts from now on, has a network of its own then, which is gone with it.
    """
    tc, ip = shutil.which("tc"), shutil.which("ip")
    if not tc or not ip:
        print("the network is not limited: tc and ip are not installed (package iproute2)")
        return None
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        print(f"the network is not limited: a network of its own: {os.strerror(ctypes.get_errno())}")
        return None
    subprocess.run([ip, "link", "set", "lo", "up"], check=True)

    def limit(gbits: float) -> None:
        shaping = f"tbf rate {gbits * 1000:g}mbit burst {BURST_BYTES} latency {LATENCY_SECONDS * 1000:g}ms"
        subprocess.run([tc, "qdisc", "replace", "dev", "lo", "root", *shaping.split()], check=True)

    return limit


if __name__ == "__main__":
    run(measure)
