"""What the URLs of settings may show to clients."""

import pytest

from app.ui.pages import page_headers
from infra.cli.bucket import setup
from infra.cli.output import Refused
from storage.bucket.s3 import S3Config, S3ObjectStore

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "[::1]:9000"])
async def test_the_policy_of_a_page_names_the_host_of_the_bucket_alone(host: str) -> None:
    """The Content-Security-Policy has scheme, host and port of the bucket's endpoint, and no password."""
    config = S3Config("b", endpoint_url=f"http://user:sesame@{host}", access_key="a", secret_key="b")
    objects = S3ObjectStore(config)
    try:
        policy = page_headers(objects)["content-security-policy"]
    finally:
        await objects.close()
    assert f"media-src 'self' http://{host};" in policy
    assert "sesame" not in policy


@pytest.mark.parametrize("origin", ["https://a.example/", "a.example", "https://*.*.example"])
async def test_a_rule_for_an_origin_that_never_matches_is_refused(origin: str) -> None:
    """`bucket setup` refuses an origin that no browser sends, before it asks the bucket."""
    with pytest.raises(Refused, match="not a"):
        await setup(cors_origin=["https://*.a.example", origin], name="b")
