"""Serves recorded runs to this machine: `python -m rendezvous.dashboard PLACE…` (the launcher starts it).

One line on its standard output says {"url": …, "notes": […]}, or {"error": …, "exit_code": …}. It ends when its
standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import secrets
import sys
from collections.abc import Sequence

from edl_allreduce.errors import EdlError
from rendezvous.dashboard.access import Rules
from rendezvous.dashboard.door import url_of
from rendezvous.dashboard.recorded import RecordedJob
from rendezvous.dashboard.recording import Recording, find
from rendezvous.dashboard.server import start
from rendezvous.dashboard.site import RunSite, RunsSite, Site

ADDRESS = "127.0.0.1"


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m rendezvous.dashboard", description=__doc__, allow_abbrev=False)
    parser.add_argument("places", nargs="+", help="an output, the folder of a run, or a job's folder")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        found, notes = find_all(parser.parse_args().places)
        asyncio.run(_serve(found, notes))
    except EdlError as error:
        _say({"error": str(error), "exit_code": error.exit_code})
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def find_all(places: Sequence[str]) -> tuple[list[Recording], list[str]]:
    """The runs in all places, each once; and what is to be said about others.

    Raises:
        EdlError: in one of the places there is none.
    """
    found: dict[str, Recording] = {}
    notes: list[str] = []
    for place in places:
        some, said = find(place)
        found |= {each.url: each for each in some}
        notes += said
    return list(found.values()), notes


async def _serve(found: Sequence[Recording], notes: Sequence[str]) -> None:
    jobs = [RecordedJob(each) for each in found]
    site: Site = RunSite(jobs[0]) if len(jobs) == 1 else RunsSite(jobs)
    token = secrets.token_urlsafe(32)
    dashboard = await start(site, Rules(token), ADDRESS)
    _say({"url": url_of(ADDRESS, dashboard.port, token), "notes": notes})
    await _input_ends()
    await dashboard.close()


async def _input_ends() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(1 << 10):
        pass


def _say(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
