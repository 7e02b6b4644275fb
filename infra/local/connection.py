"""What `comfyui-modal up` keeps in its data folder for others: its credentials, and how to reach what runs."""

import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from infra.local.readiness import replace_private
from infra.settings import Settings
from storage.webhooks.signing import new_secret


class Credentials(BaseModel):
    """Made once a data folder."""

    model_config = ConfigDict(frozen=True)

    api_key: str
    access_key: str
    secret_key: str
    webhook_secret: str = Field(default_factory=new_secret)

    @classmethod
    def of(cls, data: Path) -> "Credentials":
        """Those of the folder; what an older version did not make yet is added."""
        path = data / "credentials.json"
        if path.exists():
            kept = cls.model_validate_json(path.read_bytes())
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
    """The content of connection.json."""

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
        """What runs in this data folder; None if nothing does."""
        try:
            return cls.model_validate_json((data / "connection.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, data: Path) -> None:
        replace_private(data / "connection.json", self.model_dump_json(indent=2) + "\n")

    def settings(self) -> Settings:
        """Enough to reach the bucket."""
        return Settings(
            bucket=self.bucket,
            s3_endpoint=self.s3_endpoint,
            s3_region=self.region,
            s3_prefix=self.prefix,
            s3_access_key=SecretStr(self.access_key) if self.access_key else None,
            s3_secret_key=SecretStr(self.secret_key) if self.secret_key else None,
        )
