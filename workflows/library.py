"""Loads the named workflows: those shipped with the package, and those of a user's own folder."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType

from workflows.manifest import BadWorkflow, NamedWorkflow, named_workflow, parse_manifest

SUFFIX = ".toml"


@cache
def shipped() -> Mapping[str, NamedWorkflow]:
    """Return the shipped workflows by name, sorted. They are read once in a process."""
    return MappingProxyType(_read(files("workflows"), files("workflows.examples")))


def library(folder: Path | None = None) -> Mapping[str, NamedWorkflow]:
    """Return the shipped workflows and those of a folder. Raises `BadWorkflow`, also for a name that is shipped."""
    known = shipped()
    if folder is None:
        return known
    if not folder.is_dir():
        raise BadWorkflow(f"{folder} is not a folder of workflows")
    own = _read(folder)
    # A folder cannot replace a shipped workflow: clients must be able to rely on what a name runs.
    if taken := own.keys() & known.keys():
        raise BadWorkflow(f"{folder}: {', '.join(sorted(taken))} is shipped; choose another name")
    return dict(sorted({**known, **own}.items()))


def _read(*folders: Traversable) -> dict[str, NamedWorkflow]:
    found = dict(_workflows(folders))
    return dict(sorted(found.items()))


def _workflows(folders: Iterable[Traversable]) -> Iterator[tuple[str, NamedWorkflow]]:
    for folder in folders:
        for entry in folder.iterdir():
            if entry.name.endswith(SUFFIX):
                name = entry.name.removesuffix(SUFFIX)
                yield name, _workflow(folder, name)


def _workflow(folder: Traversable, name: str) -> NamedWorkflow:
    manifest = parse_manifest(name, _text(folder, f"{name}{SUFFIX}", f"{name}{SUFFIX}"))
    graph = _text(folder, manifest.graph, f"{name}.toml: its graph {manifest.graph}")
    return named_workflow(name, manifest, graph)


def _text(folder: Traversable, file: str, subject: str) -> str:
    try:
        return (folder / file).read_text(encoding="utf-8")
    except OSError as error:
        raise BadWorkflow(f"{subject} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadWorkflow(f"{subject} is not UTF-8") from error
