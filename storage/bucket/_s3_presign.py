"""Presigned requests to the bucket, computed locally; only expired credentials cost a request."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock
from urllib.parse import parse_qs, quote, urlsplit

from storage import keys
from storage.bucket._s3_clients import S3Config, make_client
from storage.bucket._s3_errors import translated
from storage.bucket.objects import SignedRequest
from storage.bucket.sigv4 import Address, Credentials, Signer
from storage.errors import StorageRefused

_PROBE = "k"
_NOT_PLAIN = re.compile(r'[^ -~]|["\\%]')
"""Characters that a quoted ASCII filename must not contain, because clients disagree about escapes."""


class Presigner:
    """Signs requests. It is created at the first use, since the SDK's import is slow and many processes never sign."""

    def __init__(self, config: S3Config) -> None:
        self._config = config
        self._prefix = keys.root(config.prefix)
        self._made: tuple[Signer, Callable[[], Credentials]] | None = None
        self._making = Lock()

    def get(self, key: str, *, expires_s: int, filename: str, content_type: str) -> SignedRequest:
        query = (
            ("response-content-disposition", content_disposition(filename)),
            ("response-content-type", content_type),
        )
        signer, credentials = self._tools()
        now = datetime.now(UTC)
        url = signer.presigned("GET", self._prefix + key, credentials(), at=now, expires_s=expires_s, query=query)
        return SignedRequest("GET", url, now + timedelta(seconds=expires_s))

    def put(self, key: str, *, expires_s: int, size: int, content_type: str) -> SignedRequest:
        headers = {"content-length": str(size), "content-type": content_type, "if-none-match": "*"}
        signer, credentials = self._tools()
        now = datetime.now(UTC)
        url = signer.presigned("PUT", self._prefix + key, credentials(), at=now, expires_s=expires_s, headers=headers)
        return SignedRequest("PUT", url, now + timedelta(seconds=expires_s), headers)

    def _tools(self) -> tuple[Signer, Callable[[], Credentials]]:
        if self._made is None:
            with self._making:
                self._made = Signer(address_of(self._config)), _credentials(self._config)
        return self._made


def address_of(config: S3Config) -> Address:
    """Return the address for clients, taken from a URL that the SDK made, since its endpoint rules are complex."""
    client = make_client(config, 1, config.public_endpoint_url or config.endpoint_url)
    try:
        with translated(_PROBE):
            url = client.generate_presigned_url("get_object", Params={"Bucket": config.bucket, "Key": _PROBE})
    finally:
        client.close()
    parts = urlsplit(url)
    region = parse_qs(parts.query)["X-Amz-Credential"][0].split("/")[-3]
    return Address(f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix(_PROBE)}", region)


def _credentials(config: S3Config) -> Callable[[], Credentials]:
    """Return the source of credentials: the settings' key or the usual AWS chain, whose result may change."""
    import boto3

    session = boto3.session.Session(config.access_key, config.secret_key)
    found = session.get_credentials()
    if found is None:
        raise StorageRefused("no credentials for the bucket")

    def current() -> Credentials:
        frozen = found.get_frozen_credentials()
        return Credentials(frozen.access_key or "", frozen.secret_key or "", frozen.token)

    return current


def content_disposition(filename: str) -> str:
    """Return the header of RFC 6266: an ASCII name for old clients, the real one percent-encoded (RFC 5987)."""
    plain = _NOT_PLAIN.sub("_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
