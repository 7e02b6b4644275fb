"""Presigned requests to the bucket, computed locally; only expired credentials cost a request.

The SDK takes 250 to 450 µs for a presigned URL, and a job may have a thousand outputs. `Signer` implements AWS
Signature Version 4 as a pure function of the time and the credentials, and computes the address of the bucket and the
signing key of the day once.
"""

import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from threading import Lock
from typing import NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from storage import keys
from storage.bucket._s3_clients import S3Config, make_client, translated
from storage.bucket.objects import SignedRequest
from storage.errors import StorageRefused

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
DEFAULT_PORTS = {"http": 80, "https": 443}
_PROBE = "k"
_NOT_PLAIN = re.compile(r'[^ -~]|["\\%]')
"""Characters that a quoted ASCII filename must not contain, because clients disagree about escapes."""


class Credentials(NamedTuple):
    """`token` belongs to a temporary key."""

    access_key: str
    secret_key: str
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """`base` is the URL that an object's key is appended to, percent-encoded and with a slash at its end."""

    base: str
    region: str


class Signer:
    """Safe to share between threads."""

    def __init__(self, address: Address) -> None:
        parts = urlsplit(address.base)
        self._base = address.base
        self._path = parts.path
        self._host = _host(parts.scheme, parts.hostname or "", parts.port)
        self._scope = f"{address.region}/s3/aws4_request"
        self._region = address.region
        self._day_key: tuple[str, str, bytes] = ("", "", b"")

    def presigned(
        self,
        method: str,
        key: str,
        credentials: Credentials,
        *,
        at: datetime,
        expires_s: int,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Return a URL that is valid for one method and with exactly these headers, whose names are in lower case.

        `at` is in UTC. The parameters of `query` must be sorted by name and begin with a small letter: they precede the
        signature's own parameters in the URL, as S3 requires, and follow them in the sorted canonical request.
        """
        stamp = _stamp(at)
        signed = {"host": self._host, **(headers or {})}
        names = ";".join(sorted(signed))
        token = "" if credentials.token is None else f"&X-Amz-Security-Token={_quoted(credentials.token)}"
        credential = _quoted(f"{credentials.access_key}/{stamp[:8]}/{self._scope}")
        auth = (
            f"X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={credential}&X-Amz-Date={stamp}&X-Amz-Expires={expires_s}"
            f"{token}&X-Amz-SignedHeaders={_quoted(names)}"
        )
        own = "&".join([f"{name}={_quoted(value)}" for name, value in query])
        path = quote(key, safe="/~")
        # Signature Version 4 trims the values of headers and reduces their sequences of blanks to one.
        lines = "".join([f"{name}:{' '.join(signed[name].split())}\n" for name in sorted(signed)])
        sorted_query = f"{auth}&{own}" if own else auth
        canonical = f"{method}\n{self._path}{path}\n{sorted_query}\n{lines}\n{names}\n{UNSIGNED_PAYLOAD}"
        signature = self._signature(canonical, credentials.secret_key, stamp)
        return f"{self._base}{path}?{own}{'&' if own else ''}{auth}&X-Amz-Signature={signature}"

    def _signature(self, canonical: str, secret_key: str, stamp: str) -> str:
        text = f"{ALGORITHM}\n{stamp}\n{stamp[:8]}/{self._scope}\n{sha256(canonical.encode()).hexdigest()}"
        return hmac.digest(self._key_of(secret_key, stamp[:8]), text.encode(), "sha256").hex()

    def _key_of(self, secret_key: str, day: str) -> bytes:
        known_secret, known_day, derived = self._day_key
        if (known_secret, known_day) == (secret_key, day):
            return derived
        derived = f"AWS4{secret_key}".encode()
        for part in (day, self._region, "s3", "aws4_request"):
            derived = hmac.digest(derived, part.encode(), "sha256")
        self._day_key = (secret_key, day, derived)  # one assignment: another thread sees the old or the new tuple
        return derived


def _stamp(at: datetime) -> str:
    """Return the time in ISO 8601's basic format. `strftime` would take longer than all of the hashing."""
    return at.isoformat(timespec="seconds")[:19].replace("-", "").replace(":", "") + "Z"


def _host(scheme: str, name: str, port: int | None) -> str:
    """Return the Host header that clients send: in lower case, an IPv6 address in brackets, no default port."""
    host = f"[{name}]" if ":" in name else name
    return host if port in (None, DEFAULT_PORTS.get(scheme)) else f"{host}:{port}"


@lru_cache(maxsize=256)
def _quoted(text: str) -> str:
    """Return a query value in S3's encoding, cached because the outputs of a job share most values."""
    return quote(text, safe="-_.~")


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
        # Signed headers: the bucket refuses another length or type, and a second upload to the key.
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
    """Return the address for clients."""
    # Taken from a URL that the SDK makes, because its rules for endpoints are complex.
    client = make_client(config, 1, config.public_endpoint_url or config.endpoint_url)
    try:
        with translated(_PROBE):
            url = client.generate_presigned_url("get_object", Params={"Bucket": config.bucket, "Key": _PROBE})
    finally:
        client.close()
    parts = urlsplit(url)
    # KEY/DAY/REGION/s3/aws4_request, counted from the end because a key may contain slashes.
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
        # A consistent copy: temporary credentials may be renewed between the reads of their parts.
        frozen = found.get_frozen_credentials()
        return Credentials(frozen.access_key or "", frozen.secret_key or "", frozen.token)

    return current


def content_disposition(filename: str) -> str:
    """Return the header of RFC 6266: an ASCII name for old clients, the real one percent-encoded (RFC 5987)."""
    plain = _NOT_PLAIN.sub("_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
