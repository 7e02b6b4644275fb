"""The manifest of custom nodes that are built into the image, each at a commit."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from infra.manifests import BadManifest, read_manifest, refuse_twins
from workflows.suggestions import suggestion

ALL_PACKS = "all"
_Folder = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


def _whole_commit(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{40}", text):
        raise ValueError(f'"{text}" is not a whole commit, which has 40 hexadecimal digits (`git rev-parse HEAD`)')
    return text


class CustomNode(BaseModel):
    """A pack of custom nodes. One named `PACK/FOLDER` is a dependency that another pack expects in its folder.

    `requirements_file` names the pack's list of Python packages, which may be missing; empty means none.
    `requirements` are additional packages. `links` are folders of the pack that are replaced by folders of the models'
    volume.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$")
    repository: str = Field(pattern=r"^https://[^\s'\"]+$")
    commit: Annotated[str, AfterValidator(_whole_commit)]
    requirements_file: str = Field("requirements.txt", pattern=r"^[A-Za-z0-9._/-]*$")
    requirements: tuple[str, ...] = ()
    links: dict[_Folder, _Folder] = Field(default_factory=dict)


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    node: tuple[CustomNode, ...] = ()


def custom_nodes(path: Path, packs: str = ALL_PACKS) -> tuple[CustomNode, ...]:
    """Return the nodes that `packs` names, comma-separated, in the manifest's order. Raise `BadManifest`."""
    nodes = read_manifest(path, _Manifest).node
    refuse_twins(path, (node.name for node in nodes))
    return nodes if packs == ALL_PACKS else _chosen(path, nodes, packs)


def _chosen(path: Path, nodes: Sequence[CustomNode], packs: str) -> tuple[CustomNode, ...]:
    names = {name.strip() for name in packs.split(",") if name.strip()}
    known = {node.name.partition("/")[0] for node in nodes}
    if unknown := sorted(names - known):
        hint = suggestion(unknown[0], known) or f"it has {', '.join(sorted(known))}"
        raise BadManifest(f"{path} has no pack {unknown[0]}: {hint}")
    return tuple(node for node in nodes if node.name.partition("/")[0] in names)


def shell_quoted(requirement: str) -> str:
    """Quote a requirement as one word of a shell. Raise ValueError for any other text."""
    if not re.fullmatch(r"[A-Za-z0-9._\-\[\],<>=!~ ]+", requirement):
        raise BadManifest(f"not a requirement: {requirement!r}")
    return f"'{requirement}'"
