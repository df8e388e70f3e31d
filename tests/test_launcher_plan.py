"""A plan is the exact thing that would be started, decided from its inputs alone."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from edl_allreduce.errors import UsageError
from edl_allreduce.job_folder import JobFolder, home
from edl_allreduce.task_spec import to_json
from launcher.local.plan import Plan, job_name, make_plan
from launcher.settings import TRAIN_FLAGS, read_request

NOW = datetime(2026, 11, 22, 15, 30, 12)
ROOT = str(Path(__file__).resolve().parent.parent)
REQUIRED = {"model_zoo": "zoo", "model_def": "digits.Classifier", "data": "data/*.recordio", "output": "out dir"}


def plan(environ: dict[str, str], **values: Any) -> Plan:
    asked = read_request(REQUIRED | values)
    return make_plan(asked.job, asked.launch, now=NOW, random="a1b2", environ=environ, python="/usr/bin/python3")


def test_a_plan_is_shown_as_it_would_be_carried_out() -> None:
    made = plan({"EDL_HOME": "/state", "PYTHONPATH": ROOT}, num_workers=2)
    folder = "/state/jobs/digits-20261122-153012-a1b2"
    assert str(made).splitlines() == [
        "job     digits-20261122-153012-a1b2: digits.Classifier from zoo, with 2 workers on this machine",
        f"start   /usr/bin/python3 -m rendezvous.supervisor --job_folder={folder}",
        f"write   {folder}/spec.json: {to_json(made.job)}",
        f"        {folder}/token: a random token, readable by this user only",
        f"logs    {folder}/logs",
        "result  out dir",
    ]


@pytest.mark.parametrize(
    ("present", "expected"),
    [("", ROOT), ("/a:/b", f"/a:/b:{ROOT}"), (f"/a:{ROOT}", None)],
)
def test_the_coordinator_finds_this_checkout_behind_what_the_user_set(present: str, expected: str | None) -> None:
    made = plan({"EDL_HOME": "/state", "PYTHONPATH": present})
    assert dict(made.environ).get("PYTHONPATH") == expected


@pytest.mark.parametrize(
    ("model_def", "beginning"),
    [
        ("digits.Classifier", "digits-"),
        ("regressor.wide_and_deep.MagicalWAD", "wide-and-deep-"),
        ("mnist", "mnist-"),
        ("a_very_long_name_of_a_file_that_goes_on_and_on.Model", "a-very-long-name-of-a-file-t-"),
        ("Größe.Model", "gr--e-"),
        ("数据.Model", "job-"),
        ("_3d_net.Model", "job-3d-net-"),
        ("__init__.Model", "init-"),
    ],
)
def test_a_jobs_name_fits_files_hosts_and_kubernetes(model_def: str, beginning: str) -> None:
    name = job_name(model_def, NOW, "a1b2")
    assert name == f"{beginning}20261122-153012-a1b2"
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])", name)


def test_the_user_may_name_the_job() -> None:
    assert plan({"EDL_HOME": "/state"}, job_name="mine").folder == JobFolder(Path("/state/jobs/mine"))


@pytest.mark.parametrize("name", ["Mine", "a/b", "-a", "a-", "..", "x" * 51, "a b"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"^--job_name: expected at most 50 small letters, digits and hyphens, got "):
        plan({}, job_name=name)


def test_unknown_names_are_compared_with_the_launch_flags_too() -> None:
    with pytest.raises(UsageError, match=r"^--dry_rn: there is no such flag \(did you mean 'dry_run'\?\)"):
        plan({}, dry_rn=True)


def test_launch_flags_do_not_reach_the_workers() -> None:
    names = [each.name for each in TRAIN_FLAGS]
    assert len(names) == len(set(names)) and {"dry_run", "wait", "quiet", "job_name"} < set(names)
    assert "quiet" not in to_json(plan({}, quiet="yes").job)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"EDL_HOME": "/state", "XDG_STATE_HOME": "/x"}, "/state"),
        ({"XDG_STATE_HOME": "/x"}, "/x/edl_allreduce"),
        ({"EDL_HOME": ""}, str(Path.home() / ".local/state/edl_allreduce")),
        ({"EDL_HOME": "state"}, str(Path.cwd() / "state")),
    ],
)
def test_where_jobs_are_kept(environ: dict[str, str], expected: str) -> None:
    assert str(home(environ)) == expected


def test_a_job_folder_is_private_and_made_once(tmp_path: Path) -> None:
    folder = JobFolder.of("a", {"EDL_HOME": str(tmp_path / "deep" / "state")})
    folder.create("{}", "secret")
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert folder.token.stat().st_mode & 0o777 == 0o600
    assert (folder.token.read_text(), folder.spec.read_text()) == ("secret", "{}")
    assert sorted(path.name for path in folder.path.iterdir()) == ["logs", "spec.json", "token"]
    with pytest.raises(FileExistsError):
        folder.create("{}", "other")
