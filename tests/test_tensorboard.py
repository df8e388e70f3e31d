"""What a history's lines become in TensorBoard, read back from real event files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rendezvous.tensorboard import TensorBoard, scalars_of

LINES: list[dict[str, Any]] = [
    {"target": 3},
    {"round": 1, "members": [0, 1], "cause": "start", "kind": "start", "first_step": 1, "time": 1.0},
    {"step": 1, "epoch": 0, "loss": 2.0, "records": 64, "seconds": 0.0, "useful": 0.1, "learning_rate": 0.01},
    {"step": 2, "epoch": 0, "loss": 1.5, "records": 64, "seconds": 0.5, "useful": 0.1},
    {"evaluation": 2, "epoch": 0, "figures": {"loss": 1.4, "auc": 0.75}},
    {
        "round": 2,
        "members": [1],
        "cause": "worker 0 was ended by SIGKILL",
        "kind": "lost",
        "first_step": 3,
        "time": 2.0,
    },
    {"epoch_end": 0, "step": 3, "figures": {"loss": 1.7, "val_loss": 1.3}, "stopped": ""},
]


def events_in(folder: Path) -> list[Any]:
    from tensorboardX.proto import event_pb2

    [file] = folder.glob("events.out.tfevents.*")
    data, events = file.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        events.append(event_pb2.Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return events


def test_every_line_finds_its_chart(tmp_path: Path) -> None:
    board = TensorBoard(str(tmp_path), tmp_path / "job")
    for line in LINES:
        board.note(line)
    board.close()
    found = {}
    texts = []
    for event in events_in(tmp_path / "tensorboard"):
        for value in event.summary.value:
            if value.HasField("tensor"):
                texts.append((event.step, value.tensor.string_val[0].decode()))
            else:
                found[value.tag, event.step] = round(value.simple_value, 4)
    assert found == {
        ("job/workers", 1): 2,
        ("train/loss", 1): 2.0,
        ("train/learning_rate", 1): 0.01,
        ("train/loss", 2): 1.5,
        ("train/step_seconds", 2): 0.5,
        ("train/records_per_second", 2): 128,
        ("validation/loss", 2): 1.4,
        ("validation/auc", 2): 0.75,
        ("job/workers", 3): 1,
        ("epoch/loss", 3): 1.7,
        ("validation/loss", 3): 1.3,
    }
    assert texts == [
        (1, "round 1 with 2 workers: start"),
        (3, "round 2 with 1 workers: worker 0 was ended by SIGKILL"),
    ]


def test_a_remote_output_gets_the_file_at_the_end(tmp_path: Path) -> None:
    import fsspec

    board = TensorBoard("memory://bucket/out", tmp_path)
    for line in LINES:
        board.note(line)
    board.close()
    names = fsspec.filesystem("memory").ls("/bucket/out/tensorboard", detail=False)
    assert len(names) == 1 and "events.out.tfevents" in names[0]


def test_other_lines_say_nothing() -> None:
    assert list(scalars_of({"checkpoint": 10, "bytes": 5})) == []


def test_a_coordinator_that_goes_on_with_a_round_writes_its_steps(tmp_path: Path) -> None:
    board = TensorBoard(str(tmp_path), tmp_path / "job")
    for line in [{"restart": 1, "time": 1.0}, LINES[3]]:
        board.note(line)
    board.close()
    tags = {(value.tag, event.step) for event in events_in(tmp_path / "tensorboard") for value in event.summary.value}
    assert ("train/loss", 2) in tags
