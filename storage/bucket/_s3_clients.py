"""The bucket's configuration, and boto3 clients for it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


@dataclass(frozen=True, slots=True)
class S3Config:
    """The bucket's configuration. Without `access_key` the usual AWS credential chain applies.

    `public_endpoint_url` is the address in presigned URLs, if clients reach the bucket by another one. `threads` is the
    maximum of concurrent requests and the size of the connection pool.
    """

    bucket: str
    endpoint_url: str | None = None
    public_endpoint_url: str | None = None
    region: str = "us-east-1"
    access_key: str | None = None
    secret_key: str | None = None
    prefix: str = ""
    threads: int = 8
    transfer_threads: int = 4
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 30.0
    attempts: int = 4


def make_client(config: S3Config, attempts: int, endpoint: str | None) -> "S3Client":
    """Create a client. With `attempts` 1 the SDK never repeats a request."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=config.region,
        aws_access_key_id=config.access_key,
        aws_secret_access_key=config.secret_key,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if config.endpoint_url else "auto"},
            max_pool_connections=max(config.threads, config.transfer_threads + 1),
            connect_timeout=config.connect_timeout_s,
            read_timeout=config.read_timeout_s,
            retries={"total_max_attempts": attempts, "mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
