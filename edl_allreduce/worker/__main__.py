"""Runs one worker: `python -m edl_allreduce.worker --coordinator=HOST:PORT --worker_id=N` (the coordinator does)."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import signal
import socket
import stat
import sys
import threading

from edl_allreduce import task_spec
from edl_allreduce.control import control_pb2 as pb
from edl_allreduce.errors import EdlError
from edl_allreduce.fetched_model import fetch
from edl_allreduce.notices import Teller, notices
from edl_allreduce.spec import JobSpec
from edl_allreduce.worker.access import own_address, read_certificate, read_token
from edl_allreduce.worker.lean_imports import load_keras, uncollected
from edl_allreduce.worker.memory import keep_freed_memory
from edl_allreduce.worker.session import Session

log = logging.getLogger("edl_allreduce.worker")


def main() -> int:
    """The exit code of the process: 0 when told to end, else the error's."""
    arguments = _arguments()
    term = _catch_term()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    host, port = arguments.coordinator.rsplit(":", 1)
    try:
        address = own_address(host, int(port))
    except EdlError as error:
        log.error("%s", error)
        return error.exit_code
    hello = pb.Hello(worker_id=arguments.worker_id, host=arguments.host, pid=os.getpid(), address=address)
    session = Session(arguments.coordinator, read_token(), hello, read_certificate())
    notices.addHandler(Teller(session.notice))
    session.life_line = _take_life_line()
    session.on_abandon = functools.partial(os._exit, 1)  # while it prepares: nothing is lost, and nothing can interrupt
    session.start()
    prepared = threading.Event()
    threading.Thread(target=_await_term, args=(term, session, prepared), name="signals", daemon=True).start()
    try:
        return _work(session, prepared, hello, int(port), arguments.local_workers)
    except EdlError as error:
        log.error("%s", error, exc_info=True)
        return _report(session, str(error), error.exit_code)
    except Exception as error:
        log.exception("unexpected")
        return _report(session, f"worker {arguments.worker_id}: {type(error).__name__}: {error}", 1)
    finally:
        session.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m edl_allreduce.worker", description=__doc__, allow_abbrev=False)
    parser.add_argument("--coordinator", required=True, metavar="HOST:PORT")
    parser.add_argument("--worker_id", required=True, type=int)
    parser.add_argument("--host", default=socket.gethostname(), help="workers of the same host share it")
    parser.add_argument("--local_workers", type=int, default=1, help="how many workers share this machine's cores")
    return parser.parse_args()


def _work(session: Session, prepared: threading.Event, hello: pb.Hello, port: int, local_workers: int) -> int:
    message = session.inbox.get()
    if message is None or not message.HasField("welcome"):
        return 0 if message is not None else 1
    _share_cores(local_workers)
    keep_freed_memory()
    spec = task_spec.from_json(message.welcome.spec)
    session.patience = spec.elastic.coordinator_timeout
    if not isinstance(spec, JobSpec):
        fetched = fetch(spec.model.trained_model)
        with uncollected():
            load_keras(fetched.model_zoo)
            from edl_allreduce.worker.task_worker import TaskWorker

        task_worker = TaskWorker(message.welcome, fetched, hello.worker_id, session)
        session.on_abandon = lambda: None
        prepared.set()
        task_worker.run()
        return 0
    with uncollected():
        load_keras(spec.model.model_zoo)
        from edl_allreduce.worker.ring import Ring
        from edl_allreduce.worker.worker import Worker

    log.info("TensorFlow and Keras are loaded")
    ring = Ring(hello.address, spared=port)
    worker = Worker(message.welcome, hello.worker_id, session, ring)
    session.on_abandon = ring.sever
    prepared.set()
    worker.run()
    return 0


def _share_cores(local_workers: int) -> None:
    """Splits this machine's cores between its workers, before TensorFlow makes its threads."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // local_workers))
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ.setdefault(name, threads)
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _take_life_line() -> int | None:
    """The standard input, if it is the launcher's life line; user code that asks for input then finds none."""
    try:
        if not stat.S_ISFIFO(os.fstat(0).st_mode):
            return None
    except OSError:  # it is closed
        return None
    life_line = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return life_line


def _catch_term() -> socket.socket:
    """Where SIGTERM arrives as a byte, at once and whichever thread gets it.

    A handler in Python would run only when the main thread comes back from a reduction, which may take long.
    """
    arrives, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.detach())
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.siginterrupt(signal.SIGTERM, False)
    return arrives


def _await_term(term: socket.socket, session: Session, prepared: threading.Event) -> None:
    term.recv(1)
    log.info("told to go (SIGTERM)")
    session.leave()
    if not prepared.is_set():  # nobody counts on this worker yet, and TensorFlow's start cannot be interrupted
        session.close()
        os._exit(0)


def _report(session: Session, error: str, exit_code: int) -> int:
    """Tells the coordinator, and waits for its word: it would take an early end for an accident."""
    session.on_abandon = lambda: None
    session.broke(error, exit_code)
    while (message := session.inbox.get()) is not None:
        if message.HasField("stop"):
            break
    return exit_code


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # TensorFlow's and Horovod's threads need not be waited for
