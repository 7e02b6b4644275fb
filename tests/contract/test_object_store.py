"""`ObjectStore`: the in-memory store and the real S3 server behave alike."""

import asyncio
import os
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import httpx
import pytest
from botocore.exceptions import HTTPClientError

from storage.bucket._s3_clients import make_client
from storage.bucket._s3_files import FileTransfer, TransferStopped
from storage.bucket.objects import ObjectStore, is_absent
from storage.bucket.s3 import PART_BYTES, S3Config, S3ObjectStore, content_disposition
from storage.errors import FileChanged, ObjectNotFound, PreconditionFailed, StorageRefused, StorageUnavailable
from tests.support.faulty_proxy import Fault, faulty_proxy
from tests.support.plain_http import NO_TLS

pytestmark = [pytest.mark.anyio, pytest.mark.real_bucket("the contract of the port itself")]

MIB = 1024 * 1024


async def test_an_object_is_read_back(objects: ObjectStore) -> None:
    """Body, type, size and ETag are read back, and a second put replaces the first."""
    await objects.put("a/b.json", b"old")
    etag = await objects.put("a/b.json", b"{}", content_type="application/json")
    stored = await objects.get("a/b.json")
    assert (stored.body, stored.head.etag, stored.head.size) == (b"{}", etag, 2)
    assert (await objects.head("a/b.json")).content_type == "application/json"
    assert await objects.get_range("a/b.json", 1, 10) == b"}"
    assert await objects.get_range("a/b.json", 2, 10) == b""


async def test_a_missing_object_is_not_found(objects: ObjectStore, tmp_path: Path) -> None:
    """Every read of a missing object fails, and deleting it is not an error."""
    for operation in (
        objects.get("x"),
        objects.head("x"),
        objects.get_range("x", 0, 1),
        objects.download_file("x", tmp_path / "x"),
    ):
        with pytest.raises(ObjectNotFound):
            await operation
    assert list(tmp_path.iterdir()) == []
    await objects.delete("x", "y")


async def test_an_object_is_created_once(objects: ObjectStore) -> None:
    """A second creation of a key fails, and the first body is kept."""
    await objects.create("k", b"first")
    with pytest.raises(PreconditionFailed):
        await objects.create("k", b"second")
    assert (await objects.get("k")).body == b"first"


async def test_an_object_is_replaced_only_over_a_known_version(objects: ObjectStore) -> None:
    """Replacing an object fails with a stale ETag and for a missing object."""
    stale = await objects.put("k", b"one")
    fresh = await objects.replace("k", b"two", etag=stale)
    with pytest.raises(PreconditionFailed):
        await objects.replace("k", b"three", etag=stale)
    with pytest.raises(PreconditionFailed):
        await objects.replace("missing", b"x", etag=fresh)
    assert (await objects.get("k")).body == b"two"


async def test_a_race_to_create_has_one_winner(rivals: Sequence[ObjectStore]) -> None:
    """One of eight processes that create a key succeeds, and its body is kept."""

    async def contend(n: int) -> list[int]:
        try:
            await rivals[n].create("race", f"writer {n}".encode())
        except PreconditionFailed:
            return []
        return [n]

    outcomes = await asyncio.gather(*map(contend, range(len(rivals))))
    winners = [n for won in outcomes for n in won]
    assert [(await rivals[0].get("race")).body] == [f"writer {n}".encode() for n in winners]


async def test_a_race_to_replace_has_one_winner(rivals: Sequence[ObjectStore]) -> None:
    """One of eight processes that replace a version succeeds, and its body is kept."""
    etag = await rivals[0].put("race", b"start")

    async def contend(n: int) -> list[int]:
        try:
            await rivals[n].replace("race", f"writer {n}".encode(), etag=etag)
        except PreconditionFailed:
            return []
        return [n]

    outcomes = await asyncio.gather(*map(contend, range(len(rivals))))
    winners = [n for won in outcomes for n in won]
    assert [(await rivals[0].get("race")).body] == [f"writer {n}".encode() for n in winners]


async def test_concurrent_creations_in_one_process_have_one_winner(objects: ObjectStore) -> None:
    """One of sixteen creations of a key in one process succeeds."""
    outcomes = await asyncio.gather(
        *(objects.create("race", f"writer {n}".encode()) for n in range(16)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, PreconditionFailed) for outcome in outcomes) == 1


async def test_files_of_any_size_are_transferred(objects: ObjectStore, tmp_path: Path) -> None:
    """Small files and files that are sent in parts are transferred completely."""
    for size in (0, 5, 2 * PART_BYTES + 17):
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
        await objects.upload_file("files/f", source, content_type="video/mp4")
        await objects.download_file("files/f", target)
        assert target.read_bytes() == source.read_bytes()
    assert (await objects.head("files/f")).content_type == "video/mp4"


@pytest.mark.parametrize("size", [5, 2 * PART_BYTES + 17], ids=["small", "in parts"])
async def test_a_file_that_changes_is_uploaded_at_its_checked_size(
    objects: ObjectStore, tmp_path: Path, size: int
) -> None:
    """Exactly `size` bytes of a file that has grown are uploaded, and a file with fewer is refused."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * size + b"more")
    await objects.upload_file("grown", source, content_type="video/mp4", size=size)
    await objects.download_file("grown", target)
    assert target.read_bytes() == b"x" * size
    with pytest.raises(FileChanged):
        await objects.upload_file("cut", source, content_type="video/mp4", size=size + 5)
    with pytest.raises(ObjectNotFound):
        await objects.head("cut")


async def test_a_transfer_without_a_caller_stops(s3_config: S3Config, tmp_path: Path) -> None:
    """An upload ends before its file has been read whole if it is stopped meanwhile."""
    source, sizes = tmp_path / "source", list[int]()
    source.touch()
    os.truncate(source, 8 * PART_BYTES)

    def moved(more: int) -> None:
        sizes.append(more)
        transfer.stop()

    client = make_client(s3_config, 1, s3_config.endpoint_url)
    transfer = FileTransfer(lambda: client, moved, threads=1)
    at = {"Bucket": s3_config.bucket, "Key": f"{s3_config.prefix}/stopped"}
    with pytest.raises((TransferStopped, HTTPClientError)):
        await asyncio.to_thread(transfer.send, at, source, 8 * PART_BYTES, "video/mp4")
    assert sum(sizes) < PART_BYTES
    client.close()


async def test_a_large_file_takes_little_memory(s3_objects: S3ObjectStore, tmp_path: Path) -> None:
    """A transfer of 64 MiB holds only a few parts in memory."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(17 * MIB))
    await s3_objects.upload_file("warm", source, content_type="video/mp4")  # boto3 loads its models
    with source.open("wb") as file:
        file.truncate(64 * MIB)
    tracemalloc.start()
    try:
        await s3_objects.upload_file("large", source, content_type="video/mp4")
        await s3_objects.download_file("large", target)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert target.stat().st_size == 64 * MIB
    assert peak < 4 * PART_BYTES


async def test_an_upload_that_fails_leaves_nothing(s3_config: S3Config, tmp_path: Path) -> None:
    """A failed upload in parts is aborted, so that its parts cost nothing."""
    (tmp_path / "f").write_bytes(bytes(3 * PART_BYTES))
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        proxy.faults = ["error_500"] * 100
        with pytest.raises(StorageUnavailable):
            await objects.upload_file("broken", tmp_path / "f", content_type="text/plain")
        with pytest.raises(ObjectNotFound):
            await objects.head("broken")
        await objects.close()
    assert [path for method, path in proxy.seen if method == "DELETE" and "uploadId=" in path]


async def test_lists_are_paged_in_order(objects: ObjectStore) -> None:
    """A list returns every key once, after the key `after`, in UTF-8 order."""
    expected = [f"list/{n:03d}" for n in range(25)]
    await asyncio.gather(*(objects.put(key, b"") for key in [*expected, "list-else/000"]))
    found: list[str] = []
    after, pages = "", 0
    while True:
        page = await objects.list("list/", after=after, limit=10)
        pages += 1
        found += page.keys
        if not page.more:
            break
        after = page.keys[-1]
    assert (found, pages) == (expected, 3)
    assert (await objects.list("nothing/")).keys == ()


async def test_several_keys_are_deleted_together(objects: ObjectStore) -> None:
    """Several keys are deleted by one call."""
    await asyncio.gather(*(objects.put(f"d/{n}", b"") for n in range(5)))
    await objects.delete(*(f"d/{n}" for n in range(5)))
    assert (await objects.list("d/")).keys == ()


async def test_keys_that_xml_cannot_hold_are_deleted(objects: ObjectStore) -> None:
    """S3 deletes several keys by a list in XML, which cannot hold U+FFFE and U+FFFF."""
    names = ("d/\uffff.png", "d/\ufffe", "d/é.png", "d/plain")
    for name in names:
        await objects.put(name, b"x")
    await objects.delete(*names)
    assert (await objects.list("d/")).keys == ()
    await objects.put(names[0], b"x")
    await objects.delete(names[0])
    assert (await objects.list("d/")).keys == ()


async def test_a_presigned_download_needs_only_its_url(s3_objects: S3ObjectStore) -> None:
    """A presigned URL returns the bytes with the requested name and type, and an altered URL is refused."""
    await s3_objects.put("pic", b"bytes")
    signed = s3_objects.presign_get("pic", expires_s=60, filename='ä "b".png', content_type="image/png")
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        answer = await client.get(signed.url)
        tampered = await client.get(signed.url.replace("pic?", "pid?"))
    assert (answer.status_code, answer.content) == (200, b"bytes")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == content_disposition('ä "b".png')
    assert tampered.status_code == 403


async def test_presigned_urls_expire(s3_objects: S3ObjectStore) -> None:
    """A presigned URL is refused after its expiry."""
    await s3_objects.put("pic", b"bytes")
    signed = s3_objects.presign_get("pic", expires_s=1, filename="p", content_type="image/png")
    await asyncio.sleep(2.1)
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        assert (await client.get(signed.url)).status_code == 403


async def test_a_presigned_upload_is_bound(s3_objects: S3ObjectStore) -> None:
    """A presigned upload accepts only its length and type, and only one use."""
    signed = s3_objects.presign_put("up", expires_s=60, size=5, content_type="image/png")
    headers = dict(signed.headers)
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        longer = await client.put(signed.url, headers=headers | {"content-length": "6"}, content=b"123456")
        other = await client.put(signed.url, headers=headers | {"content-type": "text/html"}, content=b"12345")
        first = await client.put(signed.url, headers=headers, content=b"12345")
        second = await client.put(signed.url, headers=headers, content=b"67890")
    assert (longer.status_code, other.status_code, first.status_code, second.status_code) == (403, 403, 200, 412)


async def test_a_key_that_could_not_be_deleted_is_an_error(s3_config: S3Config) -> None:
    """A batch delete with failed keys is an error, although its response has the status 200."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        for fault, error in (("refuse_entry", StorageRefused), ("fail_entry", StorageUnavailable)):
            proxy.methods, proxy.faults = frozenset({"POST"}), [cast(Fault, fault)] * s3_config.attempts
            with pytest.raises(error):
                await objects.delete("one", "two")
        proxy.faults = []
        await objects.close()


@pytest.mark.parametrize("method", ["PUT", "GET", "POST"])
async def test_a_bucket_of_another_region_is_a_refusal(s3_config: S3Config, method: str) -> None:
    """A wrong region is reported as a refusal, which is not retried."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        await objects.put("k", b"1")
        proxy.methods, proxy.faults = frozenset({method}), ["wrong_region"] * 4
        operations: dict[str, Callable[[], Awaitable[object]]] = {
            "PUT": lambda: objects.create("new", b"2"),
            "GET": lambda: objects.get("k"),
            "POST": lambda: objects.delete("k"),
        }
        with pytest.raises(StorageRefused, match="region"):
            await operations[method]()
        await objects.close()


@pytest.mark.parametrize("fault", ["foreign_404", "empty_404"])
async def test_a_404_that_is_not_the_buckets_says_nothing_of_an_object(
    s3_config: S3Config, tmp_path: Path, fault: Fault
) -> None:
    """Where a proxy answers 404 in the bucket's place, no object counts as missing, by whichever request."""
    file, large = tmp_path / "file", tmp_path / "large"
    file.write_bytes(b"x")
    large.write_bytes(bytes(3 * PART_BYTES))
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        etag = await objects.put("k", b"x")
        await objects.put("ä", b"x")
        operations: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: objects.get("k"),
            lambda: objects.get("ä"),  # by the other library
            lambda: objects.get_range("k", 0, 1),
            lambda: objects.head("k"),
            lambda: objects.download_file("k", tmp_path / "copy"),
            lambda: objects.copy("k", "other", content_type="text/plain"),
            lambda: objects.list(""),
            lambda: objects.put("k", b"y"),
            lambda: objects.create("new", b"y"),
            lambda: objects.replace("k", b"y", etag=etag),
            lambda: objects.replace("ä", b"y", etag=etag),
            lambda: objects.upload_file("k", file, content_type="text/plain"),
            lambda: objects.upload_file("k", large, content_type="text/plain"),
            lambda: objects.delete("k"),
            lambda: objects.delete("ä"),
        )
        proxy.methods = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE"})
        for operation in operations:
            proxy.faults = [fault] * 50
            with pytest.raises(StorageUnavailable):
                await operation()
        proxy.faults = []
        assert (await objects.get("k")).body == b"x"
        assert (await objects.list("")).keys == ("k", "ä")
        await objects.close()


async def test_a_head_alone_makes_no_object_missing(s3_config: S3Config) -> None:
    """The 404 of a HEAD has no body that says why, so a GET decides before an object counts as missing."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        await objects.put("k", b"x")
        operations: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: objects.head("k"),
            lambda: objects.copy("k", "other", content_type="text/plain"),
        )
        proxy.methods = frozenset({"HEAD"})
        for operation in operations:
            proxy.faults = ["empty_404"]
            with pytest.raises(StorageUnavailable):
                await operation()
            assert proxy.faults == []
        with pytest.raises(ObjectNotFound):
            await objects.copy("missing", "other", content_type="text/plain")
        await objects.close()


async def test_an_upload_whose_parts_are_gone_can_be_repeated(s3_config: S3Config, tmp_path: Path) -> None:
    """A multipart upload that the bucket no longer knows is a failure of the bucket, after which it starts anew."""
    (tmp_path / "f").write_bytes(bytes(3 * PART_BYTES))
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        proxy.faults = ["no_such_upload"] * 3
        with pytest.raises(StorageUnavailable, match="NoSuchUpload"):
            await objects.upload_file("parts", tmp_path / "f", content_type="text/plain")
        proxy.faults = []
        await objects.upload_file("parts", tmp_path / "f", content_type="text/plain")
        await objects.close()


async def test_an_object_is_surely_absent_if_neither_a_read_nor_a_list_finds_it(objects: ObjectStore) -> None:
    """The second look distinguishes a key from those that begin with it."""
    await objects.put("a/b.json", b"")
    await objects.put("a/c.json-more", b"")
    assert [await is_absent(objects, key) for key in ("a/b.json", "a/c.json", "a")] == [False, True, True]


async def test_a_write_without_a_response_is_read_back(s3_config: S3Config) -> None:
    """A write that took effect without a response is recognised by reading it back after the timeout."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url, read_timeout_s=0.5))
        proxy.faults = ["hang_after_effect"]
        etag = await objects.create("k", b'{"nonce": "mine"}')
        assert (await objects.get("k")).head.etag == etag
        await objects.close()


async def test_a_lost_race_without_a_response_is_recognised(s3_config: S3Config) -> None:
    """A write without a response is a lost race if another writer's body is read back."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        await objects.put("k", b"theirs")
        proxy.faults = ["drop_answer"]
        with pytest.raises(PreconditionFailed):
            await objects.create("k", b"mine")
        await objects.close()


@pytest.mark.parametrize("fault", ["drop_answer", "error_500_after_effect"])
async def test_a_write_with_a_lost_response_is_not_repeated(s3_config: S3Config, fault: Fault) -> None:
    """A write whose response was lost is recognised by its body, and no second write is sent."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        proxy.faults = [fault]
        etag = await objects.create("k", b'{"nonce": "mine"}')
        proxy.faults = [fault]
        await objects.replace("k", b'{"nonce": "next"}', etag=etag)
        assert (await objects.get("k")).body == b'{"nonce": "next"}'
        assert objects.requests["PUT"] == 2
        await objects.close()


async def test_a_truncated_body_is_read_again(s3_config: S3Config) -> None:
    """A truncated body is read again a limited number of times, and never taken as complete."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        body = bytes(range(256)) * 64
        await objects.put("k", body)
        proxy.methods = frozenset({"GET"})
        proxy.faults = ["cut_body"]
        assert (await objects.get("k")).body == body
        proxy.faults = ["cut_body"]
        assert await objects.get_range("k", 256, 512) == body[256:768]
        proxy.faults = ["cut_body"] * 100
        with pytest.raises(StorageUnavailable, match=r"^k: \w+$"):
            await objects.get("k")
        assert len(proxy.faults) == 100 - s3_config.attempts
        await objects.close()


async def test_a_body_that_does_not_arrive_is_read_again(s3_config: S3Config) -> None:
    """A response whose body does not arrive in time is requested again."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url, read_timeout_s=1.0))
        await objects.put("k", b"body")
        proxy.methods = frozenset({"GET"})
        proxy.faults = ["hang_in_body"]
        assert (await objects.get("k")).body == b"body"
        assert proxy.faults == []
        await objects.close()


async def test_a_write_without_effect_is_unavailable(s3_config: S3Config) -> None:
    """A write that failed before its effect is reported as unavailable."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        proxy.faults = ["error_500"]
        with pytest.raises(StorageUnavailable):
            await objects.create("k", b"x")
        await objects.close()


async def test_reads_are_retried(s3_config: S3Config) -> None:
    """A read succeeds after a transient error."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        await objects.put("k", b"x")
        proxy.methods, proxy.faults = frozenset({"GET"}), ["error_500"]
        assert (await objects.get("k")).body == b"x"
        await objects.close()


async def test_an_unreachable_server_is_unavailable(s3_config: S3Config) -> None:
    """A failed connection is `StorageUnavailable`, and its message contains no credential."""
    objects = S3ObjectStore(replace(s3_config, endpoint_url="http://127.0.0.1:9", attempts=1))
    with pytest.raises(StorageUnavailable) as refused:
        await objects.get("k")
    assert str(s3_config.secret_key) not in str(refused.value)
    await objects.close()


async def test_wrong_credentials_are_refused(s3_config: S3Config, tmp_path: Path) -> None:
    """Wrong credentials are a refusal, which is not retried."""
    objects = S3ObjectStore(replace(s3_config, secret_key="wrong"))
    (tmp_path / "f").write_bytes(b"x")
    for operation in (objects.put("k", b"x"), objects.upload_file("k", tmp_path / "f", content_type="text/plain")):
        with pytest.raises(StorageRefused):
            await operation
    await objects.close()
