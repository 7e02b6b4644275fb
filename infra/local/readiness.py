"""The readiness file of a local process, which `comfyui-modal up` reads. It is replaced atomically."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError


class Readiness(BaseModel):
    """The readiness of a process. A worker adds `engine_url` and `engine_pid` when its engine is ready."""

    model_config = ConfigDict(frozen=True)

    pid: int
    engine_url: str | None = None
    engine_pid: int | None = None


def announce(path: Path, presence: Readiness) -> None:
    replace_private(path, presence.model_dump_json())


def readiness_of(path: Path, pid: int | None) -> Readiness | None:
    """Return the readiness of the process with this pid; None if the file is missing or of an earlier process."""
    try:
        presence = Readiness.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return presence if presence.pid == pid else None


def replace_private(path: Path, text: str) -> None:
    """Replace a file atomically. Only its owner can read it."""
    draft = path.with_name(path.name + ".draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)
