"""File names from nodes and users, made safe for a key, a header and a file system."""

import re
import unicodedata

LONGEST_BYTES = 150
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
