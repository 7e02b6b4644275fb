"""Files of a transfer: where an output is saved, and its bytes while they arrive. A saved file is complete."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx

from comfyui_modal_client._errors import DownloadFailed

CHUNK_BYTES = 1024 * 1024
MAX_NAME_BYTES = 150
MAX_SUFFIX_BYTES = 16
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f:*?\"<>|\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])( *\..*)?", re.IGNORECASE)
"""What Windows takes for a device, with any suffix."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A downloaded output: its path, and what was done."""

    path: Path
    state: Literal["new", "renamed", "already there"]
    """`renamed`: another file has the output's name. `already there`: nothing was downloaded, because this file has the
    output's bytes."""


class Draft:
    """A file that is being downloaded: its bytes so far, and their SHA-256."""

    def __init__(self, path: Path, name: str, size_bytes: int) -> None:
        self.path = path
        self.name = name
        self._size_bytes = size_bytes
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
        return {"range": f"bytes={self._size}-"} if self._size else {}

    def begin(self, response: httpx.Response) -> None:
        """Continue after the bytes so far, or from the start if the bucket sends the whole file."""
        if response.status_code != 206:
            self._file.seek(0)
            self._file.truncate()
            self._digest = hashlib.sha256()
            self._size = 0

    def write(self, chunk: bytes) -> None:
        """Add bytes. Raises `DownloadFailed` if they are more than the job made, so an endless answer fills no disk."""
        if self._size + len(chunk) > self._size_bytes:
            raise DownloadFailed(f"{self.name}: the bucket sends more than the {self._size_bytes} bytes of the output")
        self._file.write(chunk)
        self._digest.update(chunk)
        self._size += len(chunk)

    def finish(self, sha256: str) -> None:
        """Close the file. Raises `DownloadFailed` if its bytes are not those that the job made."""
        self._file.close()
        if self._digest.hexdigest() != sha256:
            raise DownloadFailed(f"{self.name}: the bytes differ from those that the job made")


def safe_name(filename: str) -> str:
    """Return a file name of at most MAX_NAME_BYTES of UTF-8 that every system and every shell takes as a plain one.

    It has no folder and no control, direction or reserved character, is not hidden, is no option of a command and no
    device of Windows. Letters of any script and spaces are kept.
    """
    name = _UNSAFE.sub("_", re.split(r"[\\/]", filename)[-1]).strip(" .")
    stem, dot, suffix = name.rpartition(".")
    if not dot or len(suffix.encode()) > MAX_SUFFIX_BYTES:
        stem, dot, suffix = name, "", ""
    room = MAX_NAME_BYTES - len((dot + suffix).encode())
    name = f"{stem.encode()[:room].decode(errors='ignore').rstrip(' .') or 'output'}{dot}{suffix}"
    return f"_{name[1:]}" if name.startswith("-") else f"_{name}" if _DEVICE.fullmatch(name) else name


def candidates(folder: Path, filename: str) -> Iterator[Path]:
    """Yield the paths under which an output may be saved: its safe name, then that with (1), (2), …"""
    first = folder / filename
    yield first
    number = 0
    while True:
        number += 1
        yield first.with_name(f"{first.stem} ({number}){first.suffix}")


def find_same(folder: Path, filename: str, sha256: str, size: int) -> Path | None:
    """Return the file of a former download of this output, or None."""
    for path in candidates(folder, filename):
        if not path.exists():
            return None
        # The size first: a folder may hold many large files that had this name before.
        if path.is_file() and size == path.stat().st_size and _sha256(path) == sha256:
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
