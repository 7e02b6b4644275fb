"""Presigned requests are those that the SDK makes, byte for byte, and a real server takes them."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
import pytest
from botocore.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.bucket._s3_clients import make_client
from storage.bucket._s3_presign import Credentials, Signer, address_of
from storage.bucket.s3 import S3Config, S3ObjectStore, content_disposition
from storage.errors import StorageRefused
from tests.support.plain_http import NO_TLS

AWS = S3Config("a-bucket", access_key="AKIDEXAMPLE", secret_key="se/cret+key")
PLACES = {
    "loopback": replace(AWS, endpoint_url="http://127.0.0.1:8333"),
    "IPv6": replace(AWS, endpoint_url="http://[::1]:8333/"),
    "default port": replace(AWS, endpoint_url="https://s3.example:443"),
    "below a path": replace(AWS, endpoint_url="https://Files.example:8443/base/", region="auto"),
    "by another address": replace(AWS, endpoint_url="http://10.0.0.1:9", public_endpoint_url="https://s3.example"),
    "AWS, first region": AWS,
    "AWS, another region": replace(AWS, region="eu-west-1"),
    "AWS, a dot in the bucket": replace(AWS, bucket="a.bucket", region="eu-west-1"),
    "AWS, China": replace(AWS, region="cn-north-1"),
}
HEADER_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
FEW = settings(max_examples=8)
"""The SDK takes most of the time, and there are nine places."""
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40) | st.sampled_from(
    ["a//b", "/a", "a/", "a/../b", "./a", "ä +~'(*)!?&=%#;:@,$", "%2F", "jobs/01/outputs/ComfyUI_00001_.png"]
)


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest) -> tuple[S3Config, Any, Signer]:
    """The config, the SDK's client and our signer of one endpoint."""
    config = PLACES[request.param]
    return config, make_client(config, 1, config.public_endpoint_url or config.endpoint_url), Signer(address_of(config))


def ours(signer: Signer, theirs: str, method: str, key: str, token: str | None = None, **options: Any) -> str:
    """Our URL for the second in which the SDK made its own."""
    stamp = parse_qs(urlsplit(theirs).query)["X-Amz-Date"][0]
    credentials = Credentials("AKIDEXAMPLE", "se/cret+key", token)
    at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return signer.presigned(method, key, credentials, at=at, **options)


@FEW
@given(key=KEYS, filename=KEYS, content_type=HEADER_TEXT, expires_s=st.integers(1, 604_800))
def test_a_download_is_the_sdks(
    place: tuple[S3Config, Any, Signer], key: str, filename: str, content_type: str, expires_s: int
) -> None:
    """With a name and a type to answer with, for every key and endpoint."""
    config, client, signer = place
    disposition = content_disposition(filename)
    asked = {"Key": key, "ResponseContentDisposition": disposition, "ResponseContentType": content_type}
    theirs = client.generate_presigned_url("get_object", Params={"Bucket": config.bucket, **asked}, ExpiresIn=expires_s)
    query = (("response-content-disposition", disposition), ("response-content-type", content_type))
    assert ours(signer, theirs, "GET", key, expires_s=expires_s, query=query) == theirs


@FEW
@given(key=KEYS, size=st.integers(0, 5 * 1024**3), content_type=HEADER_TEXT, expires_s=st.integers(1, 604_800))
def test_an_upload_is_the_sdks(
    place: tuple[S3Config, Any, Signer], key: str, size: int, content_type: str, expires_s: int
) -> None:
    """With the headers that it is bound to."""
    config, client, signer = place
    asked: Mapping[str, Any] = {"Key": key, "ContentLength": size, "ContentType": content_type, "IfNoneMatch": "*"}
    theirs = client.generate_presigned_url("put_object", Params={"Bucket": config.bucket, **asked}, ExpiresIn=expires_s)
    headers = {"content-length": str(size), "content-type": content_type, "if-none-match": "*"}
    assert ours(signer, theirs, "PUT", key, expires_s=expires_s, headers=headers) == theirs


@FEW
@given(number=st.integers(1, 10_000), upload_id=HEADER_TEXT.filter(bool), checksum=HEADER_TEXT.filter(bool))
def test_a_part_with_a_checksum_is_the_sdks(
    place: tuple[S3Config, Any, Signer], number: int, upload_id: str, checksum: str
) -> None:
    """A part of a multipart upload has both parameters and signed headers."""
    config, client, signer = place
    asked = {"Key": "k", "PartNumber": number, "UploadId": upload_id, "ChecksumSHA256": checksum}
    theirs = client.generate_presigned_url("upload_part", Params={"Bucket": config.bucket, **asked}, ExpiresIn=60)
    query = (("partNumber", str(number)), ("uploadId", upload_id))
    made = ours(signer, theirs, "PUT", "k", expires_s=60, query=query, headers={"x-amz-checksum-sha256": checksum})
    assert made == theirs


@pytest.mark.parametrize("token", ["plain", "with/slashes+and==", "x" * 1000])
def test_a_session_token_is_signed(token: str) -> None:
    """Temporary credentials, as a role has them."""
    client = boto3.session.Session(AWS.access_key, AWS.secret_key, token, AWS.region).client(
        "s3", config=Config(signature_version="s3v4")
    )
    theirs = client.generate_presigned_url("get_object", Params={"Bucket": AWS.bucket, "Key": "k"}, ExpiresIn=60)
    made = ours(Signer(address_of(AWS)), theirs, "GET", "k", token, expires_s=60)
    assert sorted(made.split("&")[1:]) == sorted(theirs.split("&")[1:])


def test_a_new_day_and_a_new_secret_have_a_key_of_their_own() -> None:
    """One signer signs over midnight, and after its credentials were renewed."""
    signer, midnight = Signer(address_of(AWS)), datetime(2026, 11, 28, tzinfo=UTC)

    def url(secret: str, at: datetime, by: Signer) -> str:
        return by.presigned("GET", "k", Credentials("AKID", secret), at=at, expires_s=60)

    for secret, at in (
        ("one", midnight),
        ("one", midnight.replace(day=29)),
        ("two", midnight.replace(day=29)),
        ("one", midnight),
    ):
        assert url(secret, at, signer) == url(secret, at, Signer(address_of(AWS)))


@pytest.mark.anyio
@pytest.mark.parametrize("key", ["plain/1.png", "ä ö/+~'(*)!&=%#;:@,$.png", "%2F/100%.png"])
async def test_a_real_server_takes_them(s3_objects: S3ObjectStore, key: str) -> None:
    """An upload by one, and a download by the other, under keys that must be percent-encoded."""
    up = s3_objects.presign_put(key, expires_s=60, size=5, content_type="image/png")
    down = s3_objects.presign_get(key, expires_s=60, filename="ä.png", content_type="image/webp; a=b")
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        sent = await client.put(up.url, headers=dict(up.headers), content=b"12345")
        answer = await client.get(down.url)
    assert (sent.status_code, answer.status_code, answer.content) == (200, 200, b"12345")
    assert answer.headers["content-type"] == "image/webp; a=b"


@pytest.mark.anyio
async def test_without_credentials_it_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual AWS chain finds none: the message says so."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    objects = S3ObjectStore(S3Config("b"))
    with pytest.raises(StorageRefused, match="no credentials"):
        objects.presign_get("k", expires_s=1, filename="k", content_type="text/plain")
    await objects.close()
