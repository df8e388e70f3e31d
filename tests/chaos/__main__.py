"""Proves that nothing is lost, whatever happens: a real job on this machine in a storm of faults.

Trains the digits with `edl train`, does to the job what the seed decides (the same seed, the same storm), trains them
once more undisturbed, and compares. Exit code 0: nothing was lost.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edl_allreduce import recordio, storage
from edl_allreduce.errors import EdlError
from tests.chaos import plan
from tests.chaos.faults import Failed
from tests.chaos.laboratory import Laboratory
from tests.chaos.run import Run
from tests.chaos.storm import Storm
from tests.chaos.verdict import Evidence, judge
from tests.jobs import BATCH, REPOSITORY

DISK_KIBIBYTES = 1 << 16
UNDISTURBED_SECONDS = 0.1  # per step, at most


def main() -> int:
    """The exit code."""
    arguments = _arguments()
    seed = secrets.randbelow(1 << 31) if arguments.seed is None else arguments.seed
    again = f"python -m tests.chaos --seed={seed} --faults={arguments.faults} --workers={arguments.workers}"
    print(f"seed {seed}; to repeat: {again}", flush=True)
    if arguments.plan:
        print(*(f"{each.number:3} {each}" for each in plan.storm(seed, arguments.faults, arguments.workers)), sep="\n")
        return 0
    if arguments.data:
        try:
            storage.expand(arguments.data)
        except EdlError as error:
            print(f"error: --data: {error}", file=sys.stderr)
            return error.exit_code
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"everything is in {folder}", flush=True)
    signal.signal(signal.SIGTERM, _end)
    good = False
    try:
        good = _experiment(folder, seed, arguments)
    except Failed as error:
        print(f"FAILED: {error}; what the processes did is in {folder}/diagnosis.txt")
    finally:
        if good and not arguments.keep:
            shutil.rmtree(folder)
        else:
            print(f"kept: {folder}; to repeat: {again}", flush=True)
    return 0 if good else 1


def _end(number: int, frame: object) -> None:
    """Leaves nothing behind, however often it is told."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__, allow_abbrev=False)
    parser.add_argument("--seed", type=int, help="decides the storm (default: another one each time)")
    parser.add_argument("--faults", type=int, default=20, help="how many (default %(default)s, about 8 s each)")
    parser.add_argument("--workers", type=int, default=3, help="to begin with (default %(default)s)")
    parser.add_argument("--data", help="the digits' RecordIO files, if they are there already")
    parser.add_argument("--keep", action="store_true", help="keep all files, also when nothing was lost")
    parser.add_argument("--plan", action="store_true", help="only show the storm")
    return parser.parse_args()


def _experiment(folder: Path, seed: int, arguments: argparse.Namespace) -> bool:
    data = arguments.data or _make_digits(folder / "digits")
    records = sum(chunk.records for file in storage.expand(data) for chunk in recordio.index(file))
    epochs, epoch_steps = plan.epochs(arguments.faults, records, BATCH), -(-records // BATCH)
    flags = {
        "model_zoo": "tests/zoo",
        "model_def": "stormy.Classifier",
        "data": data,
        "num_epochs": epochs,
        "batch_size": BATCH,
        "seed": seed,
    }
    faults = plan.storm(seed, arguments.faults, arguments.workers)
    with _small_disk(folder / "disk") as disk:
        output = (disk or folder) / "output"
        own = {"output": output, "num_workers": arguments.workers, "checkpoint_secs": 1, "audit": True}
        with Laboratory(folder, flags | own, disk, _say) as lab:
            code = Storm(lab, faults, epochs * epoch_steps, epoch_steps, arguments.workers).blow()
        storm_output = folder / "output"
        if disk:
            shutil.copytree(output, storm_output)
    _say(f"the job is done, exit code {code}; once more with one worker, undisturbed")
    _undisturbed(folder, flags, epochs * epoch_steps)
    rows = list(judge(Evidence(folder, storm_output, records, epochs, epochs * epoch_steps, code)))
    print(*rows, sep="\n", flush=True)
    return all(row.good is not False for row in rows)


def _make_digits(folder: Path) -> str:
    subprocess.run([sys.executable, "-m", "model_zoo.digits", "make", str(folder)], cwd=REPOSITORY, check=True)
    return f"{folder}/train/*.recordio"


def _undisturbed(folder: Path, flags: dict[str, Any], steps: int) -> None:
    home = folder / "undisturbed"
    run = Run(home, flags | {"output": home / "output"}, {})
    try:
        code = run.process.wait(60 + UNDISTURBED_SECONDS * steps)
    finally:
        run.kill_everything()
    if code != 0:
        raise Failed(f"the undisturbed run failed: {run.text}")


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system that is easily full, where we may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_KIBIBYTES}k", "tmpfs", str(folder)]
    allowed = sys.platform == "linux" and os.geteuid() == 0
    if not allowed or subprocess.run(command, capture_output=True).returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    sys.exit(main())
