"""Presigned requests equal those of the SDK byte for byte, and a real server accepts them."""

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
ENDPOINTS = {
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
"""The SDK takes most of the time, and there are nine endpoints."""
KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40) | st.sampled_from(
    ["a//b", "/a", "a/", "a/../b", "./a", "ä +~'(*)!?&=%#;:@,$", "%2F", "jobs/01/outputs/ComfyUI_00001_.png"]
)


@pytest.fixture(scope="module", params=ENDPOINTS)
def endpoint(request: pytest.FixtureRequest) -> tuple[S3Config, Any, Signer]:
    """The configuration, the SDK's client and this project's signer of one endpoint."""
    config = ENDPOINTS[request.param]
    return config, make_client(config, 1, config.public_endpoint_url or config.endpoint_url), Signer(address_of(config))


def signed_url(signer: Signer, expected: str, method: str, key: str, token: str | None = None, **options: Any) -> str:
    """The URL of this project's signer for the second in which the SDK signed its own."""
    stamp = parse_qs(urlsplit(expected).query)["X-Amz-Date"][0]
    credentials = Credentials("AKIDEXAMPLE", "se/cret+key", token)
    at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return signer.presigned(method, key, credentials, at=at, **options)


@FEW
@given(key=KEYS, filename=KEYS, content_type=HEADER_TEXT, expires_s=st.integers(1, 604_800))
def test_a_download_equals_the_sdks(
    endpoint: tuple[S3Config, Any, Signer], key: str, filename: str, content_type: str, expires_s: int
) -> None:
    """A presigned download with a name and a type equals the SDK's for every key and endpoint."""
    config, client, signer = endpoint
    disposition = content_disposition(filename)
    parameters = {"Key": key, "ResponseContentDisposition": disposition, "ResponseContentType": content_type}
    expected = client.generate_presigned_url(
        "get_object", Params={"Bucket": config.bucket, **parameters}, ExpiresIn=expires_s
    )
    query = (("response-content-disposition", disposition), ("response-content-type", content_type))
    assert signed_url(signer, expected, "GET", key, expires_s=expires_s, query=query) == expected


@FEW
@given(key=KEYS, size=st.integers(0, 5 * 1024**3), content_type=HEADER_TEXT, expires_s=st.integers(1, 604_800))
def test_an_upload_equals_the_sdks(
    endpoint: tuple[S3Config, Any, Signer], key: str, size: int, content_type: str, expires_s: int
) -> None:
    """A presigned upload with its signed headers equals the SDK's."""
    config, client, signer = endpoint
    parameters: Mapping[str, Any] = {"Key": key, "ContentLength": size, "ContentType": content_type, "IfNoneMatch": "*"}
    expected = client.generate_presigned_url(
        "put_object", Params={"Bucket": config.bucket, **parameters}, ExpiresIn=expires_s
    )
    headers = {"content-length": str(size), "content-type": content_type, "if-none-match": "*"}
    assert signed_url(signer, expected, "PUT", key, expires_s=expires_s, headers=headers) == expected


@FEW
@given(number=st.integers(1, 10_000), upload_id=HEADER_TEXT.filter(bool), checksum=HEADER_TEXT.filter(bool))
def test_a_part_with_a_checksum_equals_the_sdks(
    endpoint: tuple[S3Config, Any, Signer], number: int, upload_id: str, checksum: str
) -> None:
    """A presigned part of an upload, with parameters and signed headers, equals the SDK's."""
    config, client, signer = endpoint
    parameters = {"Key": "k", "PartNumber": number, "UploadId": upload_id, "ChecksumSHA256": checksum}
    expected = client.generate_presigned_url(
        "upload_part", Params={"Bucket": config.bucket, **parameters}, ExpiresIn=60
    )
    query = (("partNumber", str(number)), ("uploadId", upload_id))
    result = signed_url(
        signer, expected, "PUT", "k", expires_s=60, query=query, headers={"x-amz-checksum-sha256": checksum}
    )
    assert result == expected


@pytest.mark.parametrize("token", ["plain", "with/slashes+and==", "x" * 1000])
def test_a_session_token_is_signed(token: str) -> None:
    """A URL for temporary credentials contains their session token, as the SDK's does."""
    client = boto3.session.Session(AWS.access_key, AWS.secret_key, token, AWS.region).client(
        "s3", config=Config(signature_version="s3v4")
    )
    expected = client.generate_presigned_url("get_object", Params={"Bucket": AWS.bucket, "Key": "k"}, ExpiresIn=60)
    result = signed_url(Signer(address_of(AWS)), expected, "GET", "k", token, expires_s=60)
    assert sorted(result.split("&")[1:]) == sorted(expected.split("&")[1:])


def test_a_new_day_and_a_new_secret_have_their_own_signing_key() -> None:
    """A signer signs correctly after midnight and after its credentials were renewed."""
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
async def test_a_real_server_accepts_presigned_requests(s3_objects: S3ObjectStore, key: str) -> None:
    """A real server accepts presigned uploads and downloads of keys that must be percent-encoded."""
    up = s3_objects.presign_put(key, expires_s=60, size=5, content_type="image/png")
    down = s3_objects.presign_get(key, expires_s=60, filename="ä.png", content_type="image/webp; a=b")
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        sent = await client.put(up.url, headers=dict(up.headers), content=b"12345")
        answer = await client.get(down.url)
    assert (sent.status_code, answer.status_code, answer.content) == (200, 200, b"12345")
    assert answer.headers["content-type"] == "image/webp; a=b"


@pytest.mark.anyio
async def test_presigning_without_credentials_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presigning fails with a message if the AWS credential chain finds no credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    objects = S3ObjectStore(S3Config("b"))
    with pytest.raises(StorageRefused, match="no credentials"):
        objects.presign_get("k", expires_s=1, filename="k", content_type="text/plain")
    await objects.close()
