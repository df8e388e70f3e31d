"""Files of ours read by the original implementation, and by Go's snappy package that it is built on."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edl_allreduce import recordio

PROGRAMS = Path(__file__).parent / "data" / "recordio"
ORIGINAL = "github.com/wangkuiyi/recordio"
SNAPPY = "github.com/golang/snappy@v1.0.0"


def go(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GOFLAGS": "-mod=mod -buildvcs=false"}
    return subprocess.run(["go", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=250)


def build(folder: Path, program: str, *requirements: tuple[str, ...]) -> str:
    """Compiles one of the Go programs; skips the test when Go or a module it needs cannot be had."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed: get it from your system's packages (golang) to run this test")
    shutil.copy(PROGRAMS / program / "main.go", folder)
    for arguments in (("mod", "init", "exchange"), *requirements, ("build", "-o", "reader", ".")):
        done = go(folder, *arguments)
        if done.returncode:
            pytest.skip(f"'go {' '.join(arguments)}' failed: {' '.join(done.stderr.split()[-30:])}")
    return str(folder / "reader")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The original's reader; RECORDIO_ORIGINAL may name a checkout of it, for where the Go module cannot be fetched."""
    checkout = os.environ.get("RECORDIO_ORIGINAL")
    replace = [("mod", "edit", "-require", f"{ORIGINAL}@v0.0.0", "-replace", f"{ORIGINAL}={checkout}")]
    steps = replace if checkout else [("get", f"{ORIGINAL}@latest")]
    return build(tmp_path_factory.mktemp("original"), "original", *steps)


@pytest.fixture(scope="module")
def go_snappy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(tmp_path_factory.mktemp("goreader"), "goreader", ("get", SNAPPY))


def awkward_records() -> list[bytes]:
    """Empty ones, also last; sizes around a snappy frame; compressible and not; one larger than a chunk."""
    draw = random.Random(7)
    edges = [size for near in (1, 4096, 65536, 131072) for size in (near - 5, near - 4, near, near + 1) if size >= 0]
    sizes = [0, 0, *edges, *(draw.randrange(400) for _ in range(2000)), 0]
    return [draw.randbytes(size) if draw.random() < 0.5 else bytes(size) for size in sizes]


def read_with(program: str, path: Path) -> list[bytes]:
    done = subprocess.run([program, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    return [bytes.fromhex(line) for line in done.stdout.splitlines()]


def check_reads(program: str, folder: Path, compressor: str) -> None:
    records = awkward_records()
    for limit in (1, 1000, 65536 - 4, 65536, 32 << 20):
        path = folder / f"{compressor}-{limit}.recordio"
        with recordio.Writer(str(path), compressor, limit) as writer:
            for record in records:
                writer.write(record)
        assert read_with(program, path) == records


@pytest.mark.parametrize("compressor", ["none", "snappy"])  # the original's reader hangs on every gzip file
def test_the_original_reads_ours(original: str, tmp_path: Path, compressor: str) -> None:
    check_reads(original, tmp_path, compressor)


@pytest.mark.parametrize("compressor", ["none", "snappy"])
def test_gos_snappy_reads_ours(go_snappy: str, tmp_path: Path, compressor: str) -> None:
    check_reads(go_snappy, tmp_path, compressor)


def test_the_go_reader_is_a_fair_judge(go_snappy: str) -> None:
    read: Callable[[str], list[bytes]] = lambda name: read_with(go_snappy, PROGRAMS / f"{name}.recordio")  # noqa: E731
    assert read("snappy") == read("plain") == list(recordio.Reader(str(PROGRAMS / "gzip.recordio")))


def test_pyrecordio_reads_ours(tmp_path: Path) -> None:
    original = pytest.importorskip(
        "recordio", reason="the Python package of the original (pyrecordio) is not installed"
    )
    records = [record for record in awkward_records() if record]
    path = tmp_path / "ours.recordio"
    with recordio.Writer(str(path)) as writer:
        for record in records:
            writer.write(record)
    scanner = original.Scanner(str(path))
    assert [scanner.record() for _ in records] == records
    assert scanner.record() is None
