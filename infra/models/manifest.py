"""The manifest of models: the files of a deployment, their sources, and the selection of some of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.manifests import BadManifest, read_manifest, refuse_twins
from workflows.library import library

HUB = "https://huggingface.co"
# No segment begins with a dot, so that no path leaves the models' folder.
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._ -]*"


class Model(BaseModel):
    """A model file. Its source is `path` in `repository` (on Hugging Face), or `url`.

    `revision` None means the newest; `sha256` and `size_bytes` None are recorded by the first sync. A URL that a
    workflow names is fetched by https and from public addresses only, since anybody may have written the workflow.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = Field(pattern=rf"^{_SEGMENT}$")
    file: str = Field(pattern=rf"^{_SEGMENT}(/{_SEGMENT})*$")
    repository: str | None = Field(None, pattern=rf"^{_SEGMENT}/{_SEGMENT}$")
    revision: str | None = Field(None, pattern=r"^[A-Za-z0-9._/-]+$")
    path: str | None = None
    url: str | None = Field(None, pattern=r"^https?://\S+$")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    size_bytes: int | None = Field(None, gt=0)
    licence: str | None = None
    gated: bool = False
    named_by: Literal["manifest", "workflow"] = "manifest"

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> "Model":
        if (self.url is None) == (self.repository is None) or (self.repository is None) != (self.path is None):
            raise ValueError("needs either url, or repository and path")
        return self

    @property
    def name(self) -> str:
        """The name `folder/file`, by which workflows refer to it, and its path on the volume."""
        return f"{self.folder}/{self.file}"

    def source(self, hub: str = HUB) -> str:
        if self.url is not None:
            return self.url
        return f"{hub}/{self.repository}/resolve/{quote(self.revision or 'main', safe='')}/{quote(self.path or '')}"


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: tuple[Model, ...] = ()


def models(path: Path) -> tuple[Model, ...]:
    """Return the models in the manifest's order. Raise `BadManifest`."""
    found = read_manifest(path, _Manifest).model
    refuse_twins(path, (model.name for model in found))
    return found


def chosen(models: Sequence[Model], only: Sequence[str] | None, folder: Path | None = None) -> tuple[Model, ...]:
    """Return the models that `only` names, or all of them if it is empty. `folder` holds the user's workflows.

    Raise `BadManifest` for an unknown name and for a workflow whose models the manifest lacks.
    """
    if not only:
        return tuple(models)
    names = {name for word in only for name in _named(models, word, folder)}
    return tuple(model for model in models if model.name in names)


def _named(models: Sequence[Model], word: str, folder: Path | None) -> list[str]:
    found = [model.name for model in models if word in (model.name, model.file, model.folder)]
    if found:
        return found
    workflow = library(folder).get(word)
    if workflow is None:
        raise BadManifest(f"{word!r} is neither a model of the manifest nor a workflow")
    if unknown := set(workflow.manifest.models) - {model.name for model in models}:
        raise BadManifest(f"the manifest has no {', '.join(sorted(unknown))}, which {word} needs")
    return list(workflow.manifest.models)
