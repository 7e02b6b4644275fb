"""The manifest of custom nodes: which are built into the image, and at which commit."""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from infra.manifests import BadManifest, read_manifest, refuse_twins


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
    nodes = read_manifest(path, _Manifest).node
    refuse_twins(path, (node.name for node in nodes))
    return nodes


def shell_quoted(requirement: str) -> str:
    """A requirement as one word of a shell; ValueError for what is none."""
    if not re.fullmatch(r"[A-Za-z0-9._\-\[\],<>=!~ ]+", requirement):
        raise BadManifest(f"not a requirement: {requirement!r}")
    return f"'{requirement}'"
