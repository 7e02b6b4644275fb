"""Transfers of files by boto3's transfer manager, which sends and receives large ones in parts.

The program that wrote a file may still change it, so an upload sends exactly the size that its caller has checked. A
transfer whose caller has gone stops after the piece that it moves.
"""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3transfer.utils import OSUtils

from storage.errors import FileChanged
from storage.local_disk import local_writes

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PART_BYTES = 8 * 1024 * 1024
"""Size of the parts of a multipart upload; the SDK enlarges them if S3's maximum of 10,000 parts is too few."""
COPIED_BYTES = 16 * 1024 * 1024
"""Size of the parts of a copy, whose bytes do not pass through this process. A part counts as moved at its end, and the
embedded S3 server holds those that it copies in memory."""


class TransferStopped(Exception):
    """Raised in a transfer's threads after its caller has gone."""


class FileTransfer:
    """One transfer. `moved` counts its bytes. `send` and `receive` block, and only they call `client`."""

    def __init__(self, client: "Callable[[], S3Client]", moved: Callable[[int], None], *, threads: int) -> None:
        self._client = client
        self._moved = moved
        self._threads = threads
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def send(self, at: dict[str, Any], path: Path, size: int, content_type: str) -> None:
        """Upload the first `size` bytes. Raises `FileChanged` if there are fewer."""
        from boto3.s3.transfer import ProgressCallbackInvoker, create_transfer_manager

        counting: Any = ProgressCallbackInvoker(self._count)
        with (
            contextlib.closing(_FileOfSize(path, size)) as file,
            create_transfer_manager(self._client(), self._config(), file) as manager,
        ):
            extra = {"ContentType": content_type}
            try:
                manager.upload(str(path), at["Bucket"], at["Key"], extra, [counting]).result()
            except Exception:
                # The SDK repeats a request whose body could not be read and then reports a connection error.
                if file.ended_early:
                    raise FileChanged(f"{at['Key']}: the file has less than {size} bytes") from None
                raise

    def receive(self, at: dict[str, Any], path: Path) -> None:
        """Download a file: s3transfer writes a temporary file and renames it."""
        client = self._client()
        with local_writes(at["Key"]):
            client.download_file(**at, Filename=str(path), Config=self._config(), Callback=self._count)

    def copy(self, source: dict[str, Any], at: dict[str, Any], content_type: str) -> None:
        """Copy within the bucket. Large files are copied in parts, so that a slow server does not time out."""
        about = {"ContentType": content_type, "MetadataDirective": "REPLACE"}
        self._client().copy(
            CopySource=source,  # type: ignore[arg-type]  # the stubs want a dict of their own type
            **at,
            ExtraArgs=about,
            Callback=self._count,
            Config=self._config(COPIED_BYTES),
        )

    def _count(self, more: int) -> None:
        if self._stopped.is_set():
            raise TransferStopped
        self._moved(more)

    def _config(self, part: int = PART_BYTES) -> Any:
        from boto3.s3.transfer import TransferConfig

        return TransferConfig(
            multipart_threshold=2 * part,
            multipart_chunksize=part,
            max_concurrency=self._threads,
            # The other client, AWS CRT, fails at endpoints other than AWS's.
            preferred_transfer_client="classic",
        )


class _FileOfSize(OSUtils):
    """The file as s3transfer sees it: of the given size, whatever it has become. `close` is called at the end."""

    def __init__(self, path: Path, size: int) -> None:
        self.ended_early = False
        self._path = path
        self._size = size
        self._readers: list[_Reader] = []

    def get_file_size(self, filename: Any) -> int:
        return self._size

    def open(self, filename: Any, mode: str) -> Any:
        reader = _Reader(self, self._path)
        self._readers.append(reader)
        return reader

    def close(self) -> None:
        for reader in self._readers:  # s3transfer leaves them open after a failure
            reader.close()


class _Reader:
    """Raises where a file ends early: the server would wait for the missing bytes until the connection's timeout."""

    def __init__(self, file: _FileOfSize, path: Path) -> None:
        self._file = file
        self._opened = path.open("rb")

    def read(self, amount: int) -> bytes:
        piece = self._opened.read(amount)
        if len(piece) < amount:
            self._file.ended_early = True
            raise FileChanged("the file is shorter than it was")
        return piece

    def seek(self, where: int, whence: int = 0) -> int:
        return self._opened.seek(where, whence)

    def tell(self) -> int:
        return self._opened.tell()

    def close(self) -> None:
        self._opened.close()
