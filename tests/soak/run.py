"""Sends the mixture to a running API on several connections, and records the memory of its process."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.soak.mixture import Ask, Mixture

AT_ONCE = 8
ANSWER_S = 120.0
"""The maximum time of one answer, because long polls and webhook tests wait."""


@dataclass(slots=True)
class Course:
    """`memory` maps numbers of requests to bytes; `statuses` counts broken connections as 0."""

    memory: dict[int, int] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)


async def soak(
    api_url: str, mixture: Mixture, *, requests: int, marks: frozenset[int], memory: Callable[[], int]
) -> Course:
    """Send the requests, and record the memory after the numbers of requests in `marks`."""
    course, sent = Course(), 0

    async def client() -> None:
        nonlocal sent
        while sent < requests:
            sent += 1
            number = sent
            ask = mixture.next()
            status, body = await _answer(api_url, ask)
            course.statuses[status] += 1
            if status == 202 and ask.path == "/v1/jobs":
                mixture.made(json.loads(body)["job_id"])
            if number in marks:
                course.memory[number] = memory()

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    course.memory[requests] = memory()
    return course


async def _answer(api_url: str, ask: Ask) -> tuple[int, bytes]:
    """Send the raw bytes on a new connection, because no client library would send all of these requests."""
    parts = urlsplit(api_url)
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                return await _exchange(reader, writer, ask)
            finally:
                writer.transport.abort()
    except (OSError, asyncio.IncompleteReadError):
        return 0, b""


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ask: Ask) -> tuple[int, bytes]:
    headers = {"host": "soak", "connection": "close", **ask.headers}
    if ask.body is not None and "transfer-encoding" not in headers:
        headers["content-length"] = str(len(ask.body) * (2 if ask.is_cut else 1))
    head = f"{ask.method} {ask.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with contextlib.suppress(ConnectionError):  # an answer may arrive before the whole request is read
        writer.write(head.encode() + b"\r\n" + (ask.body or b""))
        await writer.drain()
    if ask.is_cut:
        return 0, b""
    answer = await reader.read()
    head_bytes, _, body = answer.partition(b"\r\n\r\n")
    return (int(head_bytes.split(b" ", 2)[1]), body) if head_bytes.startswith(b"HTTP/") else (0, b"")
