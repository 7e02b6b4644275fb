"""Selects models of a manifest by their names, or by the workflows that need them."""

from collections.abc import Sequence
from pathlib import Path

from infra.manifests import BadManifest
from infra.models.manifest import Model
from workflows.library import library


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
