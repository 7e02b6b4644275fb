"""Finds the inputs that a class's own check accepts only if they name an existing file.

Neither object_info nor the input's name shows this, so it is tried: the check gets a file's name twice, while the file
exists and after its deletion. The input is published only if the results differ. Runs in ComfyUI's process.
"""

import inspect
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LIMIT_S = 10.0
"""Seconds for all classes together. Checks are a pack's own code, which ComfyUI calls for every prompt."""
FILE, FOLDER = "file", "folder"
NAME = "probe.png"


class CheckedFiles:
    """`found` grows while `search` runs, so that a check that hangs hides no other.

    It has by class and input: `{"is": "file" or "folder", "below": "input" or "engine", "urls": bool, "empty": bool}`,
    and `"roots"` below "engine": the names in ComfyUI's working folder, and those in the root folder with a slash
    before them (only a slash if these are unknown). A path that begins with none of them does not exist.
    """

    def __init__(self, check_of: Callable[[Any], Any], input_folder: str) -> None:
        self.found: dict[str, dict[str, dict[str, Any]]] = {}
        self._check_of = check_of
        self._input = input_folder
        self._roots = _roots()

    def search(self, classes: Mapping[str, Any]) -> None:
        """Try every check, with files in the input folder, since a check may accept only those."""
        end = time.monotonic() + LIMIT_S
        # Hidden, since most lists of the input folder omit such names; one level down for those that do not.
        with suppress(OSError), tempfile.TemporaryDirectory(prefix=".comfyui-modal-", dir=self._input) as folder:
            for class_type, node_class in list(classes.items()):
                if time.monotonic() > end:
                    return
                with suppress(Exception):  # a pack's own code; ComfyUI logs its error when a prompt calls it
                    self._examine(class_type, node_class, Path(folder))

    def _examine(self, class_type: str, node_class: Any, folder: Path) -> None:
        check = self._check_of(node_class)
        name = _only_input(check)
        if name is None or not _is_text(node_class, name):
            return

        def accepts(value: str) -> bool:
            with suppress(Exception):
                return check(**{name: value}) is True  # as in ComfyUI's execution.py
            return False

        about = _trial(accepts, folder, self._roots)
        if about is not None:
            about["urls"] = accepts(f"https://{uuid.uuid4().hex}.invalid/{NAME}")
            about["empty"] = accepts("")
            self.found[class_type] = {name: about}


def _only_input(check: Any) -> str | None:
    """Return a check's single required input; None if it needs several, which cannot be tried one by one."""
    if check is None or inspect.iscoroutinefunction(check):
        return None
    taken = inspect.getfullargspec(check).args
    names = taken[1:] if inspect.ismethod(check) else taken
    return names[0] if len(names) == 1 and names[0] != "input_types" else None


def _is_text(node_class: Any, name: str) -> bool:
    groups = node_class.INPUT_TYPES()
    for group in ("required", "optional"):
        declared = groups.get(group, {})
        if name in list(declared):  # not `in declared`: some packs' dicts contain every name
            kind = declared[name][0]
            return isinstance(kind, list | tuple) or kind in ("STRING", "COMBO")
    return False


def _trial(accepts: Callable[[str], bool], folder: Path, roots: list[str]) -> dict[str, Any] | None:
    for kind in (FILE, FOLDER):
        below_input = f"{folder.name}/{NAME}"
        # Both paths are tried: a check that joins a name to its own folder also accepts an absolute path.
        paths = [str(folder / NAME), os.path.relpath(folder / NAME)]
        with _there(folder / NAME, kind):
            is_below_input = accepts(below_input)
            is_path = not is_below_input and all(map(accepts, paths))
        if is_below_input and not accepts(below_input):
            return {"is": kind, "below": "input"}
        if is_path and roots and not any(map(accepts, paths)):
            return {"is": kind, "below": "engine", "roots": roots}
    return None


@contextmanager
def _there(path: Path, kind: str) -> Iterator[None]:
    """Create a file, or a folder with a file in it, while the context is open."""
    file = path / NAME if kind == FOLDER else path
    file.parent.mkdir(exist_ok=True)
    file.touch()
    try:
        yield
    finally:
        file.unlink()
        if kind == FOLDER:
            path.rmdir()


def _roots() -> list[str]:
    """Return the roots; none on Windows, where ComfyUI alone checks paths."""
    if os.name != "posix":
        return []
    with suppress(OSError):
        return sorted([*(path.name for path in Path().iterdir()), *_at_the_root()])
    return []


def _at_the_root() -> list[str]:
    """Return the names in the root folder; only a slash if Landlock forbids its list, so that any path may exist."""
    with suppress(OSError):
        return [str(path) for path in Path("/").iterdir()]
    return ["/"]
