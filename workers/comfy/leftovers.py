"""Removes a job's leftovers outside ComfyUI's folders: processes, and files in folders that every user may write.

Processes and files that exist when the engine becomes ready are kept, since node packs start helpers and create files
at import. Processes whose parent is ComfyUI itself are kept as well, since torch's compile workers are such. Code that
a graph started inside ComfyUI's own process is not found. Only a restart of the engine ends these two.
"""

import contextlib
import ctypes
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from workers.supervise import children_of, kill_strays
from workers.trees import remove_tree

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  the folder of POSIX shared memory
SHARED_NAMES = ("psm_", "torch_", "sem.")
"""The shared memory of Python, torch and POSIX semaphores. Where the engine's user is the worker's, no other file is
removed: another program may have written it."""
OPEN_TO_ALL = (Path("/tmp"), Path("/var/tmp"), SHARED_MEMORY)  # noqa: S108
_WORLD_WRITABLE = 0o002
_ROUNDS, _ROUND_S = 20, 0.01
_KILL_S = 10.0
_KILL_OWN = """
import os, signal, sys
user = int(sys.argv[1])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
os.kill(-1, signal.SIGKILL)
"""
_SYSTEM_V = {"shm": "shmctl", "msg": "msgctl", "sem": "semctl"}
"""The kinds of objects in /proc/sysvipc, with the call that removes them: each takes IPC_RMID, which is 0."""


class Leftovers:
    """The leftovers of one engine process. `guard` is its guard's pid; `user` is None if it is the worker's.

    `folders` belong to the engine; new files in them are removed.
    """

    def __init__(self, *, guard: int, user: int | None, folders: Sequence[Path]) -> None:
        self._guard = guard
        self._user = user
        self._folders = folders
        # Node packs start helpers and create files when they are imported.
        self._kept_processes = set(children_of(guard))
        self._kept_files = {_identity(path) for path in self._files()}

    def remove(self) -> bool:
        """Remove processes and files. Failures are logged, never raised.

        Returns False if processes are left: those that fork faster than they are found end with the engine alone.
        """
        # Processes first, which could write the files again.
        killed, is_clean = kill_strays(self._guard, keep=self._kept_processes)
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
        return is_clean

    def _files(self) -> Iterator[Path]:
        for folder in self._folders:
            yield from _entries(folder)
        for folder in OPEN_TO_ALL if self._user is not None else (SHARED_MEMORY,):
            yield from self._own_files(folder, depth=2)

    def _own_files(self, folder: Path, depth: int) -> Iterator[Path]:
        """Yield files of the engine's user in the folders that it may write."""
        user = os.geteuid() if self._user is None else self._user
        for path in _entries(folder):
            with contextlib.suppress(OSError):
                status = path.lstat()
                if status.st_uid == user and (self._user is not None or path.name.startswith(SHARED_NAMES)):
                    yield path
                elif depth > 1 and status.st_mode & _WORLD_WRITABLE and path.is_dir() and not path.is_symlink():
                    yield from self._own_files(path, depth - 1)

    def _is_of_others(self, path: Path) -> bool:
        """Whether another program of the worker's user has this shared memory open."""
        if self._user is not None or path.parent != SHARED_MEMORY:
            return False
        engine = _family(self._guard)
        return any(_has_open(pid, path) for pid in _processes() if pid not in engine)


def remove_shared_objects_of(user: int) -> None:
    """Remove a user's System V memory, queues and semaphores, which outlive their processes."""
    for kind, control in _SYSTEM_V.items():
        with contextlib.suppress(OSError):
            header, *rows = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()
            for row in rows:
                about = dict(zip(header.split(), row.split(), strict=False))
                if str(user) in (about.get("uid"), about.get("cuid")):
                    getattr(ctypes.CDLL(None), control)(int(row.split()[1]), 0, 0)


def end_processes_of(user: int) -> None:
    """SIGKILL all processes of a user that only the engine has, since a killed guard can have left some."""
    for _ in range(_ROUNDS):
        # Sent by a process of that user to all of its processes at once, which the kernel does atomically. One that
        # forks all the time would not be found in a list of processes.
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([sys.executable, "-I", "-c", _KILL_OWN, str(user)], timeout=_KILL_S, check=False, env={})
        if not any(_owner(pid) == user for pid in _processes()):
            return
        time.sleep(_ROUND_S)
    logger.warning("processes of the engine's user %d are left", user)


def _processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _owner(pid: int) -> int | None:
    """Return a process's user; None if it has ended, reaped or not."""
    with contextlib.suppress(OSError):
        # The name in brackets may contain spaces and brackets.
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
        # With the inode, because a job may replace a kept file by its own.
        return str(path), path.lstat().st_ino
    except OSError:
        return str(path), 0


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
