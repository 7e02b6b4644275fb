"""`comfyui-modal keys` and the use of its keys, on real processes."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from storage.bucket.s3 import S3Config
from storage.webhooks.signing import new_secret, tenant_secret
from tests.support.api_process import api_process, bucket_variables
from tests.support.commands import run_command
from tests.support.environment import clean_environment
from tests.support.plain_http import NO_TLS


def keys(settings: dict[str, str], *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = run_command("infra.cli", "keys", *arguments, environment=clean_environment() | settings)
    assert done.returncode == code, done.stderr
    return done


def create_key(settings: dict[str, str], *arguments: str) -> dict[str, Any]:
    key: dict[str, Any] = json.loads(keys(settings, "create", *arguments, "--json").stdout)
    return key


def status_with(url: str, key: str) -> int:
    return httpx.get(
        f"{url}/v1/jobs", headers={"authorization": f"Bearer {key}"}, timeout=30, verify=NO_TLS
    ).status_code


@pytest.mark.soak("contract/test_access.py::test_a_revoked_key_is_refused_when_its_cache_entry_expires")
def test_running_processes_refuse_a_revoked_key(s3_config: S3Config) -> None:
    """Two processes that have cached a key refuse it within a minute of its revocation, and accept another key."""
    settings = bucket_variables(s3_config)
    kept, revoked = create_key(settings, "--tenant", "acme"), create_key(settings, "--tenant", "acme")
    with api_process(settings) as first, api_process(settings) as second:
        for url in (first, second):
            assert [status_with(url, key["key"]) for key in (kept, revoked)] == [200, 200]
        keys(settings, "revoke", revoked["kid"])
        deadline = time.monotonic() + 60
        while (answers := [status_with(url, revoked["key"]) for url in (first, second)]) != [401, 401]:
            assert time.monotonic() < deadline, answers
            time.sleep(0.5)
        assert [status_with(url, kept["key"]) for url in (first, second)] == [200, 200]


def test_a_new_process_refuses_a_revoked_key(s3_config: S3Config) -> None:
    """A process that starts later refuses a revoked key and accepts the others, and the list shows the states."""
    settings = bucket_variables(s3_config)
    kept, revoked = create_key(settings, "--tenant", "acme"), create_key(settings, "--tenant", "acme", "--name", "old")
    untrusted = create_key(settings, "--tenant", "acme", "--graphs", "strangers")
    keys(settings, "revoke", revoked["kid"])
    with api_process(settings) as url:
        assert [status_with(url, key["key"]) for key in (kept, revoked, untrusted)] == [200, 401, 200]
    listed = json.loads(keys(settings, "list", "--json").stdout)
    assert {key["kid"]: (key["state"], key["name"], key["graphs"]) for key in listed} == {
        kept["kid"]: ("live", None, None),
        revoked["kid"]: ("revoked", "old", None),
        untrusted["kid"]: ("live", None, "strangers"),
    }
    assert "strangers" in keys(settings, "list").stdout


def test_create_prints_only_the_key(s3_config: S3Config) -> None:
    """`keys create` prints only the key on standard output, and its hash only on request."""
    settings = bucket_variables(s3_config)
    done = keys(settings, "create", "--tenant", "acme", "--scopes", "admin")
    assert done.stdout.startswith("ck_live_")
    assert done.stdout.count("\n") == 1
    assert "Keep the key" in done.stderr
    listed = keys(settings, "list")
    assert "admin" in listed.stdout
    assert done.stdout.strip() not in listed.stdout
    record = json.loads(keys({}, "create", "--tenant", "acme", "--for-settings", "--json").stdout)["record"]
    assert (record["tenant"], len(record["sha256"])) == ("acme", 64)


def test_a_record_in_the_settings_is_accepted(s3_config: S3Config) -> None:
    """A key whose record is in the settings is accepted, as is the single key of the settings."""
    given = json.loads(keys({}, "create", "--tenant", "acme", "--for-settings", "--json").stdout)
    settings = bucket_variables(s3_config) | {
        "COMFYUI_MODAL_API_KEY": "the-first-key",
        "COMFYUI_MODAL_API_KEYS": json.dumps([given["record"]]),
    }
    with api_process(settings) as url:
        assert [status_with(url, key) for key in (given["key"], "the-first-key", given["key"][:-1])] == [200, 200, 401]
    (listed,) = [key for key in json.loads(keys(settings, "list", "--json").stdout) if key["from"] == "settings"]
    assert (listed["kid"], listed["tenant"]) == (given["record"]["kid"], "acme")
    shown = keys(settings, "list")
    assert "COMFYUI_MODAL_API_KEY is a key of the tenant default" in shown.stderr
    assert "the-first-key" not in shown.stdout + shown.stderr


def test_the_webhook_secret_of_a_tenant_is_printed() -> None:
    """A tenant's webhook secrets are printed, one per line during a rotation."""
    secrets = [new_secret(), new_secret()]
    environment = clean_environment() | {"COMFYUI_MODAL_WEBHOOK_SECRET": " ".join(secrets)}
    for tenant, code in (("default", 0), ("acme", 0), ("../x", 2)):
        done = run_command("infra.cli", "webhooks", "secret", "--tenant", tenant, environment=environment)
        expected = [tenant_secret(secret, tenant) for secret in secrets] if code == 0 else []
        assert (done.returncode, done.stdout.split()) == (code, expected)


def test_invalid_commands_are_refused(s3_config: S3Config, tmp_path: Path) -> None:
    """Invalid commands exit with code 2 without a traceback, and change no key."""
    settings = bucket_variables(s3_config)
    for arguments in (
        ("create", "--tenant", "../acme"),
        ("create", "--tenant", "acme", "--scopes", "jobs:all"),
        ("create", "--tenant", "acme", "--expires", "soon"),
        ("revoke", "aaaaaaaa"),
        ("revoke", "../../x"),
        ("list", "--data", str(tmp_path / "none")),
        ("list", "--data", str(tmp_path)),
    ):
        refused = keys(settings, *arguments, code=2)
        assert "Traceback" not in refused.stderr
        assert refused.stdout == ""
    assert json.loads(keys(settings, "list", "--json").stdout) == []
