"""Servers that speak the protocols of S3 and GCS, for tests; the packages they need are in the extra dev."""

from __future__ import annotations

import importlib.util
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BUCKET = "training-data"


def need(*packages: str) -> None:
    """Skips the test when one of them is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'edl_allreduce[dev]'")


@contextmanager
def s3_server() -> Iterator[str]:
    """Moto's S3 server. Its own runner sends the header `Server` twice, which aiohttp refuses: so it is served here."""
    need("s3fs", "moto", "werkzeug")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class OneServerHeader(WSGIRequestHandler):
        def send_response(self, code: int, message: str | None = None) -> None:
            self.send_response_only(code, message)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app: Any = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=OneServerHeader)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def gcs_server() -> Iterator[str]:
    """gcp-storage-emulator, with the bucket made."""
    need("gcsfs", "gcp_storage_emulator")
    from gcp_storage_emulator.server import create_server

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


def use_s3(server: str, setenv: Callable[[str, str], object]) -> str:
    """Has this process, and its children, use the server; returns the URL of the bucket, which is made if missing."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "us-east-1")):
        setenv(f"AWS_{name}", value)
    setenv("AWS_ENDPOINT_URL", server)
    fs = s3fs.S3FileSystem()
    if not fs.exists(BUCKET):
        fs.mkdir(BUCKET)
    return f"s3://{BUCKET}"


def use_gcs(server: str, setenv: Callable[[str, str], object]) -> str:
    """Has this process, and its children, use the server; returns the URL of the bucket."""
    import gcsfs.core

    gcsfs.core.GCSFileSystem.clear_instance_cache()
    setenv("STORAGE_EMULATOR_HOST", server)
    return f"gs://{BUCKET}"


def forget() -> None:
    """Has the next use of a store open new connections."""
    import fsspec

    for scheme in ("s3", "gs"):
        if importlib.util.find_spec({"s3": "s3fs", "gs": "gcsfs"}[scheme]):
            fsspec.get_filesystem_class(scheme).clear_instance_cache()
    if importlib.util.find_spec("gcsfs"):
        import gcsfs.core

        gcsfs.core.GCSFileSystem.clear_instance_cache()
