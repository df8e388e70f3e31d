"""Finds before anything is started what would make a job fail at once, and says what to do about it."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edl_allreduce import records
from edl_allreduce.errors import ModelError, StorageError, UsageError, did_you_mean
from edl_allreduce.job_folder import RUNS
from edl_allreduce.spec import JobSpec, ModelSpec, OutputSpec
from edl_allreduce.task_spec import EvaluateSpec, Job, PredictSpec, TaskSpec
from launcher.commands.zoo import STOCK
from launcher.declared import declared_names
from launcher.taken import taken

TENSORBOARD = "tensorboard"
OF_SQL = SQL_STATEMENT, SQL_DATA = "statement.sql", "_data"  # what `edl sql` keeps beside a model
OWN_READER = "custom_data_reader"
WITHOUT_IT = "--data_format=recordio (or tfrecord, csv, parquet) without it"
WORKER_PACKAGES = {"tensorflow": "worker", "keras": "worker", "safetensors": "worker", "horovod": ""}


def check(job: Job) -> None:
    """Looks at everything a local job needs; imports none of it.

    Raises:
        UsageError: model_zoo, a name in it, output or resume is wrong, or a package of the worker is missing.
        ModelError: a file of the model is not Python, or nothing in it takes a param.
        StorageError: data matches no file, or cannot be listed.
    """
    if not isinstance(job, JobSpec):
        return check_tasks(job)
    check_model(job.model)
    own_reader = check_reader(job.model, job.data.data_format)
    if not own_reader:
        check_data(job.data.data)
    if job.validation.validation_data and not own_reader:
        check_data(job.validation.validation_data, "validation_data")
    check_output(job.output)
    check_resume(job)
    check_packages(lambda name: importlib.util.find_spec(name) is not None)


def check_tasks(job: TaskSpec) -> None:
    """Looks at everything that an evaluation or a prediction of this machine needs."""
    from edl_allreduce import bundle, storage

    url = job.model.trained_model
    if not storage.exists(storage.join(url, bundle.MESSAGE)):
        there = "has no trained_model.pb" if storage.exists(url) else "does not exist"
        raise UsageError(f"--trained_model: {url} {there}; expected the output of a finished `edl train`")
    check_data(job.data.data)
    if isinstance(job, EvaluateSpec):
        check_figures(job.output.output)
    else:
        check_folder(job.output.output)
        check_predictions(job)
        if job.output.output_format == "parquet" and importlib.util.find_spec("pyarrow") is None:
            raise UsageError("--output_format=parquet: needs pyarrow: pip install 'edl_allreduce[parquet]'")
    check_packages(lambda name: name == "horovod" or importlib.util.find_spec(name) is not None)


def check_predictions(job: PredictSpec) -> None:
    """Refuses to replace predictions by accident."""
    from edl_allreduce import predictions

    found = predictions.read(job.output.output)
    if found and found.complete and not job.output.overwrite:
        raise UsageError(
            f"--output: {job.output.output} holds predictions already; choose another folder or add --overwrite"
        )


def check_model(model: ModelSpec) -> None:
    """Finds the files of model_def, input_fn, loss and optimizer, and their names in them; then what takes params."""
    from edl_allreduce.contracts.resolve import locate

    if not Path(model.model_zoo).is_dir():
        hint = f"edl zoo init FOLDER makes one; the models that come with edl are in {STOCK}"
        raise UsageError(
            f"--model_zoo: expected a folder with the model's Python files, {model.model_zoo!r} is none; {hint}"
        )
    home = locate(model.model_zoo, model.model_def)
    hint = "" if home.name else f"; to use a class or function of it, write --model_def={model.model_def}.NAME"
    _check_name("model_def", home.file, home.name or "custom_model", hint)
    takers = [(home.file, home.name or "custom_model")]
    for flag, dotted in (("input_fn", model.input_fn), ("loss", model.loss), ("optimizer", model.optimizer)):
        if "." in dotted:
            place = locate(model.model_zoo, dotted, flag)
            if not place.name:
                raise UsageError(f"--{flag}: expected FILE.NAME, got the file {place.file}")
            _check_name(flag, place.file, place.name)
            takers.append((place.file, place.name))
        elif dotted and (flag == "input_fn" or dotted in (_names_in(home.file) or ())):  # else it may be one of Keras
            _check_name(flag, home.file, dotted)
            takers.append((home.file, dotted))
    if not model.metrics:  # they may be from anywhere
        _check_params(model, takers)


def _check_params(model: ModelSpec, takers: Sequence[tuple[str, str]]) -> None:
    """Refuses params that certainly nothing takes; the first taker is the model."""
    found = [taken(Path(file).read_bytes(), file, name) for file, name in takers]
    known = {"learning_rate", "schema"}.union(*(each.anywhere for each in found if each))
    if None in found or not (unknown := [name for name in model.values if name not in known]):
        return
    (file, maker), first = takers[0], found[0]
    assert first
    near = did_you_mean(unknown[0], {*first.wanted, *(name for each in found[1:] if each for name in each.wanted)})
    takes = ", ".join(name for name in first.wanted if name != "schema") or "none"
    raise ModelError(f"{file}: there is no parameter {unknown[0]!r}{near}; {maker} takes {takes}")


def check_reader(model: ModelSpec, data_format: str) -> bool:
    """Whether the model's own reader reads the data; its file must have one then, and only then.

    ElasticDL would use it without being told. Here it is told, since the coordinator must know before any code runs.
    """
    from edl_allreduce.contracts.resolve import locate

    file = locate(model.model_zoo, model.model_def).file
    names = _names_in(file)
    there, wanted = names is None or OWN_READER in names, data_format == records.CUSTOM
    if wanted and not there:
        raise UsageError(f"--data_format=custom: {file} defines no {OWN_READER}")
    if names is not None and there and data_format == records.AUTO:
        raise UsageError(f"--data: {file} has a {OWN_READER}; --data_format=custom reads with it, {WITHOUT_IT}")
    return wanted


def _names_in(file: str) -> frozenset[str] | None:
    return declared_names(Path(file).read_bytes(), file)


def _check_name(flag: str, file: str, name: str, hint: str = "") -> None:
    try:
        names = _names_in(file)
    except OSError as error:
        raise UsageError(f"--{flag}: {file}: {error.strerror}") from None
    if names is not None and name not in names:
        raise UsageError(f"--{flag}: {file} defines no {name!r}{did_you_mean(name, names)}{hint}")


def check_data(pattern: str, flag: str = "data") -> None:
    """Lists the files of a pattern."""
    from edl_allreduce import storage

    try:
        storage.expand(pattern)
    except StorageError as error:
        raise StorageError(f"--{flag}: {error}") from error


def check_output(output: OutputSpec) -> None:
    """Refuses an output with more than checkpoints in it, unless it is to be replaced, or that cannot be written."""
    from edl_allreduce import bundle, checkpoint, storage

    url = output.output
    check_folder(url)
    there = set(storage.names_in(url) or ()) - {checkpoint.FOLDER, TENSORBOARD, RUNS, *OF_SQL}  # these stay
    if bundle.MESSAGE not in there:  # written last: without it the others are what a killed job has left
        there -= {bundle.PARAMS, bundle.CODE, bundle.SPEC, bundle.BUNDLE, bundle.KERAS}
        there = {name for name in there if not storage.is_temporary(name)}
    if there and not output.overwrite:
        raise UsageError(f"--output: {url} already exists; choose another folder or add --overwrite")


def check_folder(url: str) -> None:
    """Refuses an output that is a file of this machine, or a folder that cannot be made or written to here."""
    from edl_allreduce import storage

    folder = Path(url.removeprefix("file://")).expanduser().absolute()
    if storage.is_remote(url):
        return
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output: {url} is a file; choose a folder")
    _check_writable(url, folder)


def check_figures(url: str) -> None:
    """Refuses an output for figures that is a folder, or a file that cannot be made here."""
    from edl_allreduce import storage

    file = Path(url.removeprefix("file://")).expanduser().absolute()
    if not url or storage.is_remote(url):
        return
    if file.is_dir():
        raise UsageError(
            f"--output: {url} is a folder; figures go to a file, such as {storage.join(url, 'figures.json')}"
        )
    _check_writable(url, file.parent)


def _check_writable(url: str, folder: Path) -> None:
    above = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"--output: {url} cannot be made: {above} is not a folder that this user may write to")


def check_resume(job: JobSpec) -> None:
    """Refuses to go on from another training's checkpoint by accident, or from none where there must be one."""
    from edl_allreduce import checkpoint
    from edl_allreduce.resume import checkpoint_to_resume

    if job.output.resume != "never":  # then what is there need not even be understood
        checkpoint_to_resume(job, checkpoint.newest(job.output.output))


def check_packages(installed: Callable[[str], bool]) -> None:
    """Refuses to start workers that could not import what they need."""
    missing = [name for name in WORKER_PACKAGES if not installed(name)]
    if not missing:
        return
    python = shlex.quote(sys.executable)
    commands = []
    if any(WORKER_PACKAGES[name] for name in missing):
        commands.append(f"{python} -m pip install 'edl_allreduce[worker]'")
    if "horovod" in missing:
        commands.append(f"{python} -m edl_allreduce.horovod_wheel install")
    raise UsageError(f"workers need {' and '.join(missing)}, not installed in {sys.prefix}: {' && '.join(commands)}")
