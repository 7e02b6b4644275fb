"""What a job left behind outside ComfyUI's folders: processes, and files where every user may write.

What is there when the engine gets ready stays: node packs start helpers and make files when they are imported. Code
that a graph ran inside ComfyUI's own process is not found here; only a restart of the engine ends it.
"""

import contextlib
import ctypes
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from workers.supervise import children_of, kill_strays
from workers.trees import remove_tree

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where POSIX shared memory lies
OPEN_TO_ALL = (Path("/tmp"), Path("/var/tmp"), SHARED_MEMORY)  # noqa: S108
_WORLD_WRITABLE = 0o002
_ROUNDS, _ROUND_S = 20, 0.01
_SYSTEM_V = {"shm": "shmctl", "msg": "msgctl", "sem": "semctl"}
"""What lies below /proc/sysvipc, with the call that removes it: each takes IPC_RMID, which is 0, and no more."""


class Leftovers:
    """Of one engine process. `guard` is the pid of its guard, `user` the engine's own, None where it is the worker's.

    `folders` are the engine's alone, to be emptied of what is new.
    """

    def __init__(self, *, guard: int, user: int | None, folders: Sequence[Path]) -> None:
        self._guard = guard
        self._user = user
        self._folders = folders
        self._kept_processes = set(children_of(guard))
        self._kept_files = {_identity(path) for path in self._files()}

    def remove(self) -> None:
        """Processes first: they could write again. Never raises: what cannot be removed is a warning."""
        killed = kill_strays(self._guard, keep=self._kept_processes)
        removed = 0
        for path in self._files():
            try:
                if _identity(path) in self._kept_files or self._is_of_others(path):
                    continue
                remove_tree(path)
                removed += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                logger.warning("a job's file cannot be removed: %s", error)
        if self._user is not None:
            remove_shared_objects_of(self._user)
        if killed or removed:
            logger.info("a job left %d processes and %d files behind: removed", killed, removed)

    def _files(self) -> Iterator[Path]:
        for folder in self._folders:
            yield from _entries(folder)
        for folder in OPEN_TO_ALL if self._user is not None else (SHARED_MEMORY,):
            yield from self._own_files(folder, depth=2)

    def _own_files(self, folder: Path, depth: int) -> Iterator[Path]:
        """The engine can only have written into folders of its own, or into those that are open to all."""
        user = os.geteuid() if self._user is None else self._user
        for path in _entries(folder):
            with contextlib.suppress(OSError):
                status = path.lstat()
                if status.st_uid == user:
                    yield path
                elif depth > 1 and status.st_mode & _WORLD_WRITABLE and path.is_dir() and not path.is_symlink():
                    yield from self._own_files(path, depth - 1)

    def _is_of_others(self, path: Path) -> bool:
        """Shared memory of the worker's user may belong to any program of that user, which has it open then."""
        if self._user is not None or path.parent != SHARED_MEMORY:
            return False
        engine = _family(self._guard)
        return any(_has_open(pid, path) for pid in _processes() if pid not in engine)


def remove_shared_objects_of(user: int) -> None:
    """System V memory, queues and semaphores: they outlive their processes, and any later one can open them."""
    for kind, control in _SYSTEM_V.items():
        with contextlib.suppress(OSError):
            header, *rows = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
            for row in rows:
                about = dict(zip(header.split(), row.split(), strict=False))
                if str(user) in (about.get("uid"), about.get("cuid")):
                    getattr(ctypes.CDLL(None), control)(int(row.split()[1]), 0, 0)


def end_processes_of(user: int) -> None:
    """SIGKILL, until there are none: a guard that was killed can have left some. Only for a user that is the engine's
    alone."""
    for _ in range(_ROUNDS):
        found = [pid for pid in _processes() if _owner(pid) == user]
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_ROUND_S)


def _processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _owner(pid: int) -> int | None:
    """None for one that has ended, also if it was not waited for yet."""
    with contextlib.suppress(OSError):
        is_gone = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        return None if is_gone else Path(f"/proc/{pid}").stat().st_uid
    return None


def _family(pid: int) -> set[int]:
    found = {pid}
    for child in children_of(pid):
        found |= _family(child)
    return found


def _has_open(pid: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        if str(path) in Path(f"/proc/{pid}/maps").read_text():
            return True
        return any(link.readlink() == path for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _identity(path: Path) -> tuple[str, int]:
    try:
        return str(path), path.lstat().st_ino
    except OSError:
        return str(path), 0


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
