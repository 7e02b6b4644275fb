"""Checks whether an input file that a node names will exist: the job brings it, or the engine has it.

ComfyUI's upload widgets name a file in or below the input folder. A mark at the end names another folder,
`x.png [output]`; ComfyUI removes the mark with the character before it. When a job starts, the engine's output and temp
folders are empty, and the input folder has only the job's files, unless the engine is a ComfyUI that runs elsewhere.
"""

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workflows.declarations import FileCheck, NodeDeclaration
from workflows.errors import MissingInputFile, WorkflowError
from workflows.graph import Graph
from workflows.location import Location, plain, words

_MARK = re.compile(r".?\[(input|output|temp)\]\Z", re.DOTALL)
_URL = re.compile(r"(https?|s3|gs|ftp|data|blob|file):", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
_PATTERN = re.compile(r"[%*?\[]")
"""A name that stands for several files."""
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,8}\Z")
_CLIPSPACE = "clipspace/"


@dataclass(frozen=True, slots=True)
class Files:
    """The files that a job can use. `are_known` says that the loaders' lists of files are current.

    `brought` are the names that the job adds to the input folder, or None if they are not known.
    """

    are_known: bool
    brought: frozenset[str] | None

    def brings(self, name: str) -> bool:
        return self.brought is not None and posixpath.normpath(name) in self.brought

    def lacks(self, name: Any) -> bool:
        """Report whether the file is certainly not in the input folder."""
        if not self.are_known or self.brought is None:
            return False
        return not isinstance(name, str) or not self.brings(folder_and_name(name)[1])


def folder_and_name(value: str) -> tuple[str, str]:
    """Split a value into the folder of its mark, `input` without one, and the file's name in the folder."""
    mark = _MARK.search(value)
    return (mark[1], value[: mark.start()]) if mark else ("input", value)


def needed_files(graph: Graph, declaration: Callable[[str], NodeDeclaration]) -> dict[str, str]:
    """Return the files that upload widgets of the graph name and the engine does not list, with their kinds.

    Only files of the input folder are named: a job cannot bring others.
    """
    found: dict[str, str] = {}
    for node in graph.nodes.values():
        for declared in declaration(node.class_type).inputs.values():
            value = node.inputs.get(declared.name)
            if not declared.uploads or not isinstance(value, str) or not value or declared.offers(value):
                continue
            folder, name = folder_and_name(value)
            if folder == "input" and not _URL.match(value) and not name.startswith(_CLIPSPACE):
                found.setdefault(name, declared.uploads)
    return found


def check_file(location: Location, value: Any, files: Files) -> WorkflowError | None:
    """Check the value of an upload widget. A listed file exists, and only current lists can refuse a file."""
    declared, kind = location.declared, location.declared.uploads
    if not kind or files.brought is None or value in (declared.choices or ()):
        return None
    if value == "" and (kind == "file" or not declared.is_combo):  # ComfyUI's own value for "no file"
        return None
    if not isinstance(value, str):
        return missing_input_file(location, value) if files.lacks(value) and not location.is_custom else None
    folder, name = folder_and_name(value)
    if files.brings(name) and folder == "input":
        return None
    if location.is_custom:
        # A custom node may accept a word or a URL here, so only a value with a file extension must be a file.
        return missing_input_file(location, value) if _EXTENSION.search(name) and files.lacks(value) else None
    if _URL.match(value):
        return missing_input_file(location, value, _FETCH)
    if name.startswith(_CLIPSPACE):
        return missing_input_file(location, value, _SAVE_CLIPSPACE)
    if folder != "input":
        return missing_input_file(location, value, f"the {folder} folder is empty when a job starts: {_SEND}")
    return missing_input_file(location, value) if files.lacks(value) else None


def check_existence(location: Location, value: Any, files: Files) -> WorkflowError | None:
    """Check an input whose class accepts only existing files. Only files that certainly do not exist are refused."""
    about = location.about.files.get(location.declared.name)
    if about is None or location.declared.uploads or not files.are_known or files.brought is None:
        return None
    if not isinstance(value, str) or value in (location.declared.choices or ()):
        return None
    # Some packs strip blanks and quotes around pasted paths and some do not, so both forms are accepted.
    for form in {value, value.strip().strip("\"'").strip()}:
        if not form:
            if about.empty:
                return None
        elif (about.urls and _WEB.match(form)) or _may_exist(form, about, files.brought):
            return None
    if about.is_folder:
        return missing_input_file(location, value, _SEND_FOLDER)
    return missing_input_file(location, value, _SEND if about.roots is None else _SEND_OR_PATH)


def _may_exist(name: str, about: FileCheck, brought: frozenset[str]) -> bool:
    if about.roots is not None:
        root = "/" if name.startswith("/") else ""
        first = name.lstrip("/").partition("/")[0]
        # Only the first part is compared: what lies below a root on the engine's machine is not known.
        return first in ("", ".", "..") or f"{root}{first}" in about.roots or bool(root and root in about.roots)
    folder, name = folder_and_name(name)
    path = posixpath.normpath(name)
    if folder != "input":
        return about.is_folder and path == "."
    # A path that leaves the input folder, or a pattern: whether it exists is not known here.
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


def missing_input_file(location: Location, value: Any, hint: str = _SEND) -> WorkflowError:
    name = location.declared.name
    return location.fault(
        MissingInputFile,
        f"{location.words} needs the file {words(value)}, which the job does not bring",
        (
            "custom_validation_failed",
            "Custom validation failed for node",
            f"{name} - Invalid {location.declared.uploads or 'input'} file: {plain(value)}",
        ),
        hint,
    )
