"""Measures what faults cost a training: `python -m benchmarks.elasticity`; with --help, how.

Trains the digits model with several workers on this machine, inflicts one fault after the other, and says how long
nobody was stepping and how many steps were lost. Then trains as far with one worker to which nothing happens, and
compares every step's loss. Where they are installed, Horovod Elastic and torchrun get the same faults. Prints a table,
writes OUTPUT/elasticity.json (every single measurement, the machine, what each figure means), and draws
OUTPUT/elasticity.png.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Collection
from pathlib import Path

from benchmarks.elasticity import horovod_elastic, torchrun
from benchmarks.elasticity.figures import KINDS
from benchmarks.elasticity.run import run
from benchmarks.elasticity.settings import Settings
from edl_allreduce.errors import EdlError, UsageError

PEERS = ("horovod", "torchrun")


def main() -> int:
    """The exit code."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started is ended
    try:
        peers = {"horovod": horovod_elastic.peer(arguments.horovod), "torchrun": torchrun.peer(arguments.torchrun)}
        run(_settings(arguments), [peers[each] for each in _list("peers", arguments.peers, PEERS)])
    except EdlError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.elasticity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    kinds = "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"which faults, joined by commas ({kinds})")
    parser.add_argument("--repeats", type=int, default=10, help="how often each (%(default)s)")
    parser.add_argument("--workers", type=int, default=3, help="how many train (%(default)s)")
    parser.add_argument(
        "--peers",
        default=",".join(PEERS),
        help="which others to measure too, joined by commas, where they are installed; empty: none (%(default)s)",
    )
    parser.add_argument("--peer_repeats", type=int, default=5, help="how often each fault with them (%(default)s)")
    parser.add_argument(
        "--horovod", default="", metavar="FOLDER", help="where another build of it is, by pip install --target"
    )
    parser.add_argument("--torchrun", default="torchrun", metavar="PATH", help="perhaps of another environment")
    parser.add_argument(
        "--limit",
        type=float,
        default=120,
        help="seconds after which a fault's end is no longer waited for (%(default)s)",
    )
    parser.add_argument(
        "--data",
        default="data/digits/train/*.recordio",
        help="the digits; `python -m model_zoo.digits make data/digits` makes them (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order, the moments and the victims (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/elasticity"), help="folder for results (%(default)s)")
    return parser.parse_args()


def _settings(arguments: argparse.Namespace) -> Settings:
    for name, least in (("repeats", 1), ("peer_repeats", 1), ("workers", 2), ("limit", 1)):
        if getattr(arguments, name) < least:
            raise UsageError(f"--{name}: expected at least {least}, got {getattr(arguments, name)}")
    return Settings(
        kinds=_list("kinds", arguments.kinds, KINDS),
        repeats=arguments.repeats,
        peer_repeats=arguments.peer_repeats,
        workers=arguments.workers,
        limit=arguments.limit,
        data=arguments.data,
        seed=arguments.seed,
        output=arguments.output.absolute(),
    )


def _list(flag: str, text: str, known: Collection[str]) -> tuple[str, ...]:
    chosen = tuple(each for each in text.split(",") if each)
    for each in chosen:
        if each not in known:
            raise UsageError(f"--{flag}: expected some of {', '.join(known)}, got {each!r}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
