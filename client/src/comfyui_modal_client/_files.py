"""Files of a transfer: where an output is saved, and its bytes while they arrive. A saved file is complete."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx

from comfyui_modal_client._errors import DownloadFailed

CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A downloaded output: its path, and what was done."""

    path: Path
    state: Literal["new", "renamed", "already there"]
    """`renamed`: another file has the output's name. `already there`: nothing was downloaded, because this file has the
    output's bytes."""


class Draft:
    """A file that is being downloaded: its bytes so far, and their SHA-256."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the next request, which asks for the bytes that are missing."""
        # An encoded answer would have other bytes, to which a range and the checksum do not apply.
        headers = {"accept-encoding": "identity"}
        return headers | {"range": f"bytes={self._size}-"} if self._size else headers

    def begin(self, response: httpx.Response) -> None:
        """Continue after the bytes so far, or from the start if the bucket sends the whole file."""
        if response.status_code != 206:
            self._file.seek(0)
            self._file.truncate()
            self._digest = hashlib.sha256()
            self._size = 0

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._digest.update(chunk)
        self._size += len(chunk)

    def finish(self, name: str, sha256: str) -> None:
        """Close the file. Raises `DownloadFailed` if its bytes are not those that the job made."""
        self._file.close()
        if self._digest.hexdigest() != sha256:
            raise DownloadFailed(f"{name}: the bytes differ from those that the job made")


def candidates(folder: Path, filename: str) -> Iterator[Path]:
    """Yield the paths under which an output may be saved: its name, then that with (1), (2), …"""
    name = Path(filename).name
    first = folder / (name if name not in ("", "..") else "output")
    yield first
    number = 0
    while True:
        number += 1
        yield first.with_name(f"{first.stem} ({number}){first.suffix}")


def find_same(folder: Path, filename: str, sha256: str, size: int | None) -> Path | None:
    """Return the file of a former download of this output, or None."""
    for path in candidates(folder, filename):
        if not path.exists():
            return None
        # The size first: a folder may hold many large files that had this name before.
        if path.is_file() and size in (None, path.stat().st_size) and _sha256(path) == sha256:
            return path
    return None


def place(draft: Path, folder: Path, filename: str) -> Path:
    """Move a complete draft to the first free path, and return it."""
    for path in candidates(folder, filename):
        try:
            # A link fails if the path exists. A rename would overwrite a file that appeared just now.
            os.link(draft, path)
        except FileExistsError:
            continue
        except OSError:  # a file system without links
            if path.exists():
                continue
            draft.rename(path)
        return path
    raise AssertionError  # there is no last candidate


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
