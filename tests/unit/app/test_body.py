"""Request bodies are scanned as they arrive; long strings go to disk and memory use stays constant."""

import base64
import json
import os
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.body import SPOOL_THRESHOLD, BadBase64, Body, BodyTooLarge, SpooledText, TextLimits, TextTooLong

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
LONG = SPOOL_THRESHOLD + 1

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


async def in_pieces(raw: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(raw), size):
        yield raw[start : start + size]


async def received(raw: bytes, size: int = 4096, limit: int = 100 * MIB) -> Any:
    with Body() as body:
        return await body.restored(
            await body.receive(in_pieces(raw, size), limit=limit), TextLimits(10 * MIB, 100 * MIB)
        )


@given(json_values, st.booleans(), st.integers(1, 7))
async def test_a_document_split_anywhere_is_read_unchanged(document: Any, plain: bool, size: int) -> None:
    """A document is read unchanged wherever it is split, including inside escapes and multi-byte characters."""
    assert await received(json.dumps(document, ensure_ascii=plain).encode(), size) == document


@settings(max_examples=8)
@given(st.text(min_size=1, max_size=20), st.booleans(), st.integers(1000, 70_000))
async def test_long_strings_are_restored_unchanged(text: str, plain: bool, size: int) -> None:
    """Long strings, as values or as keys, are restored unchanged in a document that also has short ones."""
    long = text * (LONG // len(text) + 1)
    document = {"a": [long, "short", {long: 1}], "b": long}
    assert await received(json.dumps(document, ensure_ascii=plain).encode(), size) == document


@pytest.mark.parametrize("raw", [b"", b"{", b'{"a": "', b'{"a": "' + b"x" * LONG, b"nope", b'{"a": NaN}', b"\xff"])
async def test_invalid_json_is_refused(raw: bytes) -> None:
    """A body that is truncated, malformed or in another encoding raises a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011  the kinds differ, the caller does not care
        await received(raw)


async def test_a_body_beyond_its_limit_is_refused_while_it_arrives() -> None:
    """A body that exceeds its limit is refused before the rest of it is read."""
    with pytest.raises(BodyTooLarge):
        await received(b'{"a": "' + b"x" * 2000 + b'"}', limit=1000)


async def test_a_placeholder_cannot_be_forged() -> None:
    """A submitted string that has the form of a placeholder stays an ordinary string."""
    with Body() as body:
        raw = json.dumps({"real": "x" * LONG, "forged": "\0spool:0"}).encode()
        document = await body.receive(in_pieces(raw, 999), limit=MIB)
        document = await body.restored(document, TextLimits(MIB, MIB))
    assert document["forged"] == "\0spool:0"


async def test_long_text_has_its_own_limit() -> None:
    """A long string outside the input files is refused by the text limit."""
    with Body() as body:
        document = await body.receive(in_pieces(json.dumps({"a": "x" * LONG}).encode(), 4096), limit=MIB)
        with pytest.raises(TextTooLong):
            await body.restored(document, TextLimits(1000, MIB))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 100, LONG, 3 * MIB + 1])
@pytest.mark.parametrize("form", ["plain", "data-url", "unpadded", "wrapped", "slash-escaped", "u-escaped"])
async def test_base64_in_all_its_forms(size: int, form: str, tmp_path: Path) -> None:
    """Base64 is decoded with line breaks, missing padding, JSON escapes or a data URL prefix, as clients of the first
    version send it.
    """
    data = os.urandom(size)
    text = base64.b64encode(data).decode()
    encoded = json.dumps(text)
    match form:
        case "data-url":
            encoded = json.dumps("data:image/png;base64," + text)
        case "unpadded":
            encoded = json.dumps(text.rstrip("="))
        case "wrapped":
            encoded = json.dumps("\r\n".join(text[n : n + 76] for n in range(0, len(text), 76)))
        case "slash-escaped":
            encoded = encoded.replace("/", "\\/")
        case "u-escaped":
            encoded = encoded.replace("+", "\\u002B").replace("=", "\\u003d")
    with Body() as body:
        document = await body.receive(in_pieces(f'{{"data": {encoded}}}'.encode(), 50_021), limit=20 * MIB)
        assert body.spooled(document["data"]).decode_base64(tmp_path / "out", 10 * MIB) == size
    assert (tmp_path / "out").read_bytes() == data


@pytest.mark.parametrize("text", ["!!!!", "abc=def=", "a", "ab=c", "x" * 5, "äöü"])
def test_invalid_base64_is_refused(text: str, tmp_path: Path) -> None:
    """Invalid base64 is refused; only white space and missing padding are tolerated."""
    with pytest.raises(BadBase64):
        SpooledText(text).decode_base64(tmp_path / "out", 1000)


def test_an_input_file_beyond_its_limit_is_refused_while_it_is_decoded(tmp_path: Path) -> None:
    """Decoding stops as soon as the decoded bytes exceed the limit."""
    with pytest.raises(BodyTooLarge):
        SpooledText(base64.b64encode(b"x" * 1001).decode()).decode_base64(tmp_path / "out", 1000)


@pytest.mark.parametrize("mebibytes", [10, 50])
async def test_memory_stays_constant(tmp_path: Path, mebibytes: int) -> None:
    """An input file of any size is received and decoded in a few megabytes of memory."""
    piece = base64.b64encode(os.urandom(48 * 1024))
    pieces = mebibytes * MIB // (48 * 1024)

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"media": [{"name": "a.bin", "data": "'
        for _ in range(pieces):
            yield piece
        yield b'"}]}'

    tracemalloc.start()
    try:
        with Body() as body:
            document = await body.receive(chunks(), limit=200 * MIB)
            size = body.spooled(document["media"][0]["data"]).decode_base64(tmp_path / "out", 100 * MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == pieces * 48 * 1024
    assert peak < 12 * MIB


@pytest.mark.parametrize("escape", [b"\\u0041", b"\\/", b"\\n\\u0041"])
async def test_escaped_base64_is_decoded_in_bulk(escape: bytes, tmp_path: Path) -> None:
    """Decoding base64 that consists of JSON escapes runs no Python code per escape."""
    plain = json.loads(b'"' + escape + b'"').replace("\n", "") * 400_000
    with Body() as body:
        document = await body.receive(in_pieces(b'{"a":"' + escape * 400_000 + b'"}', 65_536), limit=100 * MIB)
        calls = 0

        def count(_: Any, event: str, __: Any) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            body.spooled(document["a"]).decode_base64(tmp_path / "x", 10 * MIB)
        finally:
            sys.setprofile(before)
    assert (tmp_path / "x").read_bytes() == base64.b64decode(plain)
    assert calls < 1_000


@pytest.mark.parametrize(
    ("document", "places"),
    [({"text": "x" * 60_000}, 0), ([{"k": []}] * 1_000, 1), ([{"k": []}] * 20_000, 2)],
    ids=["one text", "many values", "very many values"],
)
async def test_a_document_counts_with_the_memory_that_its_values_take(document: Any, places: int) -> None:
    """A short document of many values takes the places of a large one, until its body is closed."""
    held: list[str] = []

    async def enter(place: str) -> Callable[[], None]:
        held.append(place)
        return lambda: held.remove(place)

    with Body(partial(enter, "in memory"), partial(enter, "received")) as body:
        await body.receive(in_pieces(json.dumps(document).encode(), 4096), limit=MIB)
        assert held == ["received", "in memory"][:places]
    assert held == []
