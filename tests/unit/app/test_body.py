"""Request bodies: scanned as they arrive, long strings on disk, memory constant."""

import base64
import json
import os
import sys
import tracemalloc
from collections.abc import AsyncIterator
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
async def test_a_document_in_any_pieces_is_the_document(document: Any, plain: bool, size: int) -> None:
    """Wherever the network cuts it, escapes and multi-byte letters included."""
    assert await received(json.dumps(document, ensure_ascii=plain).encode(), size) == document


@settings(max_examples=20)
@given(st.text(min_size=1, max_size=20), st.booleans(), st.integers(1000, 70_000))
async def test_long_strings_come_back_as_they_were(text: str, plain: bool, size: int) -> None:
    """Also as keys, and beside short ones."""
    long = text * (LONG // len(text) + 1)
    document = {"a": [long, "short", {long: 1}], "b": long}
    assert await received(json.dumps(document, ensure_ascii=plain).encode(), size) == document


@pytest.mark.parametrize("raw", [b"", b"{", b'{"a": "', b'{"a": "' + b"x" * LONG, b"nope", b'{"a": NaN}', b"\xff"])
async def test_what_is_not_json_is_refused(raw: bytes) -> None:
    """Cut off, misspelt, or in another encoding: a ValueError, whatever it is."""
    with pytest.raises(ValueError):  # noqa: PT011  the kinds differ, the caller does not care
        await received(raw)


async def test_a_body_beyond_its_limit_is_refused_while_it_arrives() -> None:
    """The rest is not read."""
    with pytest.raises(BodyTooLarge):
        await received(b'{"a": "' + b"x" * 2000 + b'"}', limit=1000)


async def test_a_placeholder_cannot_be_forged() -> None:
    """A string that looks like one is just a string."""
    with Body() as body:
        raw = json.dumps({"real": "x" * LONG, "forged": "\0spool:0"}).encode()
        document = await body.receive(in_pieces(raw, 999), limit=MIB)
        document = await body.restored(document, TextLimits(MIB, MIB))
    assert document["forged"] == "\0spool:0"


async def test_a_long_text_has_a_limit_of_its_own() -> None:
    """Only media may be long."""
    with Body() as body:
        document = await body.receive(in_pieces(json.dumps({"a": "x" * LONG}).encode(), 4096), limit=MIB)
        with pytest.raises(TextTooLong):
            await body.restored(document, TextLimits(1000, MIB))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 100, LONG, 3 * MIB + 1])
@pytest.mark.parametrize("form", ["plain", "data-url", "unpadded", "wrapped", "slash-escaped", "u-escaped"])
async def test_base64_in_all_its_forms(size: int, form: str, tmp_path: Path) -> None:
    """As the first version's clients sent it: line breaks, missing padding and data URLs are forgiven."""
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
def test_what_is_not_base64_is_refused(text: str, tmp_path: Path) -> None:
    """Nothing is guessed beyond white space and padding."""
    with pytest.raises(BadBase64):
        SpooledText(text).decode_base64(tmp_path / "out", 1000)


def test_a_medium_beyond_its_limit_is_refused_while_it_is_decoded(tmp_path: Path) -> None:
    """The limit counts decoded bytes."""
    with pytest.raises(BodyTooLarge):
        SpooledText(base64.b64encode(b"x" * 1001).decode()).decode_base64(tmp_path / "out", 1000)


@pytest.mark.parametrize("mebibytes", [10, 100])
async def test_memory_stays_constant(tmp_path: Path, mebibytes: int) -> None:
    """A medium passes through in a few megabytes, however large it is."""
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
async def test_base64_of_escapes_alone(escape: bytes, tmp_path: Path) -> None:
    """However often base64's own characters are written as escapes, no Python code runs for each of them."""
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
