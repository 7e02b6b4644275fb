"""`ObjectStore`: the in-memory store and the real S3 server do the same."""

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import httpx
import pytest

from storage.bucket.objects import ObjectStore
from storage.bucket.s3 import PART_BYTES, S3Config, S3ObjectStore, content_disposition
from storage.errors import ObjectNotFound, PreconditionFailed, StorageRefused, StorageUnavailable
from tests.support.faulty_proxy import Fault, faulty_proxy
from tests.support.plain_http import NO_TLS

pytestmark = [pytest.mark.anyio, pytest.mark.real_bucket("the contract of the port itself")]

MIB = 1024 * 1024


async def test_what_is_put_is_what_is_got(objects: ObjectStore) -> None:
    """Body, type, size and ETag come back; a second put replaces the first."""
    await objects.put("a/b.json", b"old")
    etag = await objects.put("a/b.json", b"{}", content_type="application/json")
    stored = await objects.get("a/b.json")
    assert (stored.body, stored.head.etag, stored.head.size) == (b"{}", etag, 2)
    assert (await objects.head("a/b.json")).content_type == "application/json"
    assert await objects.get_range("a/b.json", 1, 10) == b"}"
    assert await objects.get_range("a/b.json", 2, 10) == b""


async def test_a_missing_object_is_not_found(objects: ObjectStore, tmp_path: Path) -> None:
    """However one asks for it; removing it is no error."""
    for ask in (
        objects.get("x"),
        objects.head("x"),
        objects.get_range("x", 0, 1),
        objects.download_file("x", tmp_path / "x"),
    ):
        with pytest.raises(ObjectNotFound):
            await ask
    assert list(tmp_path.iterdir()) == []
    await objects.delete("x", "y")


async def test_create_only_once(objects: ObjectStore) -> None:
    """The second creator loses, and the first one's bytes stay."""
    await objects.create("k", b"first")
    with pytest.raises(PreconditionFailed):
        await objects.create("k", b"second")
    assert (await objects.get("k")).body == b"first"


async def test_replace_over_the_known_version_only(objects: ObjectStore) -> None:
    """A stale ETag, and a missing object, both mean: lost, read again."""
    stale = await objects.put("k", b"one")
    fresh = await objects.replace("k", b"two", etag=stale)
    with pytest.raises(PreconditionFailed):
        await objects.replace("k", b"three", etag=stale)
    with pytest.raises(PreconditionFailed):
        await objects.replace("missing", b"x", etag=fresh)
    assert (await objects.get("k")).body == b"two"


async def test_a_race_to_create_has_one_winner(rivals: Sequence[ObjectStore]) -> None:
    """Eight processes at once: one wins, the others are told so, and the winner's bytes stay."""

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
    """Eight processes at once over one version: one wins, and its bytes stay."""
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


async def test_one_store_writes_a_key_in_turn(objects: ObjectStore) -> None:
    """Sixteen at once in one process: one winner still."""
    outcomes = await asyncio.gather(
        *(objects.create("race", f"writer {n}".encode()) for n in range(16)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, PreconditionFailed) for outcome in outcomes) == 1


async def test_files_of_any_size(objects: ObjectStore, tmp_path: Path) -> None:
    """Small ones, and ones that travel in parts, arrive whole."""
    for size in (0, 5, 2 * PART_BYTES + 17):
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
        await objects.upload_file("files/f", source, content_type="video/mp4")
        await objects.download_file("files/f", target)
        assert target.read_bytes() == source.read_bytes()
    assert (await objects.head("files/f")).content_type == "video/mp4"


async def test_a_large_file_takes_little_memory(s3_objects: S3ObjectStore, tmp_path: Path) -> None:
    """64 MiB up and down: a few parts at a time are held, not the whole."""
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
    """The parts that arrived are given up, not left to be paid for."""
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


async def test_lists_come_in_pages_in_order(objects: ObjectStore) -> None:
    """Every key once, from the first one behind `after`, in UTF-8 order."""
    wanted = [f"list/{n:03d}" for n in range(25)]
    await asyncio.gather(*(objects.put(key, b"") for key in [*wanted, "list-else/000"]))
    found: list[str] = []
    after, pages = "", 0
    while True:
        page = await objects.list("list/", after=after, limit=10)
        pages += 1
        found += page.keys
        if not page.more:
            break
        after = page.keys[-1]
    assert (found, pages) == (wanted, 3)
    assert (await objects.list("nothing/")).keys == ()


async def test_many_keys_are_deleted_at_once(objects: ObjectStore) -> None:
    """Several keys are one request."""
    await asyncio.gather(*(objects.put(f"d/{n}", b"") for n in range(5)))
    await objects.delete(*(f"d/{n}" for n in range(5)))
    assert (await objects.list("d/")).keys == ()


async def test_presigned_download(s3_objects: S3ObjectStore) -> None:
    """The URL alone gives the bytes, under the name and type that were asked for."""
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
    """After its time the URL is worth nothing."""
    await s3_objects.put("pic", b"bytes")
    signed = s3_objects.presign_get("pic", expires_s=1, filename="p", content_type="image/png")
    await asyncio.sleep(2.1)
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        assert (await client.get(signed.url)).status_code == 403


async def test_presigned_upload_is_bound(s3_objects: S3ObjectStore) -> None:
    """To its length and its type, and to one use."""
    signed = s3_objects.presign_put("up", expires_s=60, size=5, content_type="image/png")
    headers = dict(signed.headers)
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        longer = await client.put(signed.url, headers=headers | {"content-length": "6"}, content=b"123456")
        other = await client.put(signed.url, headers=headers | {"content-type": "text/html"}, content=b"12345")
        first = await client.put(signed.url, headers=headers, content=b"12345")
        second = await client.put(signed.url, headers=headers, content=b"67890")
    assert (longer.status_code, other.status_code, first.status_code, second.status_code) == (403, 403, 200, 412)


async def test_a_key_that_could_not_be_deleted_is_told(s3_config: S3Config) -> None:
    """The answer to a batch is a 200, whatever became of its keys."""
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
    """It is the settings' fault, and asking again would not mend it."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        await objects.put("k", b"1")
        proxy.methods, proxy.faults = frozenset({method}), ["wrong_region"] * 4
        asks: dict[str, Callable[[], Awaitable[object]]] = {
            "PUT": lambda: objects.create("new", b"2"),
            "GET": lambda: objects.get("k"),
            "POST": lambda: objects.delete("k"),
        }
        with pytest.raises(StorageRefused, match="region"):
            await asks[method]()
        await objects.close()


async def test_an_unclear_answer_in_time_is_not_waited_for_for_ever(s3_config: S3Config) -> None:
    """The write took effect and no answer comes: the read back says that we won."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url, read_timeout_s=0.5))
        proxy.faults = ["hang_after_effect"]
        etag = await objects.create("k", b'{"nonce": "mine"}')
        assert (await objects.get("k")).head.etag == etag
        await objects.close()


async def test_a_lost_answer_to_a_lost_race_is_a_lost_race(s3_config: S3Config) -> None:
    """Another writer's body is read back: the caller reads again and decides anew."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        await objects.put("k", b"theirs")
        proxy.faults = ["drop_answer"]
        with pytest.raises(PreconditionFailed):
            await objects.create("k", b"mine")
        await objects.close()


@pytest.mark.parametrize("fault", ["drop_answer", "error_500_after_effect"])
async def test_a_write_whose_answer_was_lost_is_recognised(s3_config: S3Config, fault: Fault) -> None:
    """The body is read back: it is ours, so we won, and no second write was sent."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        proxy.faults = [fault]
        etag = await objects.create("k", b'{"nonce": "mine"}')
        proxy.faults = [fault]
        await objects.replace("k", b'{"nonce": "next"}', etag=etag)
        assert (await objects.get("k")).body == b'{"nonce": "next"}'
        assert objects.requests["PUT"] == 2
        await objects.close()


async def test_a_body_that_breaks_off_is_read_again(s3_config: S3Config) -> None:
    """The SDK repeats what comes before a body only; a part of it is never taken for the whole."""
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


async def test_a_body_that_does_not_come_is_read_again(s3_config: S3Config) -> None:
    """The headers arrive, and then nothing: patience ends as for any answer."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url, read_timeout_s=1.0))
        await objects.put("k", b"body")
        proxy.methods = frozenset({"GET"})
        proxy.faults = ["hang_in_body"]
        assert (await objects.get("k")).body == b"body"
        assert proxy.faults == []
        await objects.close()


async def test_a_write_that_had_no_effect_is_unavailable(s3_config: S3Config) -> None:
    """A 500 before the effect: nothing is there, and the caller is told that nothing is known."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        proxy.faults = ["error_500"]
        with pytest.raises(StorageUnavailable):
            await objects.create("k", b"x")
        await objects.close()


async def test_reads_are_repeated(s3_config: S3Config) -> None:
    """An idempotent request survives a passing fault."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        await objects.put("k", b"x")
        proxy.methods, proxy.faults = frozenset({"GET"}), ["error_500"]
        assert (await objects.get("k")).body == b"x"
        await objects.close()


async def test_a_server_that_is_not_there(s3_config: S3Config) -> None:
    """No connection is `StorageUnavailable`, without a credential in its words."""
    objects = S3ObjectStore(replace(s3_config, endpoint_url="http://127.0.0.1:9", attempts=1))
    with pytest.raises(StorageUnavailable) as refused:
        await objects.get("k")
    assert str(s3_config.secret_key) not in str(refused.value)
    await objects.close()


async def test_wrong_credentials_are_refused(s3_config: S3Config, tmp_path: Path) -> None:
    """An operator must act: trying again would not help."""
    objects = S3ObjectStore(replace(s3_config, secret_key="wrong"))
    (tmp_path / "f").write_bytes(b"x")
    for ask in (objects.put("k", b"x"), objects.upload_file("k", tmp_path / "f", content_type="text/plain")):
        with pytest.raises(StorageRefused):
            await ask
    await objects.close()
