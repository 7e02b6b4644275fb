"""`doctor` on faulty buckets."""

from dataclasses import replace

import pytest

from app.findings import Finding
from infra.doctor import BucketChecks
from infra.findings import examine
from storage.bucket.s3 import S3Config, S3ObjectStore
from storage.clock import ManualClock, SystemClock
from tests.support.faulty_proxy import faulty_proxy

pytestmark = pytest.mark.anyio


async def findings(config: S3Config, clock: ManualClock | SystemClock) -> dict[str, Finding]:
    objects = S3ObjectStore(config)
    found = {finding.check: finding async for finding in examine(BucketChecks(objects, clock, lease_s=60).all())}
    await objects.close()
    return found


async def test_a_good_bucket_passes(s3_config: S3Config) -> None:
    """All checks pass on a good bucket, and nothing is left in it."""
    found = await findings(s3_config, SystemClock())
    assert all(finding.holds for finding in found.values()), found
    objects = S3ObjectStore(s3_config)
    assert (await objects.list("")).keys == ()
    await objects.close()


async def test_a_store_that_ignores_conditions_is_refused(s3_config: S3Config) -> None:
    """A store that silently ignores conditional writes, and would lose jobs, fails the checks."""
    async with faulty_proxy(s3_config.endpoint_url or "") as proxy:
        proxy.ignored_headers = frozenset({"if-none-match", "if-match"})
        found = await findings(replace(s3_config, endpoint_url=proxy.url), SystemClock())
    assert not found["conditional create"].holds
    assert not found["conditional replace"].holds
    assert "enforces conditional writes" in found["conditional create"].advice
    assert found["bucket reachable"].holds


async def test_a_wrong_clock_is_found(s3_config: S3Config, clock: ManualClock) -> None:
    """A clock that differs from the store's, which would break signatures and leases, fails the check."""
    assert not (await findings(s3_config, clock))["clock"].holds


async def test_an_unreachable_bucket_fails_every_check(s3_config: S3Config) -> None:
    """Every check of an unreachable bucket fails, and none raises an exception."""
    found = await findings(replace(s3_config, endpoint_url="http://127.0.0.1:9", attempts=1), SystemClock())
    assert not any(finding.holds for finding in found.values())
    assert "COMFYUI_MODAL_S3_ENDPOINT" in found["bucket reachable"].advice


async def test_wrong_credentials_are_reported(s3_config: S3Config) -> None:
    """With wrong credentials the checks fail and show no secret."""
    found = await findings(replace(s3_config, secret_key="not-the-secret"), SystemClock())
    assert not found["bucket reachable"].holds
    assert "not-the-secret" not in str(found)
