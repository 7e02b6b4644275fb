"""A file whose reader gets a limited number of bytes, whatever the file says about itself."""

from typing import BinaryIO


class TooManyBytes(OSError):
    """The reader asked for more than it may read."""


class LimitedReads:
    """Passes reads on to a file. Raises `TooManyBytes` for one of more than `each` bytes, and beyond `total` in all."""

    def __init__(self, file: BinaryIO, *, each: int, total: int | None = None) -> None:
        self._file = file
        self._each = each
        self._left = total

    def read(self, size: int | None = -1) -> bytes:
        most = self._each if self._left is None else min(self._each, self._left)
        found = self._file.read(most + 1 if size is None or size < 0 else min(size, most + 1))
        if len(found) > most:
            raise TooManyBytes(f"more than {most} bytes are needed at once to read its header")
        if self._left is not None:
            self._left -= len(found)
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
