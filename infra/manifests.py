"""Reads and validates manifests: TOML files that the operator writes."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

Manifest = TypeVar("Manifest", bound=BaseModel)


class BadManifest(ValueError):
    """The manifest is invalid. The message names the file and the field."""


ROOT = Path(__file__).parents[1]
"""The folder to which the paths of shipped manifests are relative."""


def located(path: Path) -> Path:
    """Resolve a path against the working directory or, if nothing is there, against the code's folder."""
    return path if path.exists() else ROOT / path


def read_manifest(path: Path, model: type[Manifest]) -> Manifest:
    """Read a manifest. Raise `BadManifest` for a file that is unreadable, no TOML, or does not fit the model."""
    try:
        return model.model_validate(tomllib.loads(path.read_text()))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadManifest(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadManifest(f"{path}: {where}: {first['msg']}") from error


def refuse_twins(path: Path, names: Iterable[str]) -> None:
    """Raise `BadManifest` for names that differ only in case, which some file systems do not distinguish."""
    folded = [name.casefold() for name in names]
    if twice := {name for name in folded if folded.count(name) > 1}:
        raise BadManifest(f"{path}: {', '.join(sorted(twice))} stands there twice")
