"""Manifests: TOML files of the operator's, read and checked before anything is done with them."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

Manifest = TypeVar("Manifest", bound=BaseModel)


class BadManifest(ValueError):
    """The manifest is not usable; the message names the file and the field."""


ROOT = Path(__file__).parents[1]
"""The folder with the shipped manifests, which settings name from there."""


def located(path: Path) -> Path:
    """A manifest as a person names it, from the working directory, or as a setting does, from the code's folder."""
    return path if path.exists() else ROOT / path


def read_manifest(path: Path, model: type[Manifest]) -> Manifest:
    """`BadManifest` for a file that cannot be read, is no TOML, or does not fit the model."""
    try:
        return model.model_validate(tomllib.loads(path.read_text()))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadManifest(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadManifest(f"{path}: {where}: {first['msg']}") from error


def refuse_twins(path: Path, names: Iterable[str]) -> None:
    """`BadManifest` where two names are the same but for their case: some file systems take them for one."""
    folded = [name.casefold() for name in names]
    if twice := {name for name in folded if folded.count(name) > 1}:
        raise BadManifest(f"{path}: {', '.join(sorted(twice))} stands there twice")
