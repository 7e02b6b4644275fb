"""The data folder of `comfyui-modal up`, also for commands that need its bucket while it is stopped."""

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from pydantic import SecretStr

from infra.local.connection import Connection, Credentials
from infra.local.host import LOOPBACK
from infra.local.s3_server import LocalS3Server
from infra.settings import Settings

LOCAL_BUCKET = "comfyui-modal"


class UpRefused(Exception):
    """The command cannot run. The message says what to do."""


@contextlib.contextmanager
def locked(data: Path) -> Iterator[None]:
    """Create the folder if it is missing, and hold its lock. Raise `UpRefused` if another process holds it."""
    # Two runtimes on one folder would run two S3 servers on the same data.
    (data / "logs").mkdir(parents=True, exist_ok=True)
    # Workers of root run their engines as other users, who must traverse this folder to reach their own.
    data.chmod(0o711 if os.geteuid() == 0 else 0o700)
    (data / "logs").chmod(0o700)
    with (data / "up.lock").open("w") as lock:
        os.fchmod(lock.fileno(), 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UpRefused(
                f"{data} is in use by another `comfyui-modal up`: stop it, or choose another --data"
            ) from None
        yield


@contextlib.asynccontextmanager
async def embedded_bucket(
    data: Path, credentials: Credentials, host: str = LOOPBACK, port: int = 0
) -> AsyncIterator[tuple[Settings, LocalS3Server]]:
    """Run the folder's S3 server. Yield its settings and the server. The caller must hold the lock.

    Port 0 keeps that of the last start if it is free, because presigned URLs name it.
    """
    server = LocalS3Server(
        data_dir=data / "s3",
        bucket=LOCAL_BUCKET,
        access_key=credentials.access_key,
        secret_key=credentials.secret_key,
        host=host,
        port=port,
    )
    await server.start()
    try:
        settings = Settings(
            bucket=LOCAL_BUCKET,
            s3_endpoint=server.endpoint_url,
            s3_access_key=SecretStr(credentials.access_key),
            s3_secret_key=SecretStr(credentials.secret_key),
        )
        yield settings, server
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def bucket_of(data: Path) -> AsyncIterator[Settings]:
    """Yield the settings of the folder's bucket, and run its S3 server meanwhile if `up` does not."""
    if not data.is_dir():
        raise UpRefused(f"there is no folder {data}: run `comfyui-modal up` once, or set COMFYUI_MODAL_BUCKET")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(data))
        except UpRefused:
            connection = Connection.of(data)
            if connection is None:
                raise UpRefused(f"`comfyui-modal up` is starting or ending in {data}: try again") from None
            yield connection.settings()
            return
        if not (data / "s3").is_dir():
            raise UpRefused(f"{data} has no bucket of its own: run `comfyui-modal up`, or set COMFYUI_MODAL_BUCKET")
        async with embedded_bucket(data, Credentials.of(data)) as (settings, _):
            yield settings
