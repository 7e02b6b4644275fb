"""Keys in LIST responses are parsed as the SDK parses them, in every notation of a server's XML."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import ClassVar
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import pytest

from storage.bucket._s3_clients import keys_of, make_client, read_keys_quickly
from storage.bucket.s3 import S3Config, S3ObjectStore

pytestmark = pytest.mark.anyio

ODD = ["a/ä ö.png", "a/b+c&d<e>.png", "a/%2F.png", "a/'\".png", "a/\U0001f600"]


class Listing(BaseHTTPRequestHandler):
    """A server that answers every request with `body`."""

    body: ClassVar[str] = ""

    def do_GET(self) -> None:
        answer = self.body.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Logs nothing to stderr."""


@contextmanager
def answering(entries: str, encoding: str = "") -> Iterator[S3Config]:
    """A server that lists these entries."""
    Listing.body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>b</Name><IsTruncated>true</IsTruncated>{encoding}{entries}</ListBucketResult>"
    )
    server = HTTPServer(("127.0.0.1", 0), Listing)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield S3Config("bucket", f"http://127.0.0.1:{server.server_port}", access_key="a", secret_key="b", attempts=1)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def listed(config: S3Config) -> tuple[list[str], bool]:
    objects = S3ObjectStore(config)
    try:
        page = await objects.list("a/")
    finally:
        await objects.close()
    return list(page.keys), page.more


async def test_keys_of_a_real_server_are_listed(s3_objects: S3ObjectStore) -> None:
    """Keys that XML and URLs encode are listed as they were written."""
    for key in ODD:
        await s3_objects.put(key, b"")
    assert sorted((await s3_objects.list("a/")).keys) == sorted(ODD)


ENTRIES = "".join(f"<Contents>\n <Key>{escape(key)}</Key><Size>1</Size></Contents>" for key in ODD)
ENCODED = (
    "<Contents><Key>a/%C3%A4+%C3%B6.png</Key><Owner><ID>x</ID></Owner></Contents>"
    "<Contents><Size>1</Size><Key>a/b%2Bc</Key></Contents>"
)
UNUSUAL = "<Contents><Key><![CDATA[a/<1>]]></Key></Contents><Contents x='1'><Key>a/2</Key></Contents>"


@pytest.mark.parametrize(
    ("entries", "encoding", "keys"),
    [
        (ENTRIES, "", ODD),
        (ENCODED, "<EncodingType>url</EncodingType>", ["a/ä ö.png", "a/b+c"]),
        (UNUSUAL, "", ["a/<1>", "a/2"]),
        ("<Contents x='1'><Key>a/2</Key></Contents>", "", ["a/2"]),
        ("", "", []),
    ],
    ids=["escaped as XML", "encoded as URLs", "other XML", "attributes", "none"],
)
async def test_every_notation_of_a_key_is_parsed(entries: str, encoding: str, keys: list[str]) -> None:
    """Keys in an unusual notation are left to the SDK's parser."""
    with answering(entries, encoding) as config:
        assert await listed(config) == (keys, True)


def test_no_entry_reaches_the_sdks_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No entry reaches the SDK's parsers, which block other threads for tens of milliseconds per thousand entries."""
    parsed: list[int] = []
    parser = ET.XMLParser

    class Counting(parser):  # type: ignore[misc,valid-type]  # the class before the patch
        def feed(self, data: bytes) -> None:
            parsed.append(len(data))
            super().feed(data)

    with answering("".join(f"<Contents><Key>a/{n}</Key></Contents>" for n in range(1000))) as config:
        client = make_client(config, 1, config.endpoint_url)
        read_keys_quickly(client)
        monkeypatch.setattr(ET, "XMLParser", Counting)
        answer = client.list_objects_v2(Bucket="bucket")
        client.close()
    assert keys_of(answer) == [f"a/{n}" for n in range(1000)]
    assert parsed
    assert max(parsed) < 1000


def test_the_clients_of_a_process_share_the_sdks_description_of_s3() -> None:
    """A second client does not parse the SDK's description of S3 again, which takes longer than all else in it."""
    config = S3Config("bucket", endpoint_url="http://127.0.0.1:1", access_key="a", secret_key="s")
    one, other = (make_client(config, 1, config.endpoint_url) for _ in range(2))
    assert one.meta.service_model.metadata is other.meta.service_model.metadata
    one.close()
    other.close()
