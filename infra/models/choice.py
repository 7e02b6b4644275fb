"""Which models of a manifest are meant: by their own name, or by a workflow that needs them."""

from collections.abc import Sequence

from infra.models.manifest import Model
from infra.nodes import BadManifest
from workflows import examples


def chosen(models: Sequence[Model], only: Sequence[str] | None) -> tuple[Model, ...]:
    """All of them where nothing is named. `BadManifest` for a name that means nothing, and for a workflow whose
    models the manifest lacks."""
    if not only:
        return tuple(models)
    names = {name for word in only for name in _named(models, word)}
    return tuple(model for model in models if model.name in names)


def _named(models: Sequence[Model], word: str) -> list[str]:
    found = [model.name for model in models if word in (model.name, model.file, model.folder)]
    if found:
        return found
    if word not in examples.names():
        raise BadManifest(f"{word!r} is neither a model of the manifest nor a workflow that is shipped")
    return []
