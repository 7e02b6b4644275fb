"""Hostile file names from clients and nodes escape no folder and break no key, header or terminal."""

import base64
import json
import re
from collections.abc import AsyncIterator
from email.message import Message
from pathlib import Path
from urllib.parse import quote

import pytest

from storage.bucket.memory import MemoryObjectStore
from storage.bucket.s3 import content_disposition
from storage.clock import ManualClock
from storage.jobs.record import Status
from tests.support.api_server import BLUE, PNG, Api, running_api
from tests.support.workbench import Bench, workbench
from workers.outputs.names import LONGEST_BYTES, safe_filename

pytestmark = pytest.mark.anyio

NAMES = (
    "",
    " ",
    ".",
    "..",
    "...",
    "../x.png",
    "..\\x.png",
    "/etc/passwd",
    "\\\\host\\share",
    "C:\\x.png",
    "a/b.png",
    "a/../b.png",
    "a//b.png",
    "/a/b.png",
    "a/b/",
    "a/b/c/d/e.png",
    "a/b/c/d/e/f.png",
    "a/" + "x" * 254,
    "a\\b.png",
    "./x.png",
    "%2e%2e%2fx.png",
    "..%c0%afx.png",
    "x.png [output]",
    "x.png [temp]",
    ".env",
    ".htaccess",
    "x\0.png",
    "x\n.png",
    "x\r\nSet-Cookie: a=b",
    "x\t.png",
    "x\x7f.png",
    "x\x1b[31m.png",
    "x\u202egnp.exe",
    "x\u2066y.png",
    "x\u200f.png",
    "\ud800.png",
    'x".png',
    "x';rm -rf /;'.png",
    "$(id).png",
    "`id`.png",
    "<script>.svg",
    "x|y.png",
    "x?.png",
    "x*.png",
    "con:",
    "x" * 5_000 + ".png",
    "é" * 500 + ".png",
    "x.png.",
    "x." + "y" * 300,
)
UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\:*?\"<>|\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture
async def api(clock: ManualClock) -> AsyncIterator[Api]:
    async with running_api(MemoryObjectStore(clock), clock) as api:
        yield api


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with workbench(tmp_path) as bench:
        yield bench


def is_harmless(name: str) -> bool:
    return (
        not UNSAFE.search(name)
        and name not in ("", ".", "..")
        and not name.startswith((".", " "))
        and len(name.encode()) <= LONGEST_BYTES + 50
    )


@pytest.mark.parametrize("name", NAMES)
async def test_a_hostile_name_of_a_medium_is_refused(api: Api, name: str) -> None:
    """A medium's name is refused with a problem unless every part of it is harmless."""
    media = [{"name": name, "data": base64.b64encode(PNG).decode()}]
    body = json.dumps({"workflow": BLUE, "media": media}).encode("ascii")
    answer = await api.client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    if answer.status_code == 202:
        assert all(map(is_harmless, name.split("/"))), name
    else:
        assert answer.status_code in (400, 422)
        assert answer.json()["type"] in ("/problems/bad-media-name", "/problems/malformed-json")
        assert await api.keys() == ()


@pytest.mark.parametrize("name", NAMES)
def test_an_output_gets_a_safe_name(name: str) -> None:
    """A node's file name becomes a plain name and a Content-Disposition header without further content."""
    safe = safe_filename(name)
    assert is_harmless(safe), safe
    header = content_disposition(safe)
    assert header.isascii()
    assert header.isprintable()
    message = Message()
    message["content-disposition"] = header
    assert message.get_content_disposition() == "attachment"
    assert header.endswith(f"filename*=UTF-8''{quote(safe, safe='')}")


async def test_a_node_that_names_foreign_files_fails(bench: Bench, tmp_path: Path) -> None:
    """A job whose node names files outside the output folders fails, and no such file is stored."""
    secret = tmp_path / "secret"
    secret.write_text("do not store me")
    for reference in (
        {"filename": "secret", "subfolder": "..", "type": "output"},
        {"filename": "../secret", "subfolder": "", "type": "temp"},
        {"filename": str(secret), "subfolder": "", "type": "output"},
        {"filename": "secret", "subfolder": "", "type": "output", "fullpath": str(secret)},
        {"filename": "x\0", "subfolder": "", "type": "output"},
        {"filename": "x" * 5_000, "subfolder": "y" * 5_000, "type": "output"},
    ):
        emits = {"class_type": "LiteEmit", "inputs": {"ui": json.dumps({"images": [reference]})}}
        record = await bench.run({"1": emits})
        assert record.status is Status.FAILED, reference
        assert record.error_detail is not None
        assert record.error_detail.code == "output_failed"
        assert record.outputs == ()
    for key in (await bench.objects.list("tenants/", limit=1000)).keys:
        assert b"do not store me" not in (await bench.objects.get(key)).body


async def test_a_node_that_names_too_many_files_fails(bench: Bench) -> None:
    """A job with more output files than allowed fails, so that neither record nor bucket grows without limit."""
    files = [{"filename": f"{number}.png", "subfolder": "", "type": "output"} for number in range(1_001)]
    record = await bench.run({"1": {"class_type": "LiteEmit", "inputs": {"ui": json.dumps({"images": files})}}})
    assert record.error_detail is not None
    assert (record.error_detail.code, "1000" in record.error_detail.message) == ("output_failed", True)
