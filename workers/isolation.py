"""The isolation of an engine from its worker and from other jobs, chosen once before the engine starts.

There are two mechanisms, used together if both are available: a separate user, if the worker is root, and Landlock, if
the kernel has it. `workers.confine` applies them in the process that becomes the engine.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any, Literal

from workers import confine
from workers.errors import EngineMisconfigured
from workers.trees import remove_tree

logger = logging.getLogger(__name__)

Demand = Literal["auto", "required", "off"]
"""`required` refuses to start an engine that would not be isolated."""

FIRST_USER = 64001
"""The first user number; all are below 65,536, the range of containers that map users."""
USERS = 64
"""User numbers per machine, one per worker."""
USER_NAME = "comfyui"
"""The value of USER, since libraries require a name although it need not be in /etc/passwd."""
_LOCKS = Path("/run/comfyui-modal-engines")
PROBE_S = 30.0

_SETTABLE_CACHES = ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_XET_CACHE", "TORCH_HOME")
"""Variables with which an operator shares caches with engines."""
_CREDENTIALS = (".aws", ".ssh", ".modal.toml", ".netrc", ".git-credentials", ".docker", ".kube", ".config/gcloud")
"""Credentials below the home folder of the worker's user."""
_CREDENTIAL_VARIABLES = ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE")


@dataclass(frozen=True, slots=True)
class IsolationPolicy:
    """`first_user` is the first user number of this machine's engines; `hidden` are the paths that none may read."""

    demand: Demand = "auto"
    first_user: int = FIRST_USER
    hidden: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Isolation:
    """The isolation in force for one engine. `reason` says which mechanism is missing, and why."""

    user: int | None = None
    groups: Sequence[int] = ()
    """The groups that its GPU's device needs."""
    landlock_abi: int = 0
    reason: str | None = None

    @property
    def is_in_force(self) -> bool:
        return self.user is not None or self.landlock_abi > 0

    def __str__(self) -> str:
        ways = [f"user {self.user}"] if self.user is not None else []
        ways += [f"Landlock ABI {self.landlock_abi}"] if self.landlock_abi else []
        text = " + ".join(ways) or "none"
        return text if self.reason is None else f"{text} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Enclosure:
    """An engine's isolation and folders; those in `own` are below `parent`, which belongs to the worker."""

    isolation: Isolation
    parent: Path
    own: Sequence[Path]
    code: Sequence[Path]
    hidden: Sequence[Path] = field(default=())

    @property
    def scratch(self) -> Path:
        return self.parent / "scratch"

    @property
    def cache(self) -> Path:
        return self.parent / "cache"

    def make(self) -> None:
        """Create the folders. Those of another owner are recreated."""
        if not self.isolation.is_in_force:
            return
        if self.isolation.user is not None:
            self.parent.chmod(0o711)  # the engine's user enters it and cannot list it
        with contextlib.suppress(OSError):
            remove_tree(self.scratch)
        for folder in (*self.own, self.scratch, self.cache):
            self._make_own(folder)

    def _make_own(self, folder: Path) -> None:
        owner = os.geteuid() if self.isolation.user is None else self.isolation.user
        with contextlib.suppress(FileNotFoundError):
            if folder.lstat().st_uid != owner:
                remove_tree(folder)  # its content is another engine's
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        self.give(folder)

    def give(self, path: Path) -> None:
        """Give a path to the engine's user; do nothing if the engine runs as the worker's user."""
        if self.isolation.user is not None:
            os.chown(path, self.isolation.user, self.isolation.user, follow_symlinks=False)

    def command(self, command: Sequence[str], environment: Mapping[str, str], *also: Path) -> list[str]:
        """Return the command line that starts `command` confined; it may also write to `also`."""
        if not self.isolation.is_in_force:
            return list(command)
        shared = [Path(environment[name]) for name in _SETTABLE_CACHES if name in environment]
        writable = [*self.own, self.scratch, self.cache, *also, *shared]
        request = confine.request_of(
            user=self.isolation.user,
            groups=self.isolation.groups,
            landlock=self.isolation.landlock_abi > 0,
            writable=_texts(writable),
            hidden=_texts([*self.hidden, *_temp_folders(), *_credentials()]),
            code=_texts(self.code),
        )
        return [sys.executable, "-I", confine.__file__, request, *command]

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the environment with separate homes and caches, except those that the operator set."""
        if not self.isolation.is_in_force:
            return dict(given)
        cache = str(self.cache)
        own = {
            "HOME": cache,
            "USER": USER_NAME,
            "LOGNAME": USER_NAME,
            "TMPDIR": str(self.scratch),
            "TRITON_CACHE_DIR": f"{cache}/triton",
            "TORCHINDUCTOR_CACHE_DIR": f"{cache}/torchinductor",
            "NUMBA_CACHE_DIR": f"{cache}/numba",
            "MPLCONFIGDIR": f"{cache}/matplotlib",
            "YOLO_CONFIG_DIR": f"{cache}/ultralytics",  # without it in /tmp if ~/.config does not exist yet
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",  # the home folder outlives an engine, and code in it must not run in the next one
        }
        return {"XDG_CACHE_HOME": f"{cache}/xdg", **given, **own}


class EngineUser:
    """A user number that no other worker of this machine uses, locked from `take` to `release`."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._lock: int | None = None

    def take(self) -> int:
        """Lock a free user number. Raises `OSError` if all are taken."""
        _LOCKS.mkdir(mode=0o700, exist_ok=True)
        for number in range(self._first, self._first + USERS):
            # Not inherited by the engine, which would hold the lock after its worker's end.
            lock = os.open(_LOCKS / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released by the kernel, however the worker ends
            except BlockingIOError:
                os.close(lock)
                continue
            self._lock = lock
            return number
        raise OSError(f"{USERS} engines run on this machine")

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@dataclass(frozen=True, slots=True)
class Needs:
    """The files and folders that an engine's user must be able to read, and those that it must be able to enter."""

    read: Sequence[Path] = ()
    enter: Sequence[Path] = ()


async def choose(policy: IsolationPolicy, user: EngineUser, needs: Needs) -> Isolation:
    """Return the isolation that this machine supports, and log it.

    Raises `EngineMisconfigured` if isolation is required and not available.
    """
    if policy.demand == "off":
        return _said(Isolation(reason="COMFYUI_MODAL_ISOLATION=off"))
    abi = confine.landlock_abi()
    number, reason = await _own_user(user, needs)
    groups = [] if number is None else _device_groups()
    if abi == 0:
        without = "this kernel has no Landlock" if sys.platform == "linux" else "this system has no Landlock"
        reason = without if reason is None else f"{reason}; {without}"
    isolation = Isolation(number, groups, abi, reason)
    if policy.demand == "required" and not isolation.is_in_force:
        raise EngineMisconfigured(
            f"COMFYUI_MODAL_ISOLATION=required, but the engine cannot be isolated here: {reason}. "
            "Run the worker as root, or on Linux 5.13 or newer with Landlock"
        )
    return _said(isolation)


async def _own_user(user: EngineUser, needs: Needs) -> tuple[int | None, str | None]:
    """Return a user number, or the reason why there is none."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return None, "no user of its own: the worker is not root"
    try:
        number = user.take()
        probed = await _probe(number, needs)
    except (OSError, ValueError, TimeoutError) as error:
        user.release()
        return None, f"no user of its own: {error}"
    unreachable = probed["unreachable"]
    if probed["error"] is None and not unreachable:
        return number, None
    user.release()
    why = probed["error"] or f"user {number} cannot reach {unreachable[0]}"
    return None, f"no user of its own: {why}"


async def _probe(number: int, needs: Needs) -> dict[str, Any]:
    request = confine.request_of(
        user=number, groups=_device_groups(), read=_texts(needs.read), enter=_texts(needs.enter)
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", confine.__file__, request, confine.PROBE),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        # It becomes the engine's user, which must not see this process's variables.
        env={},
        cwd="/",
    )
    try:
        async with asyncio.timeout(PROBE_S):
            said, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    result: dict[str, Any] = json.loads(said)
    return result


def _device_groups() -> list[int]:
    """Return the groups that are required for a GPU's device, such as `render`."""
    groups = set()
    for pattern in (*confine.GPU_DEVICES, "/dev/dri/*"):
        for device in glob(pattern):  # noqa: PTH207  absolute patterns
            status = Path(device).stat()
            # A device that every user may open needs no group.
            if not stat.S_ISDIR(status.st_mode) and status.st_mode & 0o006 != 0o006 and status.st_gid != 0:
                groups.add(status.st_gid)
    return sorted(groups)


def _temp_folders() -> list[Path]:
    """Return the folders with the worker's temporary files and other engines' folders and sockets."""
    return [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108  to be hidden


def _credentials() -> list[Path]:
    home = Path.home()
    named = [Path(os.environ[name]) for name in _CREDENTIAL_VARIABLES if name in os.environ]
    huggingface = Path(os.environ.get("HF_HOME", home / ".cache" / "huggingface"))
    known = [*(home / name for name in _CREDENTIALS), huggingface / "token", huggingface / "stored_tokens", *named]
    return [path for path in known if path.exists()]


def _texts(paths: Iterable[Path]) -> list[str]:
    return [str(path) for path in paths]


def _said(isolation: Isolation) -> Isolation:
    level = logging.INFO if isolation.is_in_force or sys.platform != "linux" else logging.WARNING
    logger.log(level, "engine isolation: %s", isolation)
    return isolation
