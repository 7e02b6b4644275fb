"""The files in the data folder of `comfyui-modal up` from which clients learn its credentials and addresses."""

import os
import secrets
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from infra.settings import Settings
from storage.webhooks.signing import new_secret

Text = Annotated[str, Field(min_length=1)]


class BadCredentials(Exception):
    """The credentials of a data folder are damaged. The message says what to do, and repeats no value."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} is damaged: {reason}\n"
            "  → put a copy of it back, or remove it: the next start makes new keys, which your clients and webhook "
            "receivers then need. Jobs and files stay"
        )


class Credentials(BaseModel):
    """The credentials of a data folder, generated once."""

    model_config = ConfigDict(frozen=True)

    api_key: Text
    access_key: Text
    secret_key: Text
    webhook_secret: Text = Field(default_factory=new_secret)

    @classmethod
    def of(cls, data: Path) -> "Credentials":
        """Read or generate the credentials of a folder, and add those that an older version did not generate.

        Raises `BadCredentials`.
        """
        path = data / "credentials.json"
        if path.exists():
            try:
                kept = cls.model_validate_json(path.read_bytes())
            except ValidationError as error:
                first = error.errors(include_input=False)[0]  # an input is a secret
                place = ".".join(map(str, first["loc"]))
                raise BadCredentials(path, f"{place}: {first['msg']}" if place else first["msg"]) from None
            replace_private(path, kept.model_dump_json(indent=2))
            return kept
        made = cls(
            api_key=f"ck_local_{secrets.token_urlsafe(24)}",
            access_key=secrets.token_hex(10).upper(),
            secret_key=secrets.token_urlsafe(30),
        )
        replace_private(path, made.model_dump_json(indent=2))
        return made


class Connection(BaseModel):
    """The content of connection.json: how to reach the running processes."""

    model_config = ConfigDict(frozen=True)

    api_url: str
    api_key: str
    s3_endpoint: str | None
    bucket: str
    region: str
    prefix: str = ""
    access_key: str | None
    secret_key: str | None
    webhook_secret: str | None = None
    comfyui_url: str | None
    comfyui_urls: dict[str, str]
    processes: dict[str, int]

    @classmethod
    def of(cls, data: Path) -> "Connection | None":
        """Read the connection of what runs in this data folder; None if nothing does."""
        try:
            return cls.model_validate_json((data / "connection.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, data: Path) -> None:
        replace_private(data / "connection.json", self.model_dump_json(indent=2) + "\n")

    def settings(self) -> Settings:
        """Return settings that suffice to reach the bucket."""
        return Settings(
            bucket=self.bucket,
            s3_endpoint=self.s3_endpoint,
            s3_region=self.region,
            s3_prefix=self.prefix,
            s3_access_key=SecretStr(self.access_key) if self.access_key else None,
            s3_secret_key=SecretStr(self.secret_key) if self.secret_key else None,
        )


def replace_private(path: Path, text: str) -> None:
    """Replace a file atomically. Only its owner can read it."""
    draft = path.with_name(path.name + ".draft")
    # Created with its mode: after a later chmod others might already have opened it.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)
