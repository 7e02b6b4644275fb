"""Whom the S3 adapter comes as, and how, is in its config, whatever the environment says."""

import pytest

from storage.bucket.s3 import S3Config, S3ObjectStore
from storage.errors import PreconditionFailed

pytestmark = pytest.mark.anyio

STRAY = {
    "AWS_ACCESS_KEY_ID": "SOMEONEELSE",
    "AWS_SECRET_ACCESS_KEY": "another",
    "AWS_SESSION_TOKEN": "left over",
    "AWS_ENDPOINT": "http://127.0.0.1:9",
    "AWS_REGION": "mars-north-1",
    "AWS_SKIP_SIGNATURE": "true",
    "AWS_UNSIGNED_PAYLOAD": "true",
    "AWS_CONDITIONAL_PUT": "disabled",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
}


async def test_variables_that_were_set_for_others_change_nothing(
    s3_config: S3Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses unsigned requests and strange keys, and a second write of what may only be created."""
    for name, value in STRAY.items():
        monkeypatch.setenv(name, value)
    objects = S3ObjectStore(s3_config)
    try:
        await objects.put("a/b", b"1")
        assert (await objects.get("a/b")).body == b"1"
        with pytest.raises(PreconditionFailed):
            await objects.create("a/b", b"2")
        await objects.delete("a/b")
        await objects.create("a/b", b"3")
    finally:
        await objects.close()
