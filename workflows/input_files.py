"""Whether an input file that a node names will be there: the job brings it, or the engine has it.

ComfyUI's upload widgets name a file of the input folder, which may lie in folders below it. A mark at the end names
another folder, `x.png [output]`; ComfyUI takes the mark away with the character before it. When a job starts, the
engine's output and temp folders are empty, and the input folder holds the job's files alone, unless the engine is a
ComfyUI that somebody else runs.
"""

import posixpath
import re
from dataclasses import dataclass
from typing import Any

from workflows.declarations import FileCheck
from workflows.errors import MissingMedium, WorkflowError
from workflows.location import Location, words

_MARK = re.compile(r".?\[(input|output|temp)\]\Z", re.DOTALL)
_URL = re.compile(r"(https?|s3|gs|ftp|data|blob|file):", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
_PATTERN = re.compile(r"[%*?\[]")
"""Of a name that stands for several files."""
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,8}\Z")
_CLIPSPACE = "clipspace/"


@dataclass(frozen=True, slots=True)
class Files:
    """`are_known`: the loaders' lists of files can be believed. `brought` are the names that the job adds to the input
    folder; None if that is not known."""

    are_known: bool
    brought: frozenset[str] | None

    def brings(self, name: str) -> bool:
        return self.brought is not None and posixpath.normpath(name) in self.brought

    def lacks(self, name: Any) -> bool:
        """Surely not in the input folder."""
        if not self.are_known or self.brought is None:
            return False
        return not isinstance(name, str) or not self.brings(folder_and_name(name)[1])


def folder_and_name(value: str) -> tuple[str, str]:
    """The folder that a value names, `input` without a mark, and the file's name in it."""
    mark = _MARK.search(value)
    return (mark[1], value[: mark.start()]) if mark else ("input", value)


def check_file(location: Location, value: Any, files: Files) -> WorkflowError | None:
    """Of an upload widget. What the engine lists, it has.

    A custom node may take more than files in such an input (a word, a URL), so there only what is named like a file
    must be one. Only lists that can be believed refuse a name that may be there.
    """
    declared, kind = location.declared, location.declared.uploads
    if not kind or files.brought is None or value in (declared.choices or ()):
        return None
    if value == "" and (kind == "file" or not declared.is_combo):  # ComfyUI's own word for no file at all
        return None
    if not isinstance(value, str):
        return missing_medium(location, value) if files.lacks(value) and not location.is_custom else None
    folder, name = folder_and_name(value)
    if files.brings(name) and folder == "input":
        return None
    if location.is_custom:
        return missing_medium(location, value) if _EXTENSION.search(name) and files.lacks(value) else None
    if _URL.match(value):
        return missing_medium(location, value, _FETCH)
    if name.startswith(_CLIPSPACE):
        return missing_medium(location, value, _SAVE_CLIPSPACE)
    if folder != "input":
        return missing_medium(location, value, f"the {folder} folder is empty when a job starts: {_SEND}")
    return missing_medium(location, value) if files.lacks(value) else None


def check_existence(location: Location, value: Any, files: Files) -> WorkflowError | None:
    """Of an input that the class lets name existing files alone. Only what surely does not exist is refused."""
    about = location.about.files.get(location.declared.name)
    if about is None or location.declared.uploads or not files.are_known or files.brought is None:
        return None
    if not isinstance(value, str) or value in (location.declared.choices or ()):
        return None
    # Packs take blanks and quotes away from what people paste, or do not.
    for form in {value, value.strip().strip("\"'").strip()}:
        if not form:
            if about.empty:
                return None
        elif (about.urls and _WEB.match(form)) or _may_exist(form, about, files.brought):
            return None
    if about.is_folder:
        return missing_medium(location, value, _SEND_FOLDER)
    return missing_medium(location, value, _SEND if about.roots is None else _SEND_OR_PATH)


def _may_exist(name: str, about: FileCheck, brought: frozenset[str]) -> bool:
    if about.roots is not None:
        root = "/" if name.startswith("/") else ""
        first = name.lstrip("/").partition("/")[0]
        return first in ("", ".", "..") or f"{root}{first}" in about.roots or bool(root and root in about.roots)
    folder, name = folder_and_name(name)
    path = posixpath.normpath(name)
    if folder != "input":
        return about.is_folder and path == "."
    if path == "." or path.startswith(("/", "..")) or _PATTERN.search(path):
        return True
    return any(one.startswith(f"{path}/") for one in brought) if about.is_folder else path in brought


_SEND = "send the file in `media` under this name, or as an input of type image_url or image_base64"
_SEND_FOLDER = "send its files in `media`, each under a name with this folder before it"
_SEND_OR_PATH = (
    "this node reads paths of the engine's machine: send the file in `media`, and name it by a node that reads the "
    "input folder, such as LoadImage"
)
_FETCH = "a loader reads files: send the URL as `media[].url`, or as an input of type image_url"
_SAVE_CLIPSPACE = (
    "clipspace files are in your editor's ComfyUI alone: save the mask as a file, and send it in `media` under a name "
    "of its own"
)


def missing_medium(location: Location, value: Any, hint: str = _SEND) -> WorkflowError:
    name = location.declared.name
    return location.fault(
        MissingMedium,
        f"{location.words} needs the file {words(value)}, which the job does not bring",
        (
            "custom_validation_failed",
            "Custom validation failed for node",
            f"{name} - Invalid {location.declared.uploads or 'input'} file: {words(value, str)}",
        ),
        hint,
    )
