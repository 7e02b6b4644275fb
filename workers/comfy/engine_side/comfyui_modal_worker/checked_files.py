"""Which inputs a class accepts only where they name a file that exists, as its own check says.

Neither object_info nor a name shows it, but a trial does: the check is given a file's name twice, while the file is
there and when it is gone. Only where the answers differ in this way, the input is published. Runs in ComfyUI's process.
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
"""For all classes together: checks are a pack's own code, and ComfyUI calls them for every prompt."""
FILE, FOLDER = "file", "folder"
NAME = "probe.png"


class CheckedFiles:
    """`found` grows while `search` runs, so that a check that hangs hides no other.

    By class and input: `{"is": "file" or "folder", "below": "input" or "engine", "urls": bool, "empty": bool}`, and
    `"roots"` where it is below "engine": the names in ComfyUI's working folder, and those at the root with a slash
    before them (a slash alone where these are not known). A path that begins with none of them leads nowhere.
    """

    def __init__(self, check_of: Callable[[Any], Any], input_folder: str) -> None:
        self.found: dict[str, dict[str, dict[str, Any]]] = {}
        self._check_of = check_of
        self._input = input_folder
        self._roots = _roots()

    def search(self, classes: Mapping[str, Any]) -> None:
        """Within the input folder: a check may confine its files to it."""
        end = time.monotonic() + LIMIT_S
        # Hidden, as lists of the input folder leave such names out, and one level down for those that do not.
        with suppress(OSError), tempfile.TemporaryDirectory(prefix=".comfyui-modal-", dir=self._input) as folder:
            for class_type, node_class in list(classes.items()):
                if time.monotonic() > end:
                    return
                with suppress(Exception):  # a pack's own code; ComfyUI's log says it when a prompt calls it
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
    """Of a check that needs several, one alone says nothing."""
    if check is None or inspect.iscoroutinefunction(check):
        return None
    taken = inspect.getfullargspec(check).args
    names = taken[1:] if inspect.ismethod(check) else taken
    return names[0] if len(names) == 1 and names[0] != "input_types" else None


def _is_text(node_class: Any, name: str) -> bool:
    groups = node_class.INPUT_TYPES()
    for group in ("required", "optional"):
        declared = groups.get(group, {})
        if name in list(declared):  # not by `in` the dict: some packs' contain every name
            kind = declared[name][0]
            return isinstance(kind, list | tuple) or kind in ("STRING", "COMBO")
    return False


def _trial(accepts: Callable[[str], bool], folder: Path, roots: list[str]) -> dict[str, Any] | None:
    for kind in (FILE, FOLDER):
        below_input = f"{folder.name}/{NAME}"
        # By both of its paths: a check that joins what it gets to a folder of its own takes an absolute one as well.
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
    """A file, or a folder with a file in it, for a while."""
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
    """Nothing where paths have drives and two separators: there a path is left to ComfyUI."""
    if os.name != "posix":
        return []
    with suppress(OSError):
        return sorted([*(path.name for path in Path().iterdir()), *_at_the_root()])
    return []


def _at_the_root() -> list[str]:
    """A slash alone where Landlock lets nothing list the root: any path may be there."""
    with suppress(OSError):
        return [str(path) for path in Path("/").iterdir()]
    return ["/"]
