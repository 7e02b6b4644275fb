"""Settings are parsed once, passed on to child processes, and documented."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsError

from infra.local.processes import warn_of_unknown_variables
from infra.settings import ENV_PREFIX, DeploymentSettings, EngineSettings, Settings, format_errors, unknown_variables

DOCS = Path(__file__).parents[3] / "docs/reference/settings.md"

CLIENT_VARIABLES = {ENV_PREFIX + "API_URL", ENV_PREFIX + "API_KEY"}
"""The variables that `infra.cli.arguments` reads."""


def test_docs_name_every_setting_and_no_other() -> None:
    """docs/reference/settings.md lists exactly the settings that exist."""
    documented = set(re.findall(r"^\| `([A-Z0-9_]+)`", DOCS.read_text(), re.MULTILINE))
    fields = [*Settings.model_fields, *DeploymentSettings.model_fields]
    existing = {ENV_PREFIX + name.upper() for name in fields}
    existing |= {name.upper() for name in EngineSettings.model_fields}
    assert documented == existing | CLIENT_VARIABLES


def test_docs_list_the_settings_in_the_order_of_the_code() -> None:
    """Each table of docs/reference/settings.md has the order in which the code declares its settings."""
    for table in re.findall(r"(?:^\|.*\n)+", DOCS.read_text(), re.MULTILINE):
        listed = [name.lower() for name in re.findall(rf"^\| `{ENV_PREFIX}([A-Z0-9_]+)`", table, re.MULTILINE)]
        model = DeploymentSettings if "gpu" in listed else Settings
        assert [name for name in listed if name in model.model_fields] == [n for n in model.model_fields if n in listed]


def test_docs_give_the_default_and_the_meaning_of_each_setting() -> None:
    """A row of docs/reference/settings.md repeats the default and the description in the code."""
    text = DOCS.read_text()
    for name, field in (Settings.model_fields | DeploymentSettings.model_fields).items():
        row = next(line for line in text.splitlines() if f"`{ENV_PREFIX}{name.upper()}`" in line)
        assert field.description is not None
        assert field.description in row
        if not field.is_required():
            is_set = field.default not in (None, "", (), {})
            assert row.split(" | ")[1] == (f"`{field.default}`" if is_set else "unset")


def test_a_child_process_parses_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child process parses equal settings from `environment()`, secrets included."""
    settings = Settings(bucket="b", api_key=SecretStr("k"), lease_s=7.5, docs=False, engine_dir=Path("/e"))
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_half_a_pair_of_credentials_is_refused() -> None:
    """An access key without its secret is refused at start, not later by the bucket."""
    with pytest.raises(ValidationError, match="belong together"):
        Settings(bucket="b", s3_access_key=SecretStr("a"))


def test_a_webhook_secret_that_cannot_sign_is_refused() -> None:
    """An invalid webhook secret or signing key is refused, and the error does not repeat it."""
    for name, value in (("webhook_secret", "whsec_c2hvcnQ="), ("webhook_signing_key", "nonsense")):
        with pytest.raises(ValidationError) as refused:
            Settings(bucket="b", **{name: SecretStr(value)})  # type: ignore[arg-type]  # either of them
        assert value not in str(refused.value)


def test_secrets_are_not_shown() -> None:
    """The representation of the settings contains no secret."""
    shown = repr(Settings(bucket="b", api_key=SecretStr("very-secret")))
    assert "very-secret" not in shown


@pytest.mark.parametrize(
    ("name", "most"),
    [("upload_expires_s", 7 * 24 * 3600), ("output_expires_s", 7 * 24 * 3600), ("max_upload_bytes", 5 * 1024**3)],
)
def test_settings_beyond_the_limits_of_s3_are_refused(name: str, most: int) -> None:
    """Settings beyond the limits of S3, a URL lifetime of seven days and a PUT of 5 GiB, are refused at start."""
    assert getattr(Settings(bucket="b", **{name: most}), name) == most  # type: ignore[arg-type]  # any of them
    for beyond in (most + 1, 0):
        with pytest.raises(ValidationError, match=name):
            Settings(bucket="b", **{name: beyond})  # type: ignore[arg-type]  # as above


def test_an_invalid_setting_is_reported_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the environment variable and does not show the value, which may be a secret."""
    monkeypatch.setenv("COMFYUI_MODAL_MAX_NODES", "sesame")
    with pytest.raises(ValidationError) as refused:
        Settings(bucket="b")
    words = format_errors(refused.value)
    assert words.startswith("COMFYUI_MODAL_MAX_NODES: Input should be a valid integer")
    assert "sesame" not in words


@pytest.mark.parametrize("model", [Settings, DeploymentSettings])
@pytest.mark.parametrize("value", [math.inf, math.nan, 1e30])
def test_every_number_has_bounds(model: type[Settings | DeploymentSettings], value: float) -> None:
    """No setting takes a number that is not finite, or one with which a computation overflows."""
    schemas = model.model_json_schema()["properties"]
    numbers = {name for name, schema in schemas.items() if {"integer", "number"} & types_of(schema)}
    with pytest.raises(ValidationError) as refused:
        model(**{"bucket": "b", "gpu_prices": {"x": value}} | dict.fromkeys(numbers, value))  # type: ignore[arg-type]  # any
    expected = numbers | ({"gpu_prices"} if model is Settings else set())
    assert {error["loc"][0] for error in refused.value.errors()} == expected
    assert len(numbers) > 5


def types_of(schema: dict[str, Any]) -> set[str]:
    return {str(one.get("type")) for one in schema.get("anyOf", [schema])}


@pytest.mark.parametrize("name", ["s3_endpoint", "s3_public_endpoint", "public_url", "engine"])
@pytest.mark.parametrize(
    "url",
    [
        "http://user:sesame@127.0.0.1:9000",
        "http://sesame@127.0.0.1:9000",
        "http://127.0.0.1:9000?x=sesame",
        "http://127.0.0.1:9000/#sesame",
        "ftp://sesame",
        "javascript://sesame/%0Aalert(1)",
        "https://sesame.example/x\ny",
        "https://sesame.example/ x",
        "https://sesame.example;sandbox",
        "https://sesame.example:99999",
        "https://sesame.example\\x",
        "https://",
        "https://[sesame",
    ],
)
def test_a_url_with_a_secret_or_of_another_kind_is_refused(name: str, url: str) -> None:
    """A base URL with user, password, query, fragment, other scheme or malformed host is refused, and not repeated."""
    with pytest.raises(ValidationError) as refused:
        Settings(bucket="b", **{name: url})  # type: ignore[arg-type]  # any of them
    words = format_errors(refused.value)
    assert words.startswith(f"COMFYUI_MODAL_{name.upper()}: ")
    assert "sesame" not in words


def test_urls_as_they_are_used_are_taken() -> None:
    """Base URLs with a path, a port, a slash or an IPv6 address are taken, and an empty one counts as unset."""
    for url in ("https://x.example/storage/v1/s3", "http://10.0.0.1:9000/", "http://[::1]:9000", "https://MINIO_1"):
        assert Settings(bucket="b", s3_endpoint=url).s3_endpoint == url
    assert Settings(bucket="b", public_url="").public_url is None
    with pytest.raises(ValidationError):
        EngineSettings(comfyui_url="http://user:sesame@127.0.0.1:8188")


@pytest.mark.parametrize(
    "origin",
    [
        "https://a.example/",
        "https://a.example/x",
        "https://A.example",
        "https://a.example:443",
        "a.example",
        "null",
        "https://u@a.example",
        "https://*.a.example",
        "",
    ],
)
def test_a_text_that_no_browser_sends_as_origin_is_refused(origin: str) -> None:
    """An origin for CORS that would never match is refused at start."""
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(bucket="b", cors_origins=(origin,))
    good = ("https://a.example", "http://localhost:3000", "http://[::1]:3000", "*")
    assert Settings(bucket="b", cors_origins=good).cors_origins == good


@pytest.mark.parametrize("name", ["s3_region", "webhook_origin"])
def test_a_setting_that_stands_in_a_header_is_one_word(name: str) -> None:
    """A setting that is sent in a header has no line ends and no spaces."""
    with pytest.raises(ValidationError, match=name):
        Settings(bucket="b", **{name: "x\r\ny: z"})  # type: ignore[arg-type]  # either of them


def test_a_setting_with_invalid_json_is_reported_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list or table setting that is not valid JSON is reported by its name."""
    monkeypatch.setenv("COMFYUI_MODAL_CORS_ORIGINS", "https://app.example")
    with pytest.raises(SettingsError) as refused:
        Settings(bucket="b")
    assert format_errors(refused.value) == "COMFYUI_MODAL_CORS_ORIGINS is not JSON"


def test_an_unknown_variable_is_reported() -> None:
    """An unknown COMFYUI_MODAL_* variable is reported, because a misspelt limit would have no effect."""
    names = ("COMFYUI_MODAL_MAX_NODE", "COMFYUI_MODAL_API_URL", "COMFYUI_MODAL_GPU", "COMFYUI_DIR", "PATH")
    (line,) = unknown_variables(names)
    assert line.startswith("COMFYUI_MODAL_MAX_NODE is no setting: did you mean COMFYUI_MODAL_MAX_NODES")


def test_a_process_of_its_own_logs_unknown_variables(caplog: pytest.LogCaptureFixture) -> None:
    """A process that `up` has not started logs a variable that is no setting; one that it has started does not."""
    warn_of_unknown_variables(Settings(bucket="b", readiness_file=Path("r")), ["COMFYUI_MODAL_MAX_NODE"])
    assert caplog.text == ""
    warn_of_unknown_variables(Settings(bucket="b"), ["COMFYUI_MODAL_MAX_NODE", "COMFYUI_MODAL_MAX_NODES"])
    assert "COMFYUI_MODAL_MAX_NODE is no setting" in caplog.text


def test_snapshots_are_on_by_default_for_comfyui() -> None:
    """Snapshots are on by default for ComfyUI, and on for the lite engine only if they are named."""
    assert DeploymentSettings().snapshot_kind == "cpu"
    assert DeploymentSettings(image="lite").snapshot_kind == "off"
    assert DeploymentSettings(snapshot="off").snapshot_kind == "off"
    assert DeploymentSettings(image="lite", snapshot="gpu").snapshot_kind == "gpu"
