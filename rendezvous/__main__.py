"""Runs the coordinator of one job: `python -m rendezvous --job_folder=FOLDER` (the launcher starts it)."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from edl_allreduce import bundle, checkpoint, records, storage, task_spec
from edl_allreduce.checkpoint import Checkpoint
from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.control.dataset import dataset_from_message, dataset_to_message
from edl_allreduce.dataset import Dataset, make_dataset
from edl_allreduce.errors import DataError, EdlError
from edl_allreduce.job_folder import JobFolder, write_whole
from edl_allreduce.position import Position
from edl_allreduce.resume import check_data, checkpoint_to_resume
from edl_allreduce.spec import JobSpec
from edl_allreduce.task_spec import Job
from rendezvous import custom_shards
from rendezvous.coordinator import Coordinator
from rendezvous.dashboard.door import open_dashboard
from rendezvous.patient_file import PatientFile
from rendezvous.place import LocalPlace, Place
from rendezvous.provisioner import Recovered
from rendezvous.pulse import Pulse, supervisors_pipe
from rendezvous.service import listen, start_serving
from rendezvous.state import Phase, State, recovered
from rendezvous.status import make_status
from rendezvous.task_result import begin_result
from rendezvous.telemetry import Telemetry
from rendezvous.tensorboard import TensorBoard

log = logging.getLogger("rendezvous")

DEPARTED_EXIT_CODE = 143  # as a shell says it of a program that SIGTERM has ended
LAST_WATCH_SECONDS = 2.0  # how long launchers may take to fetch the last status


def main() -> int:
    """The exit code of the job; DEPARTED when it goes on without this coordinator."""
    parser = argparse.ArgumentParser(prog="python -m rendezvous", description=__doc__, allow_abbrev=False)
    parser.add_argument("--job_folder", required=True, type=Path, help="with spec.json and token in it")
    parser.add_argument("--pod", action="store_true", help="it runs in a pod of Kubernetes, and its workers do")
    parser.add_argument("--open_to_readers", action="store_true", help="the dashboard may be read without the token")
    arguments = parser.parse_args()
    folder = JobFolder(arguments.job_folder.absolute())
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s.%(msecs)03d %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    return asyncio.run((_in_pod if arguments.pod else _here)(folder, arguments.open_to_readers))


async def _here(folder: JobFolder, open_to_readers: bool) -> int:
    return await _live(LocalPlace(folder, int(os.environ.get("EDL_RESTARTS", "0")), open_to_readers))


async def _in_pod(folder: JobFolder, open_to_readers: bool) -> int:
    from rendezvous.pod import PodPlace

    try:
        code = await _live(await PodPlace.enter(folder, open_to_readers))
    except EdlError as error:
        log.error("%s", error)
        code = error.exit_code
    except Exception:
        log.exception("unexpected")
        code = 1
    logging.shutdown()
    os._exit(code)  # calls to an API server that is away need not be waited for


async def _live(place: Place) -> int:
    """The exit code."""
    status = place.final_status
    try:
        if status is None:
            spec = await place.settle(task_spec.from_json(place.folder.spec.read_text(encoding="utf-8")))
            if await _has_result(spec, place):
                status = pb.Status(phase="done")  # the coordinator before this one died over saying so
            else:
                return await _serve(await _prepare(spec, place), place)
    except EdlError as error:
        log.error("%s", error)
        status = pb.Status(phase="failed", message=str(error), exit_code=error.exit_code)
    await place.end(status)
    return status.exit_code


async def _has_result(spec: Job, place: Place) -> bool:
    if not place.restarts or not isinstance(spec, JobSpec):
        return False
    return await asyncio.to_thread(bundle.written_by, spec.output.output) == place.folder.name


@dataclass(frozen=True)
class Prepared:
    """What a coordinator must know before it begins.

    Attributes:
        validation: what a model in training is evaluated on.
        checkpoint: to go on from.
        done: of a job of tasks: those whose result is there.
    """

    spec: Job
    dataset: Dataset
    validation: Dataset | None
    checkpoint: Position | None
    done: Sequence[int]


async def _prepare(spec: Job, place: Place) -> Prepared:
    folder, restarts = place.folder, place.restarts
    await place.recall(spec)
    newest = await asyncio.to_thread(_newest_checkpoint, spec, restarts) if isinstance(spec, JobSpec) else None
    dataset = await asyncio.to_thread(_dataset, spec, folder, newest)
    validation = await asyncio.to_thread(_validation, spec, folder)
    if newest and not restarts:
        check_data(dataset.fingerprint, newest)
    done = [] if isinstance(spec, JobSpec) else await asyncio.to_thread(begin_result, spec, dataset)
    return Prepared(spec, dataset, validation, newest.position if newest else None, done)


async def _serve(job: Prepared, place: Place) -> int:
    """The exit code."""
    folder, spec = place.folder, job.spec
    token = folder.token.read_text(encoding="ascii").strip()
    server, port = listen(token, place.address, place.port, place.tls)
    with open(folder.history, "a+", buffering=1, encoding="utf-8") as history:
        written = PatientFile(history)
        telemetry = Telemetry(written, time.time)
        last_round = _replay(telemetry, history, written, job)
        provisioner = place.provisioner(port, spec, lambda: coordinator)
        pulse = Pulse(supervisors_pipe())
        state = _state(spec, await provisioner.recover(), telemetry, last_round, place.restarts, pulse.now())
        place.keep(spec, telemetry)
        coordinator = Coordinator(
            spec,
            job.dataset,
            place.site,
            state,
            telemetry,
            job.validation,
            pulse,
        )
        await start_serving(server, coordinator)
        write_whole(folder.address, f"{place.address}:{port}")
        place.heed_signals(coordinator)
        board = TensorBoard(spec.output.output, folder.path) if isinstance(spec, JobSpec) else None
        if board:
            telemetry.listeners.append(board.note)
        coordinator.start(provisioner)
        dashboard = await open_dashboard(coordinator, place, token)
        departs = await _departs(coordinator, place)
        if not departs:
            await coordinator.close()
        if board:
            await asyncio.to_thread(board.close)
        if dashboard:
            await dashboard.close()
        if departs:
            log.info("this coordinator goes, the job goes on")
            await place.leave()
            return DEPARTED_EXIT_CODE
        status = make_status(coordinator)
        await place.end(status)
        await server.stop(LAST_WATCH_SECONDS)
    log.info("%s%s", status.phase, f": {status.message}" if status.message else "")
    return status.exit_code


def _replay(telemetry: Telemetry, history: TextIO, written: PatientFile, job: Prepared) -> int:
    """Has telemetry learn what coordinators before have left; returns the number of their last round."""
    history.seek(0)
    last_round = telemetry.replay(history, os.fstat(history.fileno()).st_mtime)
    if _is_cut_off(Path(history.name)):
        written.write("\n")
    telemetry.checkpoint = job.checkpoint
    telemetry.tasks_done |= {task: "" for task in job.done if task not in telemetry.tasks_done}
    return last_round


def _is_cut_off(path: Path) -> bool:
    """Whether a dying coordinator has left half a line at the end."""
    with open(path, "rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _state(spec: Job, left: Recovered, telemetry: Telemetry, last_round: int, restarts: int, now: float) -> State:
    """Where a coordinator begins, at time `now` of its clock."""
    if restarts:
        telemetry.restarted(restarts)
        target = telemetry.target or spec.elastic.num_workers
        return recovered(target, telemetry.checkpoint, left.alive, left.next_id, last_round + 1, now)
    phase = Phase.GATHERING if isinstance(spec, JobSpec) else Phase.WORKING
    return State(spec.elastic.num_workers, phase, checkpoint=telemetry.checkpoint, next_id=left.next_id)


async def _departs(coordinator: Coordinator, place: Place) -> bool:
    """Waits for the job's end; whether this coordinator must go before."""
    ends = [asyncio.create_task(each.wait()) for each in (coordinator.ended, coordinator.dazed, place.departure)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in ends:
        task.cancel()
    return not coordinator.ended.is_set()


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
        empty = "a file that is empty" if len(files) == 1 else f"{len(files)} files, all empty"
        raise DataError(f"--{flag}: {pattern} holds no records ({empty})")
    log.info("%d records in %d tasks, %.2f s", dataset.records, len(dataset.tasks), time.monotonic() - started)
    return dataset


if __name__ == "__main__":
    sys.exit(main())
