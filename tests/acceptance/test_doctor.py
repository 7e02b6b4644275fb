"""`doctor` on buckets that are not what they should be."""

from dataclasses import replace

import pytest

from infra.doctor import BucketChecks
from infra.findings import Finding, examine
from storage.bucket.s3 import S3Config, S3ObjectStore
from storage.clock import ManualClock, SystemClock
from tests.support.faulty_proxy import faulty_proxy

pytestmark = pytest.mark.anyio


async def findings(config: S3Config, clock: ManualClock | SystemClock) -> dict[str, Finding]:
    objects = S3ObjectStore(config)
    found = {finding.check: finding async for finding in examine(BucketChecks(objects, clock).all())}
    await objects.close()
    return found


async def test_a_good_bucket_passes(s3_config: S3Config) -> None:
    """And nothing is left in it."""
    found = await findings(s3_config, SystemClock())
    assert all(finding.holds for finding in found.values()), found
    objects = S3ObjectStore(s3_config)
    assert (await objects.list("")).keys == ()
    await objects.close()


async def test_a_store_that_ignores_conditions_is_refused(s3_config: S3Config) -> None:
    """Several small servers silently do: jobs would be lost there."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        proxy.ignored_headers = frozenset({"if-none-match", "if-match"})
        found = await findings(replace(s3_config, endpoint_url=proxy.url), SystemClock())
    assert not found["conditional create"].holds
    assert not found["conditional replace"].holds
    assert "enforces conditional writes" in found["conditional create"].advice
    assert found["bucket reachable"].holds


async def test_a_clock_that_is_off_is_found(s3_config: S3Config, clock: ManualClock) -> None:
    """Signatures and leases would end at the wrong time."""
    assert not (await findings(s3_config, clock))["clock"].holds


async def test_a_bucket_that_is_not_there(s3_config: S3Config) -> None:
    """Every check says so, and none raises."""
    found = await findings(replace(s3_config, endpoint_url="http://127.0.0.1:9", attempts=1), SystemClock())
    assert not any(finding.holds for finding in found.values())
    assert "COMFYUI_MODAL_S3_ENDPOINT" in found["bucket reachable"].advice


async def test_wrong_credentials(s3_config: S3Config) -> None:
    """The advice names the settings; no secret is shown."""
    found = await findings(replace(s3_config, secret_key="not-the-secret"), SystemClock())
    assert not found["bucket reachable"].holds
    assert "not-the-secret" not in str(found)
