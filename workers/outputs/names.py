"""File names from nodes and users, made safe for a key, a header and a file system."""

import re
import unicodedata
from collections.abc import Iterator
from itertools import count
from pathlib import PurePosixPath

LONGEST_BYTES = 150
LONGEST_FOLDER = 255
"""Characters of a folder's path: a job may have a thousand outputs, and a path up to 4,096 characters."""
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\:*?\"<>|\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def safe_filename(name: str) -> str:
    """Letters of any script stay; separators, control and direction characters and lone surrogates become `_`.

    At most LONGEST_BYTES of UTF-8, the extension kept; never empty, hidden, `.` or `..`.
    """
    clean = _UNSAFE.sub("_", unicodedata.normalize("NFC", name)).rstrip(" .")
    stem, dot, extension = clean.rpartition(".")
    if not dot or len(extension.encode()) > 16:
        stem, dot, extension = clean, "", ""
    room = LONGEST_BYTES - len((dot + extension).encode())
    stem = stem.encode()[:room].decode(errors="ignore").strip(" .")
    return f"{stem or 'file'}{dot}{extension}"


def safe_folder(folder: str) -> str:
    """A folder's path below ComfyUI's, each name of it made safe. An absolute one has no place below it.

    Of a path that is too long the first folders stay.
    """
    path = PurePosixPath(folder)
    safe = "" if path.is_absolute() else "/".join(safe_filename(part) for part in path.parts)
    return safe if len(safe) <= LONGEST_FOLDER else safe[: LONGEST_FOLDER + 1].rpartition("/")[0]


class DistinctNames:
    """The file names of one job's outputs, no two of them alike: clients put them into one folder."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, name: str, folder: str = "") -> str:
        """`name`, or with its folder's name before it where another output has it, or with a number."""
        safe = safe_filename(name)
        name = next(one for one in self._candidates(safe, folder) if one.casefold() not in self._taken)
        self._taken.add(name.casefold())
        return name

    @staticmethod
    def _candidates(safe: str, folder: str) -> Iterator[str]:
        yield safe
        if folder:
            yield safe_filename(f"{folder.replace('/', '_')}_{safe}")
        for number in count(2):  # before the name as well: what is too long loses its end
            yield safe_filename(f"{number}_{safe}")
