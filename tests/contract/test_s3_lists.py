"""Keys in LIST responses are parsed as the SDK parses them, in every notation of a server's XML."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import pytest

from storage.bucket._s3_clients import keys_of, make_client, read_keys_quickly
from storage.bucket._s3_small import LARGEST
from storage.bucket.s3 import PART_BYTES, S3Config, S3ObjectStore
from storage.errors import StorageUnavailable

pytestmark = pytest.mark.anyio

ODD = ["a/ä ö.png", "a/b+c&d<e>.png", "a/%2F.png", "a/'\".png", "a/\U0001f600"]


class Listing(BaseHTTPRequestHandler):
    """A server that answers each request with the next of `bodies`, and with the last one from then on."""

    bodies: ClassVar[list[str]] = []
    paths: ClassVar[list[str]] = []

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.do_GET()

    def do_POST(self) -> None:
        self.do_PUT()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.paths.append(self.path)
        answer = (self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Logs nothing to stderr."""


def listing(entries: str, rest: str = "") -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>b</Name><IsTruncated>true</IsTruncated>{rest}{entries}</ListBucketResult>"
    )


@contextmanager
def answering(*bodies: str) -> Iterator[S3Config]:
    """A server that answers with these bodies."""
    Listing.bodies, Listing.paths = list(bodies), []
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
        ("<Contents><Key>a/2</Key></Contents>" * 2, "", ["a/2"]),
    ],
    ids=["escaped as XML", "encoded as URLs", "other XML", "attributes", "twice"],
)
async def test_every_notation_of_a_key_is_parsed(entries: str, encoding: str, keys: list[str]) -> None:
    """Keys in an unusual notation are left to the SDK's parser."""
    with answering(listing(entries, encoding)) as config:
        assert await listed(config) == (keys, True)


async def test_empty_pages_before_the_last_are_passed_over() -> None:
    """A page of deleted keys alone is continued by the server's token, since there is no key to go on from."""
    empty = listing("", "<NextContinuationToken>t1</NextContinuationToken>")
    with answering(empty, empty, listing(ENTRIES)) as config:
        assert await listed(config) == (ODD, True)
        assert ["continuation-token=t1" in path for path in Listing.paths] == [False, True, True]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html><body>Log in to this network</body></html>",
        listing(""),
        listing("<Contents><Key>b/1</Key></Contents>"),
        listing("<Contents><Key>a/0</Key></Contents>"),
    ],
    ids=["nothing", "a page", "empty pages without end", "another prefix", "before the start"],
)
async def test_an_answer_that_is_no_such_list_is_a_failure_of_the_bucket(body: str) -> None:
    """Every caller handles a bucket that fails; an answer of another form would end a worker, or never end a list."""
    with answering(body) as config:
        objects = S3ObjectStore(config)
        with pytest.raises(StorageUnavailable):
            await objects.list("a/", after="a/0")
        await objects.close()


@pytest.mark.parametrize("size", [3, LARGEST + 1], ids=["small", "large"])
async def test_a_page_that_answers_a_write_or_a_read_is_a_failure_of_the_bucket(size: int, tmp_path: Path) -> None:
    """A login page that answers every request with 200 stores nothing, so no write counts and nothing is read."""
    with answering("<html><body>Log in to this network</body></html>") as config:
        objects = S3ObjectStore(config)
        body, file = b"x" * size, tmp_path / "file"
        with file.open("wb") as sparse:
            sparse.truncate(3 * PART_BYTES if size > LARGEST else size)
        calls = (
            lambda: objects.create("a/1", body),
            lambda: objects.put("a/1", body),
            lambda: objects.replace("a/1", body, etag="e"),
            lambda: objects.get("a/1"),
            lambda: objects.get("A/odd name"),
            lambda: objects.head("a/1"),
            lambda: objects.upload_file("a/1", file, content_type="image/png"),
            lambda: objects.copy("a/1", "a/2", content_type="image/png"),
        )
        for call in calls:
            with pytest.raises(StorageUnavailable):
                await call()
        await objects.close()


def test_no_entry_reaches_the_sdks_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No entry reaches the SDK's parsers, which block other threads for tens of milliseconds per thousand entries."""
    parsed: list[int] = []
    parser = ET.XMLParser

    class Counting(parser):  # type: ignore[misc,valid-type]  # the class before the patch
        def feed(self, data: bytes) -> None:
            parsed.append(len(data))
            super().feed(data)

    entries = "".join(f"<Contents><Key>a/{n}</Key></Contents>" for n in range(1000))
    with answering(listing(entries)) as config:
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
