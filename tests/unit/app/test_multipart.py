"""The reader of asset uploads: it holds neither files nor headers in memory, however they arrive."""

import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blake3 import blake3

from app.comfy_v2.multipart import PIECE, BadMultipart, FileTooLarge, MultipartFile, boundary_of

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
CHUNK = bytes(64 * 1024)
HEAD = b'--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
END = b"\r\n--B--\r\n"


async def body(head: bytes, chunks: int, end: bytes) -> AsyncIterator[bytes]:
    yield head
    for _ in range(chunks):
        yield CHUNK
    yield end


async def repeating(head: bytes, piece: bytes, taken: list[bytes]) -> AsyncIterator[bytes]:
    """A body of `head` and 40 times `piece`; `taken` gets the pieces that were read."""
    yield head
    for _ in range(40):
        taken.append(piece)
        yield piece


async def test_a_large_file_is_never_in_memory(tmp_path: Path) -> None:
    """A file of 48 MiB is hashed and written in a few MiB of memory."""
    path, size = tmp_path / "file", 48 * MIB
    tracemalloc.start()
    try:
        received = await MultipartFile(b"B", path, limit=size).receive(body(HEAD, size // len(CHUNK), END))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (received.size_bytes, path.stat().st_size) == (size, size)
    assert received.hash == blake3(bytes(size)).hexdigest()
    assert peak < 6 * PIECE


@pytest.mark.parametrize("size", [2 * MIB - len(CHUNK), 64 * MIB])
async def test_a_file_above_the_limit_is_refused_while_it_arrives(tmp_path: Path, size: int) -> None:
    """A file that exceeds the limit is refused after it, whatever would follow."""
    limit = 2 * MIB - len(CHUNK) - 1
    path = tmp_path / "file"
    with pytest.raises(FileTooLarge):
        await MultipartFile(b"B", path, limit=limit).receive(body(HEAD, size // len(CHUNK), END))
    assert path.stat().st_size <= limit


@pytest.mark.parametrize("head", [b"--B\r\nX-Long: ", b"--B\r\nX"])
async def test_an_endless_header_is_refused(tmp_path: Path, head: bytes) -> None:
    """A header of a part that does not end is refused after a few KiB."""

    async def endless() -> AsyncIterator[bytes]:
        yield head
        for number in range(1000):
            assert number < 10
            yield b"x" * 4096

    with pytest.raises(BadMultipart):
        await MultipartFile(b"B", tmp_path / "file", limit=MIB).receive(endless())


@pytest.mark.parametrize("repeated", [b"\r\n--B-x", b"\r\n--B\rx", b"\r\n--Bx"], ids=["last", "next", "longer"])
async def test_a_boundary_in_the_data_is_refused(tmp_path: Path, repeated: bytes) -> None:
    """A file in which the boundary occurs again and again is refused before it is parsed."""
    taken: list[bytes] = []
    with pytest.raises(BadMultipart, match="boundary"):
        await MultipartFile(b"B", tmp_path / "file", limit=MIB).receive(repeating(HEAD, repeated * 1_000, taken))
    assert len(taken) == 1


@pytest.mark.parametrize("start", [b"--B ", HEAD + b"x\r\n--B ", HEAD + END], ids=["before", "after", "epilogue"])
async def test_bytes_in_addition_to_the_file_are_limited(tmp_path: Path, start: bytes) -> None:
    """What is neither file nor text, as the padding of a boundary, is limited whatever size a file may have."""
    taken: list[bytes] = []
    with pytest.raises(BadMultipart):
        await MultipartFile(b"B", tmp_path / "file", limit=64 * MIB).receive(repeating(start, b" " * len(CHUNK), taken))
    assert len(taken) <= MIB // len(CHUNK) + 1


def test_a_long_content_type_is_refused() -> None:
    """A Content-Type that would take long to parse is refused."""
    with pytest.raises(BadMultipart):
        boundary_of("multipart/form-data; boundary=x" + ";" * 60_000)
    assert boundary_of("multipart/form-data; boundary=x") == b"x"
