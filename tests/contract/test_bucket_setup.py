"""CORS, lifecycle rules and policies of a bucket, on the real S3 server."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from storage.bucket._s3_clients import make_client
from storage.bucket.objects import ObjectStore, SignedRequest
from storage.bucket.s3 import PART_BYTES, S3Config, S3ObjectStore
from storage.bucket.setup import (
    BUCKET_ACTIONS,
    OBJECT_ACTIONS,
    BucketSetup,
    NotSupported,
    cors_rules,
    run_policy,
    setup_policy,
)
from storage.errors import StorageError, StorageUnavailable
from tests.support.faulty_proxy import FaultyProxy, faulty_proxy
from tests.support.plain_http import NO_TLS

pytestmark = pytest.mark.anyio

ORIGIN = "https://app.example"
FOREIGN: Any = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "reports/"}, "Expiration": {"Days": 400}}


@pytest.fixture
def owner(s3_config: S3Config) -> Iterator[Any]:
    """A client of the bucket's owner, which deletes the bucket's rules afterwards."""
    client: Any = make_client(s3_config, 1, s3_config.endpoint_url)
    yield client
    client.delete_bucket_cors(Bucket=s3_config.bucket)
    client.delete_bucket_lifecycle(Bucket=s3_config.bucket)
    client.close()


async def test_rules_are_set_once(s3_config: S3Config, owner: Any) -> None:
    """Lifecycle and CORS rules that are already in place need no change."""
    setup = BucketSetup(s3_config)
    for change in (await setup.plan_lifecycle(), await setup.plan_cors([ORIGIN])):
        assert change.is_needed
        await setup.apply(change)
    assert not (await setup.plan_lifecycle()).is_needed
    assert not (await setup.plan_cors([ORIGIN])).is_needed
    assert (await setup.plan_cors([ORIGIN, "https://other.example"])).is_needed


async def test_foreign_rules_are_kept(s3_config: S3Config, owner: Any) -> None:
    """Setup keeps the owner's own rules and those of another deployment in the same bucket."""
    owner.put_bucket_lifecycle_configuration(Bucket=s3_config.bucket, LifecycleConfiguration={"Rules": [FOREIGN]})
    for config in (s3_config, replace(s3_config, prefix="another/deployment")):
        setup = BucketSetup(config)
        await setup.apply(await setup.plan_lifecycle())
    rules = owner.get_bucket_lifecycle_configuration(Bucket=s3_config.bucket)["Rules"]
    assert [rule["ID"] for rule in rules] == [
        "theirs",
        f"comfyui-modal-broken-uploads-{s3_config.prefix}",
        f"comfyui-modal-probes-{s3_config.prefix}",
        "comfyui-modal-broken-uploads-another.deployment",
        "comfyui-modal-probes-another.deployment",
    ]
    assert rules[0] == FOREIGN
    change = await BucketSetup(s3_config).plan_lifecycle()
    assert (change.is_needed, len(change.foreign)) == (False, 3)


async def test_no_rule_expires_objects_of_a_job(s3_config: S3Config, owner: Any) -> None:
    """Only probes expire by a lifecycle rule, since a job may wait for any number of days."""
    change = await BucketSetup(s3_config).plan_lifecycle()
    expiring = [rule["Filter"]["Prefix"] for rule in change.wanted if "Expiration" in rule]
    assert expiring == [f"{s3_config.prefix}/probes/"]


async def test_a_configured_origin_may_use_presigned_urls(s3_config: S3Config, owner: Any) -> None:
    """A browser's preflight for an upload passes from the configured origin and from no other."""
    setup = BucketSetup(s3_config)
    await setup.apply(await setup.plan_cors([ORIGIN]))
    objects = S3ObjectStore(s3_config)
    signed = objects.presign_put("uploads/one", expires_s=60, size=3, content_type="text/plain")
    async with httpx.AsyncClient(verify=NO_TLS) as browser:
        for origin, allowed in ((ORIGIN, True), ("https://evil.example", False)):
            asks = {
                "origin": origin,
                "access-control-request-method": "PUT",
                "access-control-request-headers": "content-type,if-none-match",
            }
            preflight = await browser.options(signed.url, headers=asks)
            assert preflight.headers.get("access-control-allow-origin") == (origin if allowed else None)
        sent = await browser.put(signed.url, content=b"abc", headers={**signed.headers, "origin": ORIGIN})
        assert (sent.status_code, sent.headers["access-control-allow-origin"]) == (200, ORIGIN)
        assert "etag" in sent.headers["access-control-expose-headers"].lower()
    await objects.close()


async def test_the_cors_rule_allows_the_headers_that_uploads_need(s3_config: S3Config) -> None:
    """The CORS rule allows all headers of a presigned PUT except those that browsers set themselves."""
    objects = S3ObjectStore(s3_config)
    signed = objects.presign_put("uploads/one", expires_s=60, size=3, content_type="text/plain")
    (rule,) = cors_rules("", [ORIGIN])
    assert set(signed.headers) - {"content-length"} <= set(rule["AllowedHeaders"])
    await objects.close()


async def test_a_store_without_lifecycle_rules_is_reported(s3_config: S3Config, owner: Any) -> None:
    """A store without lifecycle rules is reported as such, and its CORS rules can still be set."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        proxy.unknown = frozenset({"lifecycle"})
        setup = BucketSetup(replace(s3_config, endpoint_url=proxy.url))
        with pytest.raises(NotSupported, match="does not know lifecycle rules"):
            await setup.plan_lifecycle()
        await setup.apply(await setup.plan_cors([ORIGIN]))


async def test_a_wrong_key_is_refused(s3_config: S3Config) -> None:
    """A wrong secret key gives an error that says so and does not contain the secret."""
    with pytest.raises(StorageError, match="refuses this client") as refused:
        await BucketSetup(replace(s3_config, secret_key="wrong-secret")).plan_lifecycle()
    assert "wrong-secret" not in str(refused.value)


async def test_the_policy_allows_exactly_the_requests_of_the_store(s3_config: S3Config, tmp_path: Path) -> None:
    """The requests of all store methods, recorded by a proxy, need exactly the policy's actions and keys."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        objects = S3ObjectStore(replace(s3_config, endpoint_url=proxy.url))
        used = await use_all(objects, proxy, tmp_path)
        await objects.close()
    assert used == {name for name in vars(ObjectStore) if not name.startswith("_")}
    requests = [as_action(s3_config.bucket, method, path) for method, path in proxy.seen]
    assert {action for action, _ in requests} == {*OBJECT_ACTIONS, *BUCKET_ACTIONS}
    assert all(key.startswith(f"{s3_config.prefix}/") for _, key in requests if key)
    uses, lists = run_policy(s3_config.bucket, s3_config.prefix)["Statement"]
    assert uses["Resource"] == f"arn:aws:s3:::{s3_config.bucket}/{s3_config.prefix}/*"
    assert lists["Condition"] == {"StringLikeIfExists": {"s3:prefix": f"{s3_config.prefix}/*"}}


async def test_the_setup_policy_has_exactly_the_actions_of_setup(s3_config: S3Config, owner: Any) -> None:
    """`bucket setup` uses every action of its own policy and none of the deployment's."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        setup = BucketSetup(replace(s3_config, endpoint_url=proxy.url))
        await setup.apply(await setup.plan_lifecycle())
        await setup.apply(await setup.plan_cors([ORIGIN]))
    verbs = {"GET": "Get", "PUT": "Put"}
    kinds = {"cors": "BucketCORS", "lifecycle": "LifecycleConfiguration"}
    used = {f"s3:{verbs[method]}{kinds[urlsplit(path).query.rstrip('=')]}" for method, path in proxy.seen}
    (statement,) = setup_policy(s3_config.bucket)["Statement"]
    assert used == set(statement["Action"])


async def use_all(objects: S3ObjectStore, proxy: FaultyProxy, folder: Path) -> set[str]:
    """Calls every method of the store and returns their names, so that a new method is not forgotten."""
    large, small = folder / "large", folder / "small"
    large.write_bytes(bytes(3 * PART_BYTES))
    await objects.put("a/put", b"x")
    etag = await objects.create("a/create", b"x")
    await objects.replace("a/create", b"y", etag=etag)
    await objects.get("a/put")
    await objects.get_range("a/put", 0, 1)
    await objects.head("a/put")
    await objects.upload_file("a/file", large, content_type="video/mp4")
    await objects.download_file("a/file", small)
    await objects.copy("a/file", "a/copy", content_type="video/mp4")
    proxy.faults = ["error_500"] * 100  # so that an upload in parts is given up
    with pytest.raises(StorageUnavailable):
        await objects.upload_file("a/broken", large, content_type="video/mp4")
    proxy.faults = []
    await objects.list("a/", after="a/create", limit=1)
    await objects.delete("a/put")
    await objects.delete("a/create", "a/file")
    async with httpx.AsyncClient(verify=NO_TLS) as browser:
        for signed in (
            objects.presign_put("a/presigned", expires_s=60, size=1, content_type="text/plain"),
            objects.presign_get("a/presigned", expires_s=60, filename="f.txt", content_type="text/plain"),
        ):
            assert (await send(browser, signed)).status_code == 200
    await objects.close()
    return {
        *("put", "create", "replace", "get", "get_range", "head", "upload_file", "download_file"),
        "copy",
        *("list", "delete", "presign_put", "presign_get", "close"),
    }


async def send(browser: httpx.AsyncClient, signed: SignedRequest) -> httpx.Response:
    content = b"x" if signed.method == "PUT" else None
    return await browser.request(signed.method, signed.url, headers=dict(signed.headers), content=content)


def as_action(bucket: str, method: str, path: str) -> tuple[str, str]:
    """The action for a request on AWS, and its key or listed prefix; a batch delete has its keys in the body."""
    url = urlsplit(path)
    key, query = url.path.removeprefix(f"/{bucket}").lstrip("/"), parse_qs(url.query, keep_blank_values=True)
    match method, bool(key):
        case "GET", False:
            return "s3:ListBucket", query["prefix"][0]
        case (("GET" | "HEAD"), True):
            return "s3:GetObject", key
        case (("PUT" | "POST"), True):
            return "s3:PutObject", key
        case "DELETE", True:
            return "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject", key
        case "POST", False if "delete" in query:
            return "s3:DeleteObject", ""
    raise AssertionError(f"unknown request: {method} {path}")
