"""An S3 server and a worker for benches."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from infra.local.s3_server import LocalS3Server
from storage.s3 import S3ObjectStore


@asynccontextmanager
async def bench_store() -> AsyncIterator[S3ObjectStore]:
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
        server = LocalS3Server(
            data_dir=Path(folder), bucket="bench", access_key="BENCHACCESSKEY", secret_key="bench-secret-key"
        )
        await server.start()
        objects = S3ObjectStore(server.config())
        try:
            yield objects
        finally:
            await objects.close()
            await server.stop()
