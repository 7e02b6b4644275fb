"""`secrets new`: the printed values are those that a deployment takes."""

import shlex

import pytest
from pydantic import SecretStr

from infra.cli.root import main
from infra.settings import Settings


def test_new_secrets_are_ready_to_paste(capsys: pytest.CaptureFixture[str]) -> None:
    """The .env form and the command line have the same values, which the settings accept and which differ each time."""
    assert main(["secrets", "new", "--ed25519"]) == 0
    dotenv, command = capsys.readouterr().out.split("\n\n")
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:4] == ["modal", "secret", "create", "comfyui-modal-api"]
    assert words[4:] == dotenv.splitlines()
    values = dict(line.split("=", 1) for line in dotenv.splitlines())
    given = {name.removeprefix("COMFYUI_MODAL_").lower(): value for name, value in values.items()}
    settings = Settings.model_validate(given)
    assert isinstance(settings.webhook_signing_key, SecretStr)
    assert main(["secrets", "new", "--format", "env"]) == 0
    again = capsys.readouterr().out
    assert not set(again.splitlines()) & {f"{name}={value}" for name, value in values.items() if "YOUR_" not in value}
