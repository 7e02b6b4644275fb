"""`comfyui-modal bucket` on the real S3 server."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.bucket._s3_clients import make_client
from storage.bucket.s3 import S3Config
from storage.bucket.setup import run_policy, setup_policy
from tests.support.commands import run_command
from tests.support.environment import clean_environment

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(s3_config: S3Config) -> Iterator[dict[str, str]]:
    """The settings of the bucket's owner; the bucket's rules are deleted afterwards."""
    yield {
        "COMFYUI_MODAL_BUCKET": s3_config.bucket,
        "COMFYUI_MODAL_S3_ENDPOINT": s3_config.endpoint_url or "",
        "COMFYUI_MODAL_S3_ACCESS_KEY": s3_config.access_key or "",
        "COMFYUI_MODAL_S3_SECRET_KEY": s3_config.secret_key or "",
        "COMFYUI_MODAL_S3_PREFIX": "bucket-commands",
    }
    client: Any = make_client(s3_config, 1, s3_config.endpoint_url)
    client.delete_bucket_cors(Bucket=s3_config.bucket)
    client.delete_bucket_lifecycle(Bucket=s3_config.bucket)
    client.close()


def bucket(settings: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("infra.cli", "bucket", *arguments, environment=clean_environment() | settings)


def test_setup_shows_its_changes(settings: dict[str, str]) -> None:
    """A dry run shows the changes that setup then makes, and a second setup makes none."""
    dry, first, second = (
        bucket(settings, "setup", "--cors-origin", "https://app.example", *more) for more in (["--dry-run"], [], [])
    )
    assert [done.returncode for done in (dry, first, second)] == [0, 0, 0], first.stderr
    assert dry.stdout == first.stdout.replace(": set", ": would be set")
    assert '+ {"ID": "comfyui-modal-presigned-bucket-commands"' in first.stdout
    assert second.stdout == "lifecycle: is as it should be\nCORS: is as it should be\n"


def test_an_additional_origin_is_shown_as_a_change(settings: dict[str, str]) -> None:
    """An additional origin is shown as the old and the new rule, and without an origin CORS is not changed."""
    bucket(settings, "setup", "--cors-origin", "https://app.example")
    changed = bucket(settings, "setup", "--cors-origin", "https://app.example", "--cors-origin", "https://b.example")
    assert [line[:4] for line in changed.stdout.splitlines()[2:]] == ["  - ", "  + "], changed.stdout
    assert bucket(settings, "setup").stdout == "lifecycle: is as it should be\n"


def test_a_key_without_permission_gets_advice(settings: dict[str, str]) -> None:
    """A setup without permission exits with code 1 and names the policy command, without a traceback or a secret."""
    refused = bucket(settings | {"COMFYUI_MODAL_S3_SECRET_KEY": "wrong-secret"}, "setup")
    assert (refused.returncode, "Traceback" in refused.stderr, "wrong-secret" in refused.stderr) == (1, False, False)
    assert "bucket policy --setup" in refused.stderr


def test_the_policies_are_printed(settings: dict[str, str]) -> None:
    """The policies are printed for the bucket and the folder of the settings."""
    name = settings["COMFYUI_MODAL_BUCKET"]
    assert json.loads(bucket(settings, "policy").stdout) == run_policy(name, "bucket-commands")
    assert json.loads(bucket(settings, "policy", "--setup", "--bucket", "b").stdout) == setup_policy("b")


@pytest.mark.parametrize("command", ["setup", "policy"])
def test_a_missing_bucket_setting_is_refused(command: str) -> None:
    """Without a bucket the commands exit with code 2 and name the missing setting."""
    refused = bucket({}, command)
    assert (refused.returncode, "COMFYUI_MODAL_BUCKET" in refused.stderr) == (2, True)
