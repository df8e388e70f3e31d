"""S3 and GCS against servers that speak their protocols, reached by the standard variables as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edl_allreduce import recordio, storage, storage_retry
from edl_allreduce.errors import StorageError
from tests import clouds
from tests.jobs import Job, left_over

# gcsfs hands aiohttp its upload as bytes.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    with clouds.s3_server() as url:
        yield url


@pytest.fixture(scope="module")
def gcs_server() -> Iterator[str]:
    with clouds.gcs_server() as url:
        yield url


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield clouds.use_s3(s3_server, monkeypatch.setenv)
    clouds.forget()


@pytest.fixture
def gs(gcs_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield clouds.use_gcs(gcs_server, monkeypatch.setenv)
    clouds.forget()


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def test_objects(bucket: str) -> None:
    url = storage.join(bucket, "objects", "a.bin")
    assert not storage.exists(url)
    storage.write_bytes_atomic(url, b"0123456789")
    assert storage.exists(url) and storage.exists(storage.join(bucket, "objects"))
    assert storage.size(url) == 10 and storage.read_bytes(url) == b"0123456789"
    assert storage.read_range(url, 3, 4) == b"3456" and storage.read_range(url, 8, 100) == b"89"
    with storage.open_read(url) as stream:
        assert stream.read(4) == b"0123" and stream.read() == b"456789"
    storage.write_bytes_atomic(url, b"new")
    assert storage.read_bytes(url) == b"new"
    storage.remove(url)
    storage.remove(url)
    assert not storage.exists(url)


def test_expand_sees_what_is_there_now(bucket: str) -> None:
    folder = storage.join(bucket, "train")
    with pytest.raises(StorageError, match=r"no file matches .*: there is no folder "):
        storage.expand(f"{folder}/*.recordio")
    for name in ("b.recordio", "a.recordio", "c.csv"):
        storage.write_bytes_atomic(storage.join(folder, name), b"x")
    both = [f"{folder}/a.recordio", f"{folder}/b.recordio"]
    assert storage.expand(folder) == storage.expand(f"{folder}/*.recordio") == both
    assert storage.expand(f"{bucket}/tr*/[ab].recordio,{folder}/c.csv") == [*both, f"{folder}/c.csv"]
    storage.remove(both[0])
    assert storage.expand(folder) == both[1:]
    with pytest.raises(
        StorageError, match=rf"no file matches '{folder}/\*.txt': folder '{folder}' holds b.recordio, c"
    ):
        storage.expand(f"{folder}/*.txt")
    with pytest.raises(StorageError, match=r"d.csv': no such file or folder \(did you mean 'c.csv'\?\)"):
        storage.expand(f"{folder}/d.csv")


def test_a_folder_that_a_console_has_made(bucket: str) -> None:
    """It leaves an empty object whose name ends with a slash."""
    import fsspec

    folder = storage.join(bucket, "made")
    fsspec.filesystem(bucket.partition(":")[0]).pipe_file(f"{folder}/", b"")
    storage.write_bytes_atomic(f"{folder}/a.recordio", b"x")
    assert storage.names_in(folder) == ["a.recordio"]
    assert storage.expand(folder) == storage.expand(f"{bucket}/m*de/*") == [f"{folder}/a.recordio"]


def test_recordio(bucket: str) -> None:
    records = [os.urandom(1000) for _ in range(3000)]
    urls = [storage.join(bucket, "recordio", f"{number}.recordio") for number in range(3)]
    for url in urls:
        with recordio.Writer(url, max_chunk_bytes=200_000) as writer:
            for record in records:
                writer.write(record)
    indexes = recordio.index_many(storage.expand(storage.join(bucket, "recordio")))
    assert [sum(ref.records for ref in refs) for refs in indexes] == [3000] * 3
    with recordio.Reader(urls[1], (indexes[1][7].offset and 7, 100)) as reader:
        assert list(reader) == records[sum(ref.records for ref in indexes[1][:7]) + 100 :]


def test_a_large_object_and_one_that_fails(bucket: str) -> None:
    url = storage.join(bucket, "large", "a.bin")
    block = os.urandom(1 << 20)
    with storage.writer_atomic(url) as out:
        for _ in range(12):
            out.write(block)
        assert not storage.exists(url)
    assert storage.size(url) == 12 << 20 and storage.read_range(url, (11 << 20) + 5, 9) == block[5:14]
    with pytest.raises(RuntimeError), storage.writer_atomic(storage.join(bucket, "large", "b.bin")) as out:
        out.write(block)
        raise RuntimeError
    assert storage.expand(storage.join(bucket, "large/*")) == [url]


def test_a_bundle(bucket: str, tmp_path: Path) -> None:
    for name in ("saved/variables", "trained_model.pb", "model.keras"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    storage.upload_tree(str(tmp_path), storage.join(bucket, "out"), last=["trained_model.pb"])
    assert storage.read_bytes(storage.join(bucket, "out", "saved/variables")) == b"saved/variables"
    assert storage.expand(f"{bucket}/out/*") == [f"{bucket}/out/model.keras", f"{bucket}/out/trained_model.pb"]


def test_errors_are_one_line(bucket: str) -> None:
    scheme = bucket.partition(":")[0]
    gone = f"{scheme}://no-such-bucket/x"
    problems = {
        f"{bucket}/no-such-object": "no such file, folder or bucket$",
        gone: "no such file, folder or bucket$",
    }
    for url, text in problems.items():
        for action in (storage.read_bytes, storage.size):
            with pytest.raises(StorageError, match=f"^{url}: {text}"):
                action(url)
    with pytest.raises(StorageError, match=f"^{gone}: no such"):
        storage.write_bytes_atomic(gone, b"x")
    with pytest.raises(StorageError, match=r"^no file matches .*there is no folder"):
        storage.expand(f"{scheme}://no-such-bucket/*.recordio")
    with pytest.raises(StorageError, match="is a folder"):
        storage.write_bytes_atomic(f"{bucket}/folder/a", b"x")
        storage.size(f"{bucket}/folder")


def test_s3_without_credentials_and_without_a_server(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import s3fs

    monkeypatch.setattr(storage_retry, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match=r"cannot connect .*; AWS_ENDPOINT_URL is 'http://127.0.0.1:1'$"):
        storage.read_bytes(f"{s3}/a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match=r"no valid credentials .*: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        storage.read_bytes(f"{s3}/a")


class Refusing(threading.Thread):
    """A server that answers every request with one status, as S3 and GCS do to who may not."""

    def __init__(self, status: int, body: bytes, kind: str) -> None:
        super().__init__()
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Nothing is printed."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def run(self) -> None:
        self.server.serve_forever()

    def __enter__(self) -> Refusing:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.join()
        self.server.server_close()


def test_s3_that_may_not_be_read(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    with Refusing(403, body, "application/xml") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        for action in (storage.read_bytes, storage.size, storage.exists, storage.expand):
            with pytest.raises(StorageError, match=rf"^{s3}/a: permission denied \((Access Denied|Forbidden)\)$"):
                action(f"{s3}/a")


def test_gcs_that_may_not_be_read(gs: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    body = b'{"error": {"code": 403, "message": "no access to the Google Cloud Storage bucket."}}'
    with Refusing(403, body, "application/json") as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        import gcsfs.core

        gcsfs.core.GCSFileSystem.clear_instance_cache()
        for action in (storage.read_bytes, storage.size, storage.exists, storage.expand):
            with pytest.raises(StorageError, match=rf"^{gs}/a: Forbidden: .* no access to the Google Cloud Storage"):
                action(f"{gs}/a")
    assert capfd.readouterr().err == ""


def test_a_process_that_used_a_cloud_ends_quietly(bucket: str) -> None:
    """What a cloud package leaves open must not be reported when the interpreter ends."""
    program = f"from edl_allreduce import storage; print(storage.exists('{bucket}/nothing'))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == ("False\n", "", 0)


def test_a_job_from_bucket_to_bucket(bucket: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Data and model are objects; a worker is killed while the others' connections to the store are open."""
    clouds.need("horovod", "sklearn")
    digits: Path = request.getfixturevalue("digits")
    storage.upload_tree(str(digits / "train"), storage.join(bucket, "digits"))
    flags = {
        "model_zoo": "model_zoo",
        "model_def": "digits.Classifier",
        "data": f"{bucket}/digits/*.recordio",
        "output": f"{bucket}/model",
        "num_epochs": 30,
        "num_workers": 2,
        "gather_timeout": 60,
    }
    job = Job(tmp_path / "home", flags)
    job.reaches_step(20)
    job.workers()[1].kill()
    run = job.finish()
    assert run.code == 0, run.text
    assert sorted(run.losses) == list(range(1, 30 * 12 + 1))
    assert storage.exists(f"{bucket}/model/trained_model.pb") and storage.size(f"{bucket}/model/params.safetensors") > 0
    assert left_over(job.home) == []
