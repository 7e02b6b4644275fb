"""Makes file names of nodes and users safe for a key, a header and a file system."""

import re
import unicodedata
from collections.abc import Iterator
from itertools import count
from pathlib import PurePosixPath

LONGEST_BYTES = 150
LONGEST_FOLDER = 255
"""Maximum characters of a folder's path: a job may have a thousand outputs, and a path 4,096 characters."""
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\:*?\"<>|\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def safe_filename(name: str) -> str:
    """Return a safe file name of at most LONGEST_BYTES of UTF-8; it is never empty, hidden, `.` or `..`.

    Letters of any script are kept, and the extension; separators, control and direction characters and lone surrogates
    become `_`, and so do U+FFFE and U+FFFF, which no XML can hold: S3 deletes keys by a list in XML.
    """
    clean = _UNSAFE.sub("_", unicodedata.normalize("NFC", name)).rstrip(" .")
    stem, dot, extension = clean.rpartition(".")
    if not dot or len(extension.encode()) > 16:
        stem, dot, extension = clean, "", ""
    room = LONGEST_BYTES - len((dot + extension).encode())
    stem = stem.encode()[:room].decode(errors="ignore").strip(" .")
    return f"{stem or 'file'}{dot}{extension}"


def safe_folder(folder: str) -> str:
    """Return a folder's path below ComfyUI's with safe segments; empty for an absolute path.

    The first folders of a path that is too long are kept.
    """
    path = PurePosixPath(folder)
    safe = "" if path.is_absolute() else "/".join(safe_filename(part) for part in path.parts)
    return safe if len(safe) <= LONGEST_FOLDER else safe[: LONGEST_FOLDER + 1].rpartition("/")[0]


class DistinctNames:
    """Unique file names for one job's outputs, since clients store them in one folder."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, name: str, folder: str = "") -> str:
        """Return `name`; if another output has it, prefixed with its folder's name or with a number."""
        safe = safe_filename(name)
        # Compared without case, which the file systems of Windows and macOS do not distinguish.
        name = next(one for one in self._candidates(safe, folder) if one.casefold() not in self._taken)
        self._taken.add(name.casefold())
        return name

    @staticmethod
    def _candidates(safe: str, folder: str) -> Iterator[str]:
        yield safe
        if folder:
            yield safe_filename(f"{folder.replace('/', '_')}_{safe}")
        for number in count(2):  # as a prefix too, since a long name loses its end
            yield safe_filename(f"{number}_{safe}")
