"""Decides every file name of a job, so that launcher, coordinator and workers find each other's files in one way.

$EDL_HOME, or $XDG_STATE_HOME/edl_allreduce, or ~/.local/state/edl_allreduce
└── jobs/NAME/                     NAME as digits-20261122-153012-a1b2; mode 0700
    ├── spec.json                  the JobSpec (the launcher writes it)
    ├── token                      what every gRPC call must carry; mode 0600 (the launcher)
    ├── address                    HOST:PORT of the coordinator, there as soon as it serves (the coordinator)
    ├── dashboard                  the URL of the job's page, there as soon as that is served (the coordinator)
    ├── status.json                the last Status message (the coordinator, when the job ends)
    ├── dataset.pb                 the Dataset message: which files, cut into which tasks (the first coordinator)
    ├── validation.pb              the same of validation_data
    ├── history.jsonl              every step's loss, every round's cause (the coordinator, while the job runs)
    ├── supervisor.json            the process of the supervisor; the job runs as long as that does (the supervisor)
    ├── workers.json               every worker's process, and the next worker's id (the coordinator's provisioner)
    ├── tmp/worker-N/              temporary files of a worker, as long as it lives (the coordinator's provisioner)
    ├── tensorboard/               what goes to the output's folder of that name, when that is no local folder
    ├── audit/                     which record was consumed at which step (the workers, when asked)
    └── logs/coordinator.log, logs/worker-N.log

OUTPUT/_runs/NAME/                 what is kept of every run beside its result, see `rendezvous.mirror`
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RUNS = "_runs"  # in an output


def home(environ: Mapping[str, str]) -> Path:
    """The folder that holds everything edl_allreduce keeps for this user."""
    if environ.get("EDL_HOME"):
        return Path(environ["EDL_HOME"]).expanduser().absolute()
    state = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser().absolute() / "edl_allreduce"


@dataclass(frozen=True)
class JobFolder:
    """The files of one job.

    Attributes:
        path: the job's own folder.
    """

    path: Path

    @staticmethod
    def of(name: str, environ: Mapping[str, str]) -> JobFolder:
        """The folder of the job called `name`, whether it exists or not."""
        return JobFolder(home(environ) / "jobs" / name)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def token(self) -> Path:
        return self.path / "token"

    @property
    def address(self) -> Path:
        return self.path / "address"

    @property
    def dashboard(self) -> Path:
        return self.path / "dashboard"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def dataset(self) -> Path:
        return self.path / "dataset.pb"

    @property
    def validation(self) -> Path:
        return self.path / "validation.pb"

    @property
    def history(self) -> Path:
        return self.path / "history.jsonl"

    @property
    def audit(self) -> Path:
        return self.path / "audit"

    @property
    def supervisor(self) -> Path:
        return self.path / "supervisor.json"

    @property
    def workers(self) -> Path:
        return self.path / "workers.json"

    @property
    def tmp(self) -> Path:
        return self.path / "tmp"

    def worker_tmp(self, worker_id: int) -> Path:
        return self.tmp / f"worker-{worker_id}"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def coordinator_log(self) -> Path:
        return self.logs / "coordinator.log"

    def worker_log(self, worker_id: int) -> Path:
        return self.logs / f"worker-{worker_id}.log"

    def create(self, spec: str, token: str) -> None:
        """Makes the folder with its spec and token.

        Raises:
            FileExistsError: a job of that name has been there before.
            OSError: the folder cannot be made.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700)
        self.logs.mkdir()
        write_whole(self.token, token, mode=0o600)
        write_whole(self.spec, spec)

    def remove_tmp(self) -> None:
        """Removes the temporary files of all workers, as far as that is possible."""
        shutil.rmtree(self.tmp, ignore_errors=True)


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Writes a file so that nobody ever sees a part of it: under a temporary name first, then renamed."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
