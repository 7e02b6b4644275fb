"""Expensive bodies: their cost is bounded before the parser starts, and other requests are served meanwhile."""

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.body import MAX_DEPTH, MAX_SMALL_JSON, MAX_VALUES, SPOOL_THRESHOLD, Body, BodyTooLarge
from app.body._scanner import MAX_DIGITS, PIECE, Scanner

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
SIZE = 3 * MIB
CALLS_A_PIECE = 60
"""The most function calls that scanning one piece may take, whatever it contains."""

COSTLY = {
    "empty strings": b"[" + b'""' * (SIZE // 2),
    "empty strings with commas": b"[" + b'"",' * (SIZE // 3),
    "escapes": b'["' + b"\\n" * (SIZE // 2),
    "strings of escapes": b"[" + b'"\\n\\n\\n\\n",' * (SIZE // 11),
    "escaped quotes": b'["' + b'\\"' * (SIZE // 2),
    "closing brackets": b"]" * SIZE,
    "objects": b"[" + b"{}," * (SIZE // 3),
    "numbers": b"[" + b"1," * (SIZE // 2),
    "white space": b" " * SIZE,
    "backslashes": b"\\" * SIZE,
}


async def in_pieces(raw: bytes, size: int = 64 * 1024) -> AsyncIterator[bytes]:
    for start in range(0, len(raw), size):
        yield raw[start : start + size]


async def received(raw: bytes, size: int = 64 * 1024) -> Any:
    with Body() as body:
        return await body.receive(in_pieces(raw, size), limit=1024 * MIB)


async def text_of_a(raw: bytes) -> str:
    with Body() as body:
        document = await body.receive(in_pieces(raw), limit=MIB)
        return body.spooled(document["a"]).text(MIB)


@pytest.mark.parametrize("kind", COSTLY)
def test_scanning_costs_the_same_for_every_piece(kind: str) -> None:
    """Scanning a chunk makes a bounded number of function calls, whatever strings, escapes or brackets it holds."""
    calls = 0

    def count(_: Any, event: str, __: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    scanner = Scanner(io.BytesIO(), lambda: (io.BytesIO(), b"spooled"))
    pieces = [COSTLY[kind][start : start + PIECE] for start in range(0, SIZE, PIECE)]
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for piece in pieces:
            scanner.feed(piece)
    except ValueError:
        pass
    finally:
        sys.setprofile(before)
    assert calls <= CALLS_A_PIECE * len(pieces)


async def test_other_tasks_run_between_the_pieces() -> None:
    """Other tasks run at least once per chunk while a large body is scanned."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    serving = asyncio.create_task(others())
    raw = b'["' + b"x" * SIZE + b'"]'
    await received(raw, len(raw))
    serving.cancel()
    assert turns >= SIZE // PIECE - SPOOL_THRESHOLD // PIECE


@pytest.mark.parametrize(
    "raw",
    [
        b'["" ""]',
        b'{"a" "b"}',
        b"[" + b'""' * 10_000 + b"]",
        b'["a"' + b" " * (2 * PIECE) + b'"b"]',
        b"[1]]",
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b"[" + b"9" * (MAX_DIGITS + 1) + b"]",
        b"[" + b" " * (PIECE - 10) + b"9" * (MAX_DIGITS + 1) + b"]",
        b"[1e999]",
        b"[1e+0999]",
        b"[NaN]",
    ],
)
async def test_expensive_json_is_refused(raw: bytes) -> None:
    """Malformed, deeply nested or oversized JSON is refused wherever its chunks are split."""
    with pytest.raises(ValueError, match=r"."):
        await received(raw)


@pytest.mark.parametrize("raw", [b"[" + b"0," * MAX_VALUES + b"0]", b"[" + b" " * MAX_SMALL_JSON + b"]"])
async def test_the_remaining_json_is_bounded(raw: bytes) -> None:
    """A document is limited in its number of values and in the bytes outside long strings."""
    with pytest.raises(BodyTooLarge):
        await received(raw)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ['{"a": 1}', "[[[]], 1]", '"x"', "[" * 200 + "]" * 200])
async def test_another_encoding_is_refused(encoding: str, text: str) -> None:
    """Text in an encoding other than UTF-8 is refused, because it would pass the scanner's limits."""
    with pytest.raises(ValueError, match=r"."):
        await received(text.encode(encoding))


@pytest.mark.parametrize(
    "text", [b"\xed\xa0\x80", b"\xed\xb0\x80\xed\xa0\x80", b"\xc0\x80", b"\xff", b"\xf5\x80\x80\x80"]
)
@pytest.mark.parametrize("length", [1, SPOOL_THRESHOLD + 1])
async def test_invalid_utf_8_is_refused(text: bytes, length: int) -> None:
    """Invalid UTF-8 is refused in short strings, and in long strings when they are read."""
    raw = b'{"a":"' + b"x" * length + text + b'"}'
    with pytest.raises(ValueError, match=r"."):
        await text_of_a(raw)


async def test_a_byte_order_mark_is_ignored() -> None:
    """A byte order mark is ignored (RFC 8259), wherever the body is split."""
    for size in (1, 2, 3, 100):
        assert await received(b'\xef\xbb\xbf{"a": 1}', size) == {"a": 1}


@pytest.mark.parametrize("length", [SPOOL_THRESHOLD, SPOOL_THRESHOLD + 1])
@pytest.mark.parametrize("size", [1, 1000, 64 * 1024])
async def test_only_long_strings_go_to_a_file(length: int, size: int) -> None:
    """The length of a string alone decides whether it goes to a file, not where the body is split."""
    with Body() as body:
        raw = json.dumps({"a": "b", "c": "x" * length, "d": ["y"]}).encode()
        document = await body.receive(in_pieces(raw, size), limit=MIB)
        assert (document["c"] == "x" * length) == (length <= SPOOL_THRESHOLD)
        assert body.spooled(document["c"]).text(MIB) == "x" * length
        assert (document["a"], document["d"]) == ("b", ["y"])
