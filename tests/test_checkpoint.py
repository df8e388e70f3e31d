# ruff: noqa: E501 (what users read stands here unbroken)
"""Whatever happens to whoever writes checkpoints, the newest complete one is found, and is whole."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edl_allreduce import __version__, checkpoint, storage
from edl_allreduce.errors import DataError, EdlError, ModelError, StorageError
from edl_allreduce.notices import notices
from edl_allreduce.position import Position
from edl_allreduce.spec import JobSpec
from tests import checkpoint_writer as writer
from tests import clouds
from tests.disks import full_disk
from tests.faulty import Faulty
from tests.jobs import REPOSITORY

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


@pytest.fixture(scope="module")
def stores() -> Iterator[dict[str, Faulty]]:
    """S3 and GCS behind proxies that can fail."""
    with (
        clouds.s3_server() as s3,
        clouds.gcs_server() as gcs,
        Faulty(s3) as s3_proxy,
        Faulty(gcs) as gcs_proxy,
    ):
        yield {"s3": s3_proxy, "gs": gcs_proxy}


@pytest.fixture
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Faulty]]:
    """An output in a bucket, and the proxy before it."""
    proxy = request.getfixturevalue("stores")[request.param]
    use = {"s3": clouds.use_s3, "gs": clouds.use_gcs}[request.param]
    yield f"{use(proxy.url, monkeypatch.setenv)}/{uuid.uuid4().hex}", proxy
    proxy.heal()
    clouds.forget()


@pytest.fixture(params=["local", "memory", "s3", "gs"])
def output(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "out")
    elif request.param == "memory":
        yield f"memory://{uuid.uuid4().hex}/out"
    else:
        proxy = request.getfixturevalue("stores")[request.param]
        use = {"s3": clouds.use_s3, "gs": clouds.use_gcs}[request.param]
        yield f"{use(proxy.url, monkeypatch.setenv)}/{uuid.uuid4().hex}"
        clouds.forget()


def steps(output: str) -> list[int]:
    names = storage.names_in(storage.join(output, "checkpoints")) or []
    return [int(name.removeprefix("step-")) for name in names]


def test_from_the_first_to_the_last(output: str) -> None:
    assert checkpoint.newest(output) is None
    checkpoint.prune(output, 1)
    for step in (5, 90, 100, 1_000_000_000):
        made = writer.write(output, step)
        assert checkpoint.newest(output) == made and writer.read(output) == step
        assert made.url == checkpoint.url_of(output, writer.position(step))
    checkpoint.prune(output, 2)
    assert steps(output) == [100, 1_000_000_000] and writer.read(output) == 1_000_000_000
    checkpoint.remove_all(output)
    checkpoint.remove_all(output)
    assert steps(output) == [] and checkpoint.newest(output) is None


def test_what_a_checkpoint_says(tmp_path: Path) -> None:
    made = writer.write(str(tmp_path), 512)
    folder = tmp_path / "checkpoints" / "step-000000512"
    assert made.url == str(folder) and sorted(os.listdir(folder)) == ["checkpoint.json", made.state]
    about = json.loads((folder / "checkpoint.json").read_text())
    assert about["position"] == {"step": 512, "epoch": 5, "offset": 12 * 128}
    assert (about["job"], about["seed"], about["fingerprint"], about["lanes"]) == ("job-1", 0, "fingerprint", 64)
    assert about["state"] == {"file": made.state, "bytes": (folder / made.state).stat().st_size, "sha256": made.digest}
    assert JobSpec.from_json(json.dumps(about["spec"])) == writer.origin().spec
    assert about["saved_at"] == 1e9 + 512 and about["versions"]["edl_allreduce"]


def test_incomplete_ones_are_passed_over_and_pruned_once_older(output: str, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2, 3, 4, 5, 6):
        writer.write(output, step)
    folders = [checkpoint.url_of(output, writer.position(step)) for step in range(7)]
    storage.remove(f"{folders[2]}/checkpoint.json")
    storage.write_bytes_atomic(f"{folders[5]}/checkpoint.json", b'{"position": ')
    storage.remove(f"{folders[6]}/checkpoint.json")
    storage.write_bytes_atomic(storage.join(output, "checkpoints", "notes", "mine.txt"), b"kept")
    with caplog.at_level(logging.WARNING):
        assert writer.read(output) == 4
    assert [each.getMessage() for each in caplog.records if each.name == notices.name] == [
        f"{folders[6]}: passed over: it has no checkpoint.json: whoever wrote it did not come to the end",
        f"{folders[5]}: passed over: its checkpoint.json is damaged",
    ]
    checkpoint.prune(output, 2)
    left = storage.names_in(storage.join(output, "checkpoints"))
    assert left == ["notes", *(f"step-00000000{step}" for step in (3, 4, 5, 6))]
    writer.write(output, 7)
    checkpoint.prune(output, 2)
    assert storage.names_in(storage.join(output, "checkpoints")) == ["notes", "step-000000004", "step-000000007"]


def test_killed_before_each_of_its_deeds(tmp_path: Path) -> None:
    """A process that dies before its first, second, … file operation, in writing as in pruning."""
    for step in (1, 2, 3):
        writer.write(str(tmp_path), step)
    command = [sys.executable, "-m", "tests.checkpoint_writer", "die", str(tmp_path), "2"]
    done = subprocess.run(command, cwd=REPOSITORY, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [int(line) for line in done.stdout.split()]
    assert found == sorted(found) and found[0] == 3 and len(found) > 10
    assert steps(str(tmp_path)) == [found[-1], found[-1] + 1]  # the last one came to the end, and left only these


@pytest.mark.parametrize("cloud", ["s3", "gs"], indirect=True)
def test_cut_off_before_each_of_its_requests(cloud: tuple[str, Faulty]) -> None:
    """The same in a bucket: from some request on, nothing works any more."""
    output, proxy = cloud
    for step in (1, 2, 3):
        writer.write(output, step)
    newest = 3
    for number in range(100):
        proxy.fail("403", after=number)
        try:
            writer.write(output, newest + 1)
            checkpoint.prune(output, 2)
            complete = proxy.faulted == 0
        except StorageError:
            complete = False
        proxy.heal()
        found = writer.read(output)
        assert found in (newest, newest + 1), f"after request {number}"
        newest = found or 0
        if complete:
            break
        proxy.faulted = 0
    assert number > 6 and len(steps(output)) == 2


def test_killed_at_any_moment(tmp_path: Path) -> None:
    chance = random.Random(4)
    output, newest = str(tmp_path), 0
    for _ in range(12):
        command = [sys.executable, "-m", "tests.checkpoint_writer", "loop", output, "2"]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout
            for _ in range(chance.randrange(1, 30)):
                told = int(child.stdout.readline())
            threading.Event().wait(chance.random() * 0.01)  # the moment is what varies
            child.kill()
        found = writer.read(output)
        assert found is not None and found >= told > newest
        newest = found
        assert len(steps(output)) <= 4


def test_a_zombie_disturbs_nobody(tmp_path: Path) -> None:
    """A writer that was thought dead goes on with a checkpoint that another one has written since, or is writing."""
    output, stopped, go = str(tmp_path), threading.Event(), threading.Event()

    def check() -> None:
        stopped.set()
        assert go.wait(10)

    zombie = threading.Thread(target=lambda: writer.write(output, 7, check=check))
    zombie.start()
    assert stopped.wait(10)
    made = writer.write(output, 7)
    assert writer.read(output) == 7
    go.set()
    zombie.join()
    assert writer.read(output) == 7
    assert checkpoint.newest(output) != made  # its own, complete as well


def test_what_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    def check() -> None:
        if next(blocks) == 3:
            raise KeyboardInterrupt

    blocks = iter(range(9))
    writer.write(str(tmp_path), 1)
    with pytest.raises(KeyboardInterrupt):
        writer.write(str(tmp_path), 2, check=check)
    assert steps(str(tmp_path)) == [1]


def test_a_full_disk_leaves_the_newest_and_nothing_else(tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk", kibibytes=64) as disk:
        writer.write(str(disk), 1)
        large = [np.ones([200, 200], np.float32)]
        with pytest.raises(
            StorageError, match=r"/state-.*: no space left on device: free some, or choose another folder"
        ):
            checkpoint.write(str(disk), Position(2), ["a"], large, writer.origin(), 0.0)
        assert steps(str(disk)) == [1] and writer.read(str(disk)) == 1


Damage = Callable[[Path, checkpoint.Checkpoint], object]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def rewrite(path: Path, change: Callable[[Any], object]) -> None:
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "kind", "expected"),
    [
        (lambda folder, made: flip(folder / made.state), DataError, "URL/STATE: is damaged: its SHA-256 is not the one in checkpoint.json; to use an older checkpoint, remove URL"),
        (lambda folder, made: (folder / made.state).unlink(), DataError, "URL: is no complete checkpoint: its STATE has 0 bytes, not the 5260 that were written"),
        (lambda folder, made: (folder / made.state).write_bytes(b"x"), DataError, "URL: is no complete checkpoint: its STATE has 1 bytes, not the 5260 that were written"),
        (lambda folder, made: (folder / "checkpoint.json").unlink(), DataError, "URL: is no complete checkpoint: it has no checkpoint.json: whoever wrote it did not come to the end"),
        (lambda folder, made: (folder / "checkpoint.json").write_text("[1]"), DataError, "URL: is no complete checkpoint: its checkpoint.json is damaged"),
        (lambda folder, made: rewrite(folder / "checkpoint.json", lambda about: about.update(position={"step": "x"})), DataError, "URL: is no complete checkpoint: its checkpoint.json is damaged"),
        (lambda folder, made: rewrite(folder / "checkpoint.json", lambda about: about.update(format=2)), DataError, f"URL: was written by edl_allreduce {__version__}, this is {__version__}: its format is 2, not 1; go on with that version, or remove it"),
        (lambda folder, made: rewrite(folder / "checkpoint.json", lambda about: about["spec"]["data"].update(new=1)), DataError, f"URL: was written by edl_allreduce {__version__}, this is {__version__}: "),
    ],
)  # fmt: skip
def test_damage(tmp_path: Path, damage: Damage, kind: type[EdlError], expected: str) -> None:
    made = writer.write(str(tmp_path), 3)
    damage(Path(made.url), made)
    variables = [writer.Variable(name, shape) for name, shape in zip(writer.NAMES, writer.SHAPES, strict=True)]
    with pytest.raises(EdlError) as error:
        checkpoint.read(made.url, variables)
    message = str(error.value).replace(made.url, "URL").replace(made.state, "STATE")
    assert type(error.value) is kind and message.startswith(expected) and "\n" not in message
    assert not any(variable.value.any() for variable in variables)


def test_a_version_that_is_not_understood_is_not_taken_for_none(tmp_path: Path) -> None:
    """Starting anew without a word would be the worse."""
    writer.write(str(tmp_path), 1)
    made = writer.write(str(tmp_path), 2)
    rewrite(Path(made.url, "checkpoint.json"), lambda about: about.update(format=9))
    with pytest.raises(DataError, match=r"its format is 9, not 1"):
        checkpoint.newest(str(tmp_path))


@pytest.mark.parametrize(
    ("names", "shapes", "expected"),
    [
        (writer.NAMES, [(40, 31), (30,), ()], "dense/kernel is float32 [40, 30], the model's code makes it float32 [40, 31]"),
        (["deep/kernel", *writer.NAMES[1:]], writer.SHAPES, "has dense/kernel where the model's code makes deep/kernel"),
        (writer.NAMES[:2], writer.SHAPES[:2], "has 3 parameters, the model's code makes 2 (only one of them has adam/iteration)"),
    ],
)  # fmt: skip
def test_another_model(tmp_path: Path, names: list[str], shapes: list[tuple[int, ...]], expected: str) -> None:
    made = writer.write(str(tmp_path), 3)
    variables = [writer.Variable(name, shape) for name, shape in zip(names, shapes, strict=True)]
    with pytest.raises(ModelError) as error:
        checkpoint.read(made.url, variables)
    assert str(error.value) == f"{made.url}/{made.state}: {expected}"
    assert not any(variable.value.any() for variable in variables)


@pytest.mark.parametrize("cloud", ["s3"], indirect=True)
def test_a_store_that_cannot_be_reached_is_not_taken_for_none(
    cloud: tuple[str, Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, proxy = cloud
    writer.write(output, 1)
    before = proxy.requests
    assert writer.read(output) == 1
    for number in range(proxy.requests - before):
        proxy.fail("403", after=number)
        with pytest.raises(StorageError, match="permission denied"):
            writer.read(output)


@pytest.mark.parametrize("cloud", ["s3", "gs"], indirect=True)
def test_a_store_that_fails_for_a_while(cloud: tuple[str, Faulty]) -> None:
    output, proxy = cloud
    proxy.fail("503", requests=2)
    writer.write(output, 1)
    proxy.fail("503", requests=2)
    assert writer.read(output) == 1


def test_differences() -> None:
    def differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
        return checkpoint.differences(writer.origin(**old).spec, writer.origin(**new).spec)

    same: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"batch_size": 128}),
        ({}, {"num_epochs": 9, "model_zoo": "other", "num_workers": 4, "output": "p", "on_bad_record": "skip"}),
        ({"params": "a=1, b='x'"}, {"params": "b = 'x', a=1"}),
        ({"lanes": 0}, {"lanes": 64, "data": "./d"}),  # the fingerprint tells
    ]
    assert [differing(old, new) for old, new in same] == [[]] * len(same)
    assert differing({"batch_size": 64}, {}) == ["batch_size was 64, is 128"]
    assert differing({"minibatch_size": 64}, {"batch_size": 64}) == [
        "batch_size was not set, is 64",
        "minibatch_size was 64, is not set",
    ]
    assert differing({"params": "a=1"}, {"params": "a='x', b=2", "seed": 3, "loss": "mse", "shuffle": False}) == [
        "params was a=1, is a='x', b=2",
        "loss was not set, is mse",
        "shuffle was True, is False",
        "seed was 0, is 3",
    ]


def test_importing_it_is_light() -> None:
    program = "import sys, edl_allreduce.checkpoint, edl_allreduce.bundle; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "keras", "safetensors", "fsspec"} & set(done.stdout.split())
