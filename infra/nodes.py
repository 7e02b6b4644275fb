"""The manifest of custom nodes: which are built into the image, and at which commit."""

import re
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class BadManifest(ValueError):
    """The manifest is not usable; the message names the file and the field."""


class CustomNode(BaseModel):
    """`requirements`: Python packages beside those of its own requirements.txt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    repository: str = Field(pattern=r"^https://[^\s'\"]+$")
    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    requirements: tuple[str, ...] = ()


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    node: tuple[CustomNode, ...] = ()


def custom_nodes(path: Path) -> tuple[CustomNode, ...]:
    """In the manifest's order; `BadManifest`."""
    try:
        nodes = _Manifest.model_validate(tomllib.loads(path.read_text())).node
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadManifest(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadManifest(f"{path}: {where}: {first['msg']}") from error
    names = [node.name.casefold() for node in nodes]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BadManifest(f"{path}: {', '.join(sorted(twice))} stands there twice")
    return nodes


def shell_quoted(requirement: str) -> str:
    """A requirement as one word of a shell; ValueError for what is none."""
    if not re.fullmatch(r"[A-Za-z0-9._\-\[\],<>=!~ ]+", requirement):
        raise BadManifest(f"not a requirement: {requirement!r}")
    return f"'{requirement}'"
