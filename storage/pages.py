"""Pages of a list: index keys are listed, newest first, and the record that each names is read.

A page costs the same however long the list is. A cursor is the last segment of the last index key that was used.
"""

import asyncio
import base64
import binascii
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Generic, TypeVar

from storage.bucket.objects import ObjectStore
from storage.concurrency import map_bounded
from storage.errors import BadCursor
from storage.index_keys import LIST_ENTRY

Row = TypeVar("Row")

MAX_LISTS = 4
"""Maximum LISTs per page. If stale index keys use them up, the page is short and its cursor continues the list."""

SCAN_S = 5.0
"""Seconds after which a filtered page ends, with what was found: the reads of a slow bucket must not use up the time of
the request, which would then end without a page, however often it is repeated."""

WAVE = 64
"""Records that are read between two checks whether the page is full: a multiple of those that are read at once."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """`next_cursor` is None on the last page."""

    rows: tuple[Row, ...]
    next_cursor: str | None


def _always(_: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a list that is of interest: from behind `first` to the first key that is not in range.

    With `scan`, most of its keys may still be of no interest: a page costs one LIST and at most `scan` reads, and no
    wave of reads begins after `SCAN_S`.
    """

    first: str = ""
    is_in_range: Callable[[str], bool] = _always
    scan: int | None = None


WHOLE = Part()


async def read_page(
    objects: ObjectStore,
    prefix: str,
    row: Callable[[str], Awaitable[Row | None]],
    *,
    limit: int,
    cursor: str | None,
    part: Part = WHOLE,
) -> Page[Row]:
    """Return the page of `limit` rows that follows the cursor, for one LIST and a read per row. Raises `BadCursor`.

    `row` reads what an index key names, and returns None for a key that is stale or of no interest.
    """
    after = max(_decode_cursor(prefix, cursor), prefix + part.first if part.first else "")
    found: list[Row] = []
    ends_at = math.inf if part.scan is None else asyncio.get_running_loop().time() + SCAN_S
    for _ in range(MAX_LISTS if part.scan is None else 1):
        listed = await objects.list(prefix, after=after, limit=part.scan or limit - len(found))
        in_range = tuple(takewhile(part.is_in_range, listed.keys))
        rows, used = await _rows(in_range, row, limit - len(found), ends_at)
        found += rows
        is_end = len(in_range) < len(listed.keys) or not listed.more or not listed.keys
        if is_end and used == len(in_range):
            return Page(tuple(found), None)
        after = in_range[used - 1]
        if len(found) >= limit:
            break
    return Page(tuple(found), _encode_cursor(after))


async def _rows(
    index_keys: Sequence[str], row: Callable[[str], Awaitable[Row | None]], limit: int, ends_at: float
) -> tuple[list[Row], int]:
    """Return the first `limit` rows, or those found until `ends_at`, and how many of the keys they took."""
    found: list[Row] = []
    used = 0
    while used < len(index_keys) and (used == 0 or asyncio.get_running_loop().time() < ends_at):
        for read in await map_bounded(index_keys[used : used + WAVE], row):
            used += 1
            if read is not None:
                found.append(read)
            if len(found) == limit:
                return found, used
    return found, used


def _encode_cursor(key: str) -> str:
    entry = key.rsplit("/", 1)[1]
    return base64.urlsafe_b64encode(entry.encode()).decode().rstrip("=")


def _decode_cursor(prefix: str, cursor: str | None) -> str:
    if cursor is None:
        return ""
    try:
        entry = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
    except (ValueError, binascii.Error):
        raise BadCursor(cursor) from None
    if not LIST_ENTRY.fullmatch(entry):
        raise BadCursor(cursor)
    return prefix + entry
