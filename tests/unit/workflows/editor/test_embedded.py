"""The workflow inside a picture, a sound or a film, written here as ComfyUI writes it."""

import io
import json
import struct
import sys
import tracemalloc
import zlib
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from workflows.editor.embedded import embedded_workflows

WORKFLOW = {"nodes": [], "title": "Grüße"}
PROMPT = {"1": {"class_type": "A", "inputs": {}}}
BOTH = {"workflow": WORKFLOW, "prompt": PROMPT}


def picture(form: str, **options: object) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (4, 4)).save(made, form, **options)
    return made.getvalue()


def png(*, packed: bool = False, international: bool = False) -> bytes:
    info = PngInfo()
    for name, value in BOTH.items():
        add = info.add_itxt if international else info.add_text
        text = json.dumps(value, ensure_ascii=not international)
        add(name, text, zip=packed)
    return picture("PNG", pnginfo=info)


def webp() -> bytes:
    exif = Image.Exif()
    exif[0x0110], exif[0x010F] = f"prompt:{json.dumps(PROMPT)}", f"Workflow:{json.dumps(WORKFLOW)}"
    return picture("WEBP", exif=exif)


def flac() -> bytes:
    made = io.BytesIO()
    with av.open(made, "w", format="flac") as container:
        container.metadata.update({name: json.dumps(value) for name, value in BOTH.items()})
        stream = container.add_stream("flac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])
    return made.getvalue()


def mp4() -> bytes:
    made = io.BytesIO()
    with av.open(made, "w", format="mp4", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata.update({name: json.dumps(value) for name, value in BOTH.items()})
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode()])
    return made.getvalue()


MAKERS = {
    "png": png,
    "packed png": lambda: png(packed=True),
    "international png": lambda: png(international=True),
    "webp": webp,
    "flac": flac,
    "mp4": mp4,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_both_workflows_are_found(kind: str) -> None:
    """The editor's file and the API graph are read from each format."""
    assert embedded_workflows(MAKERS[kind]()) == BOTH


@pytest.mark.parametrize("kind", MAKERS)
def test_a_truncated_file_raises_nothing(kind: str) -> None:
    """Any part of a file gives what it has, or nothing."""
    data = MAKERS[kind]()
    for length in range(0, len(data), 37):
        assert embedded_workflows(data[:length]).keys() <= BOTH.keys()


def test_a_file_without_a_workflow_gives_nothing() -> None:
    """Other pictures, texts and text that is not JSON have no workflow."""
    info = PngInfo()
    info.add_text("workflow", "not JSON")
    assert [embedded_workflows(data) for data in (picture("PNG"), b"text", b"", picture("PNG", pnginfo=info))] == [
        {}
    ] * 4


def test_a_text_that_unpacks_to_very_much_is_cut() -> None:
    """A small file cannot fill the memory."""
    bomb = b"workflow\0\0" + zlib.compress(b" " * (40 << 20))
    chunk = struct.pack(">I4s", len(bomb), b"zTXt") + bomb + b"\0\0\0\0"
    assert embedded_workflows(b"\x89PNG\r\n\x1a\n" + chunk) == {}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), kind) + body + b"\0\0\0\0"


def peak(data: bytes) -> int:
    """Return the most bytes that reading a file takes at once."""
    tracemalloc.start()
    try:
        embedded_workflows(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_texts_of_other_names_are_not_unpacked() -> None:
    """A picture with many packed texts takes no memory for them."""
    packed = zlib.compress(b"a" * (4 << 20))
    chunks = [chunk(b"zTXt", b"other%d\0\0" % number + packed) for number in range(8)]
    assert peak(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)) < 1 << 20


def test_both_texts_share_one_limit() -> None:
    """A file whose two texts have more than 16 MiB together has no workflow."""
    half = zlib.compress(b" " * (9 << 20) + b"1")
    one, other = (chunk(b"zTXt", name + b"\0\0" + half) for name in (b"workflow", b"prompt"))
    assert embedded_workflows(b"\x89PNG\r\n\x1a\n" + one) == {"workflow": 1}
    assert embedded_workflows(b"\x89PNG\r\n\x1a\n" + one + other) == {}


def test_strings_of_a_webp_may_overlap() -> None:
    """Many entries of one long string do not copy it for each."""
    count, text = 40, b"a" * 100 + b":" + b"1" * (1 << 20)
    entries = (struct.pack(">HHII", 1, 2, len(text), 10 + 12 * count + n) for n in range(count))
    exif = b"MM\0*" + struct.pack(">IH", 8, count) + b"".join(entries) + text
    assert peak(b"RIFF\0\0\0\0WEBPEXIF" + struct.pack("<I", len(exif)) + exif) < 1 << 20


def test_blocks_of_a_webp_do_not_share_a_directory() -> None:
    """Many small blocks that name one long directory do not read it again for each."""
    count = 50
    blocks = [b"EXIF" + struct.pack("<I", 8) + b"MM\0*" + struct.pack(">I", 8 + 16 * n) for n in range(count)]
    entries = struct.pack(">HHII", 1, 1, 0, 0) * count
    data = b"RIFF\0\0\0\0WEBP" + b"".join(reversed(blocks)) + struct.pack(">H", count) + entries
    calls = 0

    def read(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "c_call" and argument is struct.unpack_from

    before = sys.getprofile()
    sys.setprofile(read)
    try:
        assert embedded_workflows(data) == {}
    finally:
        sys.setprofile(before)
    assert 0 < calls <= 5 * count


@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"fLaC", b"RIFF\0\0\0\0WEBPEXIF", b"\0\0\0\x08ftyp\0\0\0\x40moov"]),
    st.binary(),
)
def test_random_bytes_raise_nothing(start: bytes, rest: bytes) -> None:
    """Malformed files of each format are read without an error."""
    assert embedded_workflows(start + rest) in ({}, {"workflow": 0})
