"""An S3 server for benches."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from infra.local.s3_server import LocalS3Server
from storage.bucket.s3 import S3Config, S3ObjectStore

BUCKET, ACCESS_KEY, SECRET_KEY = "bench", "BENCHACCESSKEY", "bench-secret-key"


def bench_config(endpoint_url: str) -> S3Config:
    """Return the configuration with which a separate process reaches the server at this address."""
    return S3Config(BUCKET, endpoint_url, access_key=ACCESS_KEY, secret_key=SECRET_KEY)


@asynccontextmanager
async def bench_server() -> AsyncIterator[str]:
    """Run a server and yield its address; its data are removed when the context ends."""
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
        server = LocalS3Server(data_dir=Path(folder), bucket=BUCKET, access_key=ACCESS_KEY, secret_key=SECRET_KEY)
        await server.start()
        try:
            yield server.endpoint_url
        finally:
            await server.stop()


@asynccontextmanager
async def bench_store() -> AsyncIterator[S3ObjectStore]:
    async with bench_server() as endpoint_url:
        objects = S3ObjectStore(bench_config(endpoint_url))
        try:
            yield objects
        finally:
            await objects.close()
