"""One S3 server for all processes of a test run, each of which has a bucket of its own.

A server in each process would cost two seconds of processor time more, most of it while no request arrives.
"""

import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from infra.local.s3_server import LocalS3Server
from storage.bucket._s3_clients import make_client
from storage.bucket.s3 import S3Config

START_S = 120.0
"""More than all attempts of the server to start take."""
_POLL_S = 0.05


@contextmanager
def shared_server() -> Iterator[Path]:
    """Start a server in the background, and yield the file that will describe it once it is ready."""
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-tests-") as folder:
        description, is_over = Path(folder) / "s3.json", threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(_serve(description, is_over)))
        thread.start()
        try:
            yield description
        finally:
            is_over.set()
            thread.join()


async def _serve(description: Path, is_over: threading.Event) -> None:
    data = description.parent / "server"
    server = LocalS3Server(data_dir=data, bucket="tests", access_key="TESTACCESSKEY", secret_key="test-secret-key")
    await server.start()
    try:
        unfinished = description.with_suffix(".new")
        unfinished.write_text(json.dumps(asdict(server.config())))
        unfinished.rename(description)
        await asyncio.to_thread(is_over.wait)
    finally:
        await server.stop()


def new_bucket(name: str, description: Path) -> S3Config:
    """Create a bucket on the described server once that is ready."""
    deadline = time.monotonic() + START_S
    while not description.exists():
        assert time.monotonic() < deadline, "the S3 server of the tests did not start"
        time.sleep(_POLL_S)
    config = replace(S3Config(**json.loads(description.read_text())), bucket=name)
    client: Any = make_client(config, config.attempts, config.endpoint_url)
    client.create_bucket(Bucket=name)
    client.close()
    return config
