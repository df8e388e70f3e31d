"""Runs the coordinator of one job: `python -m rendezvous --job_folder=FOLDER` (the launcher starts it)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from google.protobuf import json_format

from edl_allreduce import bundle, checkpoint, records, storage, task_spec
from edl_allreduce.checkpoint import Checkpoint
from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.dataset import dataset_from_message, dataset_to_message
from edl_allreduce.dataset import Dataset, make_dataset
from edl_allreduce.errors import DataError, EdlError
from edl_allreduce.job_folder import JobFolder, write_whole
from edl_allreduce.resume import check_data, checkpoint_to_resume
from edl_allreduce.spec import JobSpec
from edl_allreduce.task_spec import Job
from rendezvous import custom_shards, events
from rendezvous.coordinator import Coordinator, Site
from rendezvous.provisioner.local import LocalProvisioner
from rendezvous.service import listen, start_serving
from rendezvous.state import Phase, State, recovered
from rendezvous.status import make_status
from rendezvous.task_result import begin_result
from rendezvous.telemetry import Telemetry
from rendezvous.tensorboard import TensorBoard

log = logging.getLogger("rendezvous")

ADDRESS = "127.0.0.1"
LAST_WATCH_SECONDS = 2.0  # how long launchers may take to fetch the last status


def main() -> int:
    """The exit code of the job."""
    parser = argparse.ArgumentParser(prog="python -m rendezvous", description=__doc__)
    parser.add_argument("--job_folder", required=True, type=Path, help="with spec.json and token in it")
    folder = JobFolder(parser.parse_args().job_folder.absolute())
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s.%(msecs)03d %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    try:
        spec = task_spec.from_json(folder.spec.read_text(encoding="utf-8"))
        return asyncio.run(_run(spec, folder, int(os.environ.get("EDL_RESTARTS", "0"))))
    except EdlError as error:
        log.error("%s", error)
        _write_status(folder, pb.Status(phase="failed", message=str(error), exit_code=error.exit_code))
        return error.exit_code


async def _run(spec: Job, folder: JobFolder, restarts: int) -> int:
    trains = isinstance(spec, JobSpec)
    if restarts and trains and await asyncio.to_thread(bundle.written_by, spec.output.output) == folder.name:
        _write_status(folder, pb.Status(phase="done"))  # the coordinator before this one died over saying so
        return 0
    newest = await asyncio.to_thread(_newest_checkpoint, spec, restarts) if isinstance(spec, JobSpec) else None
    dataset = await asyncio.to_thread(_dataset, spec, folder, newest)
    validation = await asyncio.to_thread(_validation, spec, folder)
    if newest and not restarts:
        check_data(dataset.fingerprint, newest)
    there = [] if isinstance(spec, JobSpec) else await asyncio.to_thread(begin_result, spec, dataset)
    server, port = listen(folder.token.read_text(encoding="ascii").strip(), ADDRESS, _port_before(folder))
    with open(folder.history, "a+", buffering=1, encoding="utf-8") as history:
        telemetry = Telemetry(history, time.time)
        history.seek(0)
        last_round = telemetry.replay(history, os.fstat(history.fileno()).st_mtime)
        provisioner = LocalProvisioner(
            folder,
            f"{ADDRESS}:{port}",
            spec.elastic.num_workers,
            lambda *ending: coordinator.process_ended(*ending),
        )
        position = newest.position if newest else None
        telemetry.checkpoint = position
        if restarts:
            left, target = provisioner.recover(), telemetry.target or spec.elastic.num_workers
            state = recovered(target, position, left.alive, left.next_id, last_round + 1, time.monotonic())
            telemetry.restarted(restarts)
        else:
            phase = Phase.GATHERING if trains else Phase.WORKING
            state = State(target=spec.elastic.num_workers, phase=phase, checkpoint=position)
        telemetry.tasks_done |= {task: "" for task in there if task not in telemetry.tasks_done}
        board = TensorBoard(spec.output.output, folder.path) if isinstance(spec, JobSpec) else None
        if board:
            telemetry.listeners.append(board.note)
        site = Site(folder.name, ADDRESS, str(folder.path))
        coordinator = Coordinator(spec, dataset, site, state, telemetry, time.monotonic, validation)
        await start_serving(server, coordinator)
        write_whole(folder.address, f"{ADDRESS}:{port}")
        _stop_on_signals(coordinator)
        coordinator.start(provisioner)
        await coordinator.ended.wait()
        await coordinator.close()
        if board:
            await asyncio.to_thread(board.close)
        status = make_status(coordinator)
        _write_status(folder, status)
        await server.stop(LAST_WATCH_SECONDS)
    log.info("%s%s", status.phase, f": {status.message}" if status.message else "")
    return status.exit_code


def _newest_checkpoint(spec: JobSpec, restarts: int) -> Checkpoint | None:
    """The checkpoint to go on from; a coordinator that takes over goes on with its own job's, whatever was asked."""
    if not restarts and spec.output.resume == "never":
        checkpoint.remove_all(spec.output.output)
    newest = checkpoint.newest(spec.output.output)
    return newest if restarts else checkpoint_to_resume(spec, newest)


def _dataset(spec: Job, folder: JobFolder, newest: Checkpoint | None) -> Dataset:
    """The job's data."""
    lanes = newest.origin.lanes if newest else spec.data.lanes if isinstance(spec, JobSpec) else 1
    return _kept(folder.dataset, lambda: _index(spec, "data", spec.data.data, lanes))


def _validation(spec: Job, folder: JobFolder) -> Dataset | None:
    """What a model in training is evaluated on."""
    if not isinstance(spec, JobSpec) or not spec.validation.validation_data:
        return None
    pattern = spec.validation.validation_data
    return _kept(folder.validation, lambda: _index(spec, "validation_data", pattern, 1))


def _kept(path: Path, make: Callable[[], Dataset]) -> Dataset:
    """What the first coordinator found is kept, since workers hold on to it."""
    if path.exists():
        return dataset_from_message(pb.Dataset.FromString(storage.read_bytes(str(path))))
    dataset = make()
    storage.write_bytes_atomic(str(path), dataset_to_message(dataset).SerializeToString())
    return dataset


def _index(spec: Job, flag: str, pattern: str, lanes: int) -> Dataset:
    started, data_format = time.monotonic(), spec.data.data_format
    if isinstance(spec, JobSpec) and data_format == records.CUSTOM:
        files, chunks = custom_shards.index(spec.model, pattern, spec.data.records_per_task)
    else:
        files = storage.expand(pattern)
        log.info("indexing %d files", len(files))
        chunks = records.index_many(files, data_format)
    dataset = make_dataset(files, chunks, spec.data.records_per_task, lanes, spec.elastic.num_workers, data_format)
    if dataset.records == 0:
        raise DataError(f"--{flag}: {pattern} holds no records ({len(files)} files, all empty)")
    log.info("%d records in %d tasks, %.2f s", dataset.records, len(dataset.tasks), time.monotonic() - started)
    return dataset


def _port_before(folder: JobFolder) -> int:
    """The port that workers of an earlier coordinator try; 0: any."""
    try:
        return int(folder.address.read_text(encoding="utf-8").rsplit(":", 1)[1])
    except (FileNotFoundError, ValueError, IndexError):
        return 0


def _stop_on_signals(coordinator: Coordinator) -> None:
    """SIGTERM and SIGINT stop the job; so does the end of standard input: then the launcher has died."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, coordinator.tell, events.Stopped(f"stopped by {number.name}"))

    def input_ended() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin.fileno())
            coordinator.tell(events.Stopped("its launcher has ended"))

    with contextlib.suppress(PermissionError):  # a file or /dev/null cannot be watched: then nobody holds a pipe
        loop.add_reader(sys.stdin.fileno(), input_ended)


def _write_status(folder: JobFolder, status: pb.Status) -> None:
    write_whole(folder.status, json_format.MessageToJson(status, preserving_proto_field_name=True))


if __name__ == "__main__":
    sys.exit(main())
