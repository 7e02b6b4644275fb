"""Parsers of untrusted bytes. A target returns, or raises an error that it documents."""

import asyncio
import json
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.api.uploads import UploadRequest
from app.body import SPOOL_THRESHOLD, BadBase64, Body, BodyTooLarge, TextLimits
from app.submission.request import BatchRequest, JobRequest
from infra.secrecy import Redactor
from storage.access.api_keys import parse_key
from storage.bucket.s3 import content_disposition
from storage.errors import FileRefused
from storage.intake.media_check import MediaCheck, MediaLimits
from tests.support.api_server import BLUE, PNG
from tests.support.graphs import check
from workers.outputs.names import safe_filename
from workers.outputs.payload import outputs_of
from workflows import strangers
from workflows.catalogue import Catalogue
from workflows.errors import WorkflowError
from workflows.execution import for_execution
from workflows.graph import parse_graph
from workflows.messages import decode_binary, decode_text
from workflows.policy import DEFAULT, NodePolicy
from workflows.progress import ProgressModel

POLICY = NodePolicy.parse(DEFAULT)


def graph(data: bytes) -> None:
    """Parse a submitted workflow and prepare it for the engine."""
    try:
        parsed = parse_graph(_json(data))
        POLICY.check(parsed, "strangers")
        strangers.check(parsed, Catalogue.absent())
        check(Catalogue.absent(), parsed)
    except WorkflowError:
        return
    json.dumps(for_execution(parsed, Catalogue.absent(), "job-1"))
    parsed.shape()


def text_message(data: bytes) -> None:
    """Decode a text frame of ComfyUI's socket and apply it to the progress."""
    model = ProgressModel.start(["1", "2"]).reduce(decode_text(data))
    assert 0 <= model.percent <= 100


def binary_message(data: bytes) -> None:
    decode_binary(data)


def body(data: bytes) -> None:
    """Receive a request body in chunks; an accepted body has its JSON value."""
    asyncio.run(_receive(data))


async def _receive(data: bytes) -> None:
    async def pieces() -> Any:
        for start in range(0, len(data), 7):
            yield data[start : start + 7]

    with Body() as received:
        try:
            document = await received.receive(pieces(), limit=10_000)
        except (ValueError, RecursionError):
            return
        assert document == json.loads(data)


def long_text(data: bytes) -> None:
    """Receive a string that goes to a file; the result is its JSON value, or it is refused."""
    text = data * (SPOOL_THRESHOLD // max(1, len(data)) + 1)
    asyncio.run(_restore(b'{"a":["' + text + b'"]}'))


async def _restore(raw: bytes) -> None:
    async def pieces() -> Any:
        for start in range(0, len(raw), 5_003):
            yield raw[start : start + 5_003]

    with Body() as received:
        try:
            document = await received.receive(pieces(), limit=10_000_000)
            document = await received.restored(document, TextLimits(10_000_000, 10_000_000))
        except (ValueError, RecursionError):
            return
        assert document == json.loads(raw)


def base64_text(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, Body() as received:
        try:
            received.spooled(data.decode(errors="replace")).decode_base64(Path(folder) / "x", 1_000)
        except (BadBase64, BodyTooLarge):
            return


def requests(data: bytes) -> None:
    """Validate jobs, batches and uploads with their models."""
    for model in (JobRequest, BatchRequest, UploadRequest):
        try:
            model.model_validate(_json(data))
        except ValidationError:
            continue


def names(data: bytes) -> None:
    """Make a safe name of a node's file name."""
    name = safe_filename(data.decode(errors="surrogateescape"))
    assert name not in ("", ".", "..")
    assert "/" not in name
    assert content_disposition(name).isascii()


def node_output(data: bytes) -> None:
    """Split a node's ui payload."""
    payload = _json(data)
    if isinstance(payload, dict):
        list(outputs_of("1", payload))


def api_key(data: bytes) -> None:
    parse_key(data.decode(errors="replace"))


def log_line(data: bytes) -> None:
    assert isinstance(Redactor(("a secret",))(data.decode(errors="replace")), str)


def medium(data: bytes) -> None:
    """Check a picture, a video or any other input file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "medium"
        path.write_bytes(data)
        try:
            asyncio.run(MediaCheck().check(path, MediaLimits(), data=True))
        except FileRefused:
            return


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        graph,
        text_message,
        binary_message,
        body,
        long_text,
        base64_text,
        requests,
        names,
        node_output,
        api_key,
        log_line,
        medium,
    )
}

SEEDS = (
    json.dumps(BLUE).encode(),
    json.dumps({"workflow": BLUE, "media": [{"name": "x", "data": "eA=="}], "metadata": {"a": "b"}}).encode(),
    json.dumps({"workflow": BLUE, "input_sets": [[{"node": "1", "field": "color", "value": 1}]]}).encode(),
    b'{"size_bytes": 3, "content_type": "image/png", "filename": "x.png"}',
    b'{"images": [{"filename": "x.png", "subfolder": "a", "type": "output"}], "text": ["x"], "animated": [true]}',
    b'{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 1e999}}}}',
    b'{"type": "progress", "data": {"value": 1e999, "max": 1e308, "node": "1", "prompt_id": "p"}}',
    b'{"type": "progress", "data": {"value": 1e999, "max": 1e380, "node": "1", "prompt_id": "p"}}',
    b'{"type": "progress_state", "data": {"prompt_id": "p", "nodes": {"1": {"state": "running", "value": 1}}}}',
    b'{"type": "execution_error", "data": {"prompt_id": "p", "node_id": "1", "traceback": [], "executed": ["2"]}}',
    struct.pack(">II", 1, 2) + b"png",
    struct.pack(">II", 3, 1) + b"7hello",
    struct.pack(">II", 4, 2**32 - 1) + b"{}",
    b"[" * 5_000,
    b'{"a":"\\ud800"}',
    b'{"a":1e999}',
    b"\\q",
    b"\\u12",
    b"\xff",
    b"\n",
    b"https://h/k?X-Amz-Signature=abcdef&x=Bearer ck_live_abcdefgh_x",
    "../é\u202e.png".encode(),
    PNG,
)
"""The inputs that mutations start from, each similar to valid input of a target."""
