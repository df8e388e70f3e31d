"""Recorded runs for tests, as a mirror leaves them in an output, and what serves them."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.dataset import dataset_to_message
from edl_allreduce.dataset import make_dataset
from edl_allreduce.recordio import ChunkRef
from edl_allreduce.spec import JobSpec
from launcher.recorded import served
from rendezvous.place import status_to_json
from tests.dashboards import BATCH, EPOCH_STEPS, past

RECORDS = BATCH * EPOCH_STEPS


def record(output: Path, name: str, steps: int = 1200, status: pb.Status | None = None, **flags: Any) -> Path:
    """A run that has done so many steps with three workers; the folder of its record."""
    folder = output / "_runs" / name
    folder.mkdir(parents=True)
    settings = {"model_zoo": "zoo", "model_def": "m.M", "data": "d", "output": output, "batch_size": BATCH}
    spec = JobSpec.from_flags(settings | {"num_epochs": 5, "num_workers": 3} | flags)
    (folder / "spec.json").write_text(spec.to_json())
    dataset = make_dataset(["a.recordio"], [[ChunkRef(0, 1000, RECORDS)]], RECORDS)
    (folder / "dataset.pb").write_bytes(dataset_to_message(dataset).SerializeToString())
    lines = [json.dumps(line) + "\n" for line in past(steps, 3)]
    for number, begin in enumerate(range(0, len(lines), 500), 1):
        (folder / f"history-{number:06d}.jsonl").write_text("".join(lines[begin : begin + 500]))
    if status:
        (folder / "status.json").write_text(status_to_json(status))
    return folder


def done(steps: int = 1200, **more: Any) -> pb.Status:
    """The last status of a training that has its result."""
    place = pb.Position(step=steps, epoch=steps // EPOCH_STEPS)
    told = pb.Status(phase="done", job="train", position=place, training_seconds=60.0, target_workers=3, **more)
    told.goodput.CopyFrom(pb.Goodput(useful_seconds=50.0, wall_seconds=60.0, records=steps * BATCH))
    return told


class Asked:
    """HTTP with what serves recorded runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.token = url.partition("#token=")[2]

    def ask(self, path: str, token: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=20)
        connection.request("GET", path, headers={"X-EDL-Token": self.token if token is None else token})
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    def get(self, path: str) -> Any:
        status, data = self.ask(path)
        assert status == 200, data
        return json.loads(data)


@contextlib.contextmanager
def asked(places: Sequence[Path | str]) -> Iterator[Asked]:
    with served([str(each) for each in places]) as found:
        yield Asked(found.url)
