"""Takes the pictures of the documents from real jobs: `python -m scripts.screenshots` (docs/images/*.png).

A training of the digits with three workers, of which one is killed and to which one is added; and three trainings with
other parameters, over each other. Needs Chromium and Playwright, and some minutes.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

import launcher
from edl_allreduce.control.control_pb2 import Status
from launcher.handle import JobHandle
from launcher.recorded import served
from tests.browser import browser

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGES = REPOSITORY / "docs" / "images"
WIDE = {"width": 1280, "height": 1010}
SCHEMES = ("light", "dark")
COLOURS = 256  # of a picture
MOST_BYTES = 150_000
SLOW = "hidden_units=32, learning_rate=0.0004"  # so that there is a curve to be seen
COMPARED = ("hidden_units=16, learning_rate=0.002", "hidden_units=64, learning_rate=0.004", "hidden_units=256")


def main() -> None:
    """Takes all of them."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, browser() as chromium:
        os.environ["EDL_HOME"] = f"{scratch}/home"
        os.chdir(scratch)  # so that the pages show short paths
        subprocess.run([sys.executable, "-m", "model_zoo.digits", "make", "data"], cwd=scratch, check=True)
        with eventful_job() as job, job.dashboard() as url:
            take(chromium, url, "dashboard", "#link[data-state=live]")
        for number, params in enumerate(COMPARED):
            train(num_epochs=12, num_workers=2, params=params, output="digits", overwrite=number > 0)
        with served(["digits"]) as found:
            take(chromium, found.url, "comparison", "#settings tbody tr")


def train(**flags: Any) -> JobHandle:
    """A training of the digits."""
    data = {"data": "data/train/*.recordio", "validation_data": "data/test/*.recordio"}
    zoo = {"model_zoo": str(REPOSITORY / "model_zoo"), "model_def": "digits.Classifier", "batch_size": 64}
    job = launcher.train(**zoo, **data, quiet=True, **flags)
    assert job is not None
    return job


@contextmanager
def eventful_job() -> Iterator[JobHandle]:
    """A job to which something has happened: a worker was killed and replaced, and another one has joined."""
    job = train(num_epochs=240, num_workers=3, params=SLOW, gather_timeout=120, output="eventful", wait=False)
    try:
        until(job, lambda status: status.position.step > 150 and in_round(status) == 3)
        victim = job.status().workers[1]
        os.kill(victim.pid, signal.SIGKILL)
        until(job, lambda status: status.round > 1 and in_round(status) == 3 and all_stepping(status))
        begin = job.status().position.step
        until(job, lambda status: status.position.step > begin + 150)
        job.scale(4)
        until(job, lambda status: in_round(status) == 4)
        begin = job.status().position.step
        until(job, lambda status: status.position.step > begin + 150)
        yield job
    finally:
        job.stop()


def until(job: JobHandle, reached: Callable[[Status], bool]) -> None:
    """Waits for a status.

    Raises:
        RuntimeError: the job has ended before.
    """
    for status in job.watch():
        if reached(status):
            return
    raise RuntimeError(f"the job has ended: {job.status().message}")


def in_round(status: Status) -> int:
    """How many workers train together."""
    return sum(worker.rank >= 0 for worker in status.workers)


def all_stepping(status: Status) -> bool:
    """Whether nobody is on the way."""
    return status.phase == "training" and all(worker.rank >= 0 for worker in status.workers)


def take(chromium: Any, url: str, name: str, sign: str) -> None:
    """Pictures of a page in light and dark."""
    for scheme in SCHEMES:
        context = chromium.new_context(viewport=WIDE, color_scheme=scheme)
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector(sign)
        page.wait_for_selector(".chart canvas")
        page.wait_for_timeout(3000)  # for the charts that come after the first
        save(page.screenshot(), IMAGES / f"{name}-{scheme}.png")
        context.close()


def save(png: bytes, path: Path) -> None:
    """Writes a picture with few colours.

    Raises:
        RuntimeError: it is too large for the repository all the same.
    """
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(REPOSITORY)}: {path.stat().st_size / 1000:.0f} kB")
    if path.stat().st_size > MOST_BYTES:
        raise RuntimeError(f"{path} has more than {MOST_BYTES:,} bytes")


if __name__ == "__main__":
    main()
