"""Removes the files that an engine's code left in a folder, whatever their depth and modes.

`shutil.rmtree` is recursive up to Python 3.12: a few hundred nested folders, which a file name in a graph can create,
end it with a RecursionError.
"""

import contextlib
import os
import uuid
from pathlib import Path


def empty_tree(folder: Path) -> None:
    """Remove the content of a folder. Raises `OSError` if something cannot be removed.

    No link is followed.
    """
    top = _opened(str(folder))
    try:
        waiting = _emptied(top, top)
        while waiting:
            name = waiting.pop()
            with contextlib.suppress(FileNotFoundError):
                # Nested folders move up before they are emptied, so that no path becomes too long or too deep.
                waiting += _contents_moved(name, top)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def remove_tree(path: Path) -> None:
    """Remove a file, a link or a folder with its content; a missing path is not an error."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            empty_tree(path)
            path.rmdir()
        else:
            path.unlink()


def _contents_moved(name: str, top: int) -> list[str]:
    folder = _opened(name, top)
    try:
        return _emptied(folder, top)
    finally:
        os.close(folder)


def _emptied(folder: int, top: int) -> list[str]:
    """Empty a folder and move its subfolders to `top`; return their names there."""
    found = []
    with os.scandir(folder) as entries:
        # Listed as a whole first, since the folder changes while it is emptied.
        listed = list(entries)
    for entry in listed:
        with contextlib.suppress(FileNotFoundError):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=folder)
            elif folder == top:
                found.append(entry.name)
            else:
                _made_accessible(entry.name, folder)  # moving a folder changes its `..` entry
                name = uuid.uuid4().hex
                os.rename(entry.name, name, src_dir_fd=folder, dst_dir_fd=top)
                found.append(name)
    return found


def _opened(name: str, parent: int | None = None) -> int:
    _made_accessible(name, parent)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def _made_accessible(name: str, parent: int | None) -> None:
    """Restore the modes of a folder of the worker's own user."""
    # Root needs no modes, and must not change the target of a link that replaced the folder.
    if os.geteuid() != 0 and not os.access(name, os.R_OK | os.W_OK | os.X_OK, dir_fd=parent):
        os.chmod(name, 0o700, dir_fd=parent)
