"""`edl dashboard`: the page of a running job, or of runs that are recorded. The docstring is its help."""

from __future__ import annotations

import inspect
import os
import sys
import webbrowser
from collections.abc import Sequence

from edl_allreduce import storage
from edl_allreduce.errors import JobFailed
from edl_allreduce.job_folder import RUNS
from launcher.commands.arguments import boolean
from launcher.commands.jobs import PLACE_HELP
from launcher.handle import JobHandle, how
from launcher.jobs import attach
from launcher.recorded import served


def dashboard(
    job: str,
    *more: str,
    open: str | bool = True,
    backend: str = "",
    namespace: str = "",
    kube_context: str = "",
) -> None:
    """Opens the page of a job in the browser, or of runs that are recorded, and keeps it reachable until Ctrl-C.

    JOB             a job's name, or as much of its beginning as tells it from others; or an output, folder or URL:
                    all runs that are recorded there
    MORE…           more of these; several runs are compared: curves, settings, figures
    --noopen        only print its URL
    PLACE_HELP

    The page of a running job steers it: the token is in the URL. It goes when the job ends.

    Examples:
      edl dashboard digits-20261122-153012-a1b2
      edl dashboard out/digits
      edl dashboard out/digits s3://bucket/digits
    """
    opens = boolean("open", open)
    found = [each if _is_output(each) else attach(each, backend, namespace, kube_context) for each in (job, *more)]
    try:
        if len(found) == 1 and isinstance(handle := found[0], JobHandle) and handle.exit_code is None:
            _show_running(handle, opens)
        else:
            _show_recorded([each.record if isinstance(each, JobHandle) else each for each in found], opens)
    except KeyboardInterrupt:
        return


dashboard.__doc__ = (inspect.getdoc(dashboard) or "").replace("PLACE_HELP", PLACE_HELP)


def _is_output(word: str) -> bool:
    """Whether a word means a place with recorded runs; all others mean jobs."""
    if storage.is_remote(word) or os.sep in word:
        return True
    return os.path.isdir(word) and RUNS in (storage.names_in(word) or ())


def _show_running(handle: JobHandle, opens: bool) -> None:
    with handle.dashboard() as url:
        _show(url, opens)
        for _ in handle.watch():
            pass
    print(f"job {handle.name} has ended: {how(handle.status())}")


def _show_recorded(places: Sequence[str], opens: bool) -> None:
    with served(places) as found:
        for note in found.notes:
            print(note, file=sys.stderr)
        _show(found.url, opens)
        found.wait()
    raise JobFailed("what shows recorded runs has ended unexpectedly")


def _show(url: str, opens: bool) -> None:
    print(url, flush=True)
    if opens:
        webbrowser.open(url)
