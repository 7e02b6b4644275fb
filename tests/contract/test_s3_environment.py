"""The S3 adapter takes its credentials and options from its configuration, whatever the environment contains."""

import pytest

from storage.bucket.s3 import S3Config, S3ObjectStore
from storage.errors import PreconditionFailed

pytestmark = pytest.mark.anyio

FOREIGN_VARIABLES = {
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


async def test_foreign_environment_variables_have_no_effect(
    s3_config: S3Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are signed with the configured key and creations stay conditional, despite foreign AWS variables."""
    for name, value in FOREIGN_VARIABLES.items():
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
