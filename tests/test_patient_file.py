"""What a full disk does not take is written later, whole and in order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rendezvous import patient_file
from rendezvous.patient_file import PatientFile
from tests.disks import full_disk


def test_lines_wait_for_room_on_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with full_disk(tmp_path / "disk", 64) as disk:
        with open(disk / "history.jsonl", "a+") as file:
            written = PatientFile(file)
            written.write("first\n")
            (disk / "ballast").write_bytes(bytes(40 << 10))
            lines = [f"{number} {'x' * 1000}\n" for number in range(40)]
            for line in lines:  # one of them has room for its beginning only
                assert written.write(line) == len(line)
            kept = (disk / "history.jsonl").read_text()
            assert len(kept) < 40_000 and "".join(["first\n", *lines]).startswith(kept)
            (disk / "ballast").unlink()
            written.write("last\n")
        assert (disk / "history.jsonl").read_text() == "".join(["first\n", *lines, "last\n"])
    [warning] = caplog.records
    assert warning.getMessage() == f"{disk}/history.jsonl: No space left on device; what is to be written waits"


def test_memory_is_not_filled_instead_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_file, "MAX_LINES", 3)
    with open(tmp_path / "history.jsonl", "a+") as file:
        written = PatientFile(file)
        with monkeypatch.context() as full:
            full.setattr(os, "write", _full)
            for number in range(6):
                written.write(f"{number}\n")
        written.write("6\n")
    assert (tmp_path / "history.jsonl").read_text() == "0\n3\n4\n5\n6\n"  # 0 might have been written in part


def _full(descriptor: int, data: bytes) -> int:
    raise OSError(28, "No space left on device")
