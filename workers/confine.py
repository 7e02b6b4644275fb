"""Enter an engine's confinement, then become its command: `python -I confine.py REQUEST COMMAND…`.

It uses the standard library only, so that it can be started by its path. REQUEST is the JSON of `request_of`. All
privileges are given up for good before the command starts: an engine that runs foreign code cannot regain them.

The processes and threads of the engine's user are bounded. With `user` the process becomes that user, without any
capability. With `landlock` the kernel itself refuses
- to write anywhere but in `writable`, to devices that compute, and to what every process writes to;
- to read what is in `hidden`. Landlock only knows what is allowed, so the neighbours of each hidden path are allowed,
  at every level from the root down, instead of the folder that holds them;
- to trace processes outside, and from ABI 6 on to signal them or to reach their abstract sockets;
- where the user stays the worker's, to set the limits of another process, which can end it as a signal does.

`probe` in place of a command tries the user and prints, as JSON, what of `read` and `enter` it cannot use.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

NOT_STARTED = 2
OOM_SCORE = "500"
"""An oom_score_adj that counts like half of the machine's memory when the kernel chooses a process to kill."""
PROBE = "probe"

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
"""prctl(2)."""
_LAST_CAPABILITY = 63
"""Greater than any kernel's last capability."""
_OVER_FILES = frozenset({0, 1, 3, 4})
"""CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID: with them root works in folders of any owner. Not
CAP_DAC_READ_SEARCH, which opens files by handle, without a path."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""landlock_create_ruleset(2) and so on; the numbers are the same on every architecture."""
_RULE_PATH_BENEATH = 1
_VERSION = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (1 << bit for bit in range(6, 13))
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_USE = _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
_WRITE = (
    _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _MAKE_SYM
) | (_REFER | _TRUNCATE)
"""Device files are excluded: root could create one of a disk and read it."""
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""The access rights to files that each ABI version introduced."""
_SCOPED_SINCE = 6
_SCOPES = 0b11
"""Abstract sockets and signals."""

_SECCOMP = {
    "x86_64": (317, 0xC000003E, 302, (142, 144, 314), 141, 251),
    "aarch64": (277, 0xC00000B7, 261, (118, 119, 274), 140, 30),
}
"""As the kernel numbers them: seccomp(2), the architecture, prlimit64(2), the sched_ calls that set a process's
parameters, scheduler and attributes, setpriority(2), ioprio_set(2)."""
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 1 << 2
_LOAD, _AND, _IS, _RETURN = 0x20, 0x54, 0x15, 0x06
"""Instructions of classic BPF: load a word, mask it, jump if equal, return."""
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_X32 = 0x40000000

MOST_TASKS = 4096
"""Processes and threads that an engine's user may have in addition to those that it has at the engine's start. ComfyUI
with its compile workers has some hundreds."""

GPU_DEVICES = ("/dev/nvidia*", "/dev/nvidia-caps/*", "/dev/kfd", "/dev/dri", "/dev/dxg")
_DEVICES = ("null", "zero", "full", "random", "urandom")
"""No terminals: with Landlock alone those of the worker's user could be read and written."""


def request_of(  # noqa: PLR0913  the fields of REQUEST
    *,
    user: int | None = None,
    groups: Sequence[int] = (),
    landlock: bool = False,
    writable: Sequence[str] = (),
    hidden: Sequence[str] = (),
    code: Sequence[str] = (),
    read: Sequence[str] = (),
    enter: Sequence[str] = (),
) -> str:
    """Return REQUEST. `code` is readable even below a hidden path; `read` and `enter` are for the probe.

    All paths are absolute.
    """
    return json.dumps(
        {
            "user": user,
            "groups": list(groups),
            "landlock": landlock,
            "writable": list(writable),
            "hidden": list(hidden),
            "code": list(code),
            "read": list(read),
            "enter": list(enter),
        }
    )


def landlock_abi() -> int:
    """Return the kernel's version of Landlock; 0 if it has none or it is disabled."""
    if sys.platform != "linux":
        return 0
    abi: int = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    return max(0, abi)


def main(arguments: Sequence[str]) -> int:
    request, command = json.loads(arguments[0]), arguments[1:]
    if command == [PROBE]:
        sys.stdout.write(json.dumps(_probe(request)))
        return 0
    guard = os.getppid()
    _be_the_first_to_go()
    try:
        enter(request)
        _die_with(guard)
        os.execvp(command[0], list(command))  # noqa: S606  no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}\n")
    return NOT_STARTED


def _be_the_first_to_go() -> None:
    """Make the kernel kill the engine before a worker, an API or a bucket if memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)


def enter(request: dict[str, Any]) -> None:
    _bound_tasks(request["user"])
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if request["landlock"]:
        _restrict(request)
        if request["user"] is None:
            _leave_others_their_limits()
    keeps = _OVER_FILES if request["user"] is None else frozenset()
    for capability in set(range(_LAST_CAPABILITY)) - keeps:  # an error for those that the kernel does not know
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if request["user"] is not None:
        _become(request["user"], request["groups"])


def _bound_tasks(user: int | None) -> None:
    """Bound the processes and threads of the engine's user, which could use up the machine's. Root has none."""
    owner = os.geteuid() if user is None else user
    # The kernel counts all tasks of the user, but refuses a new one only where the limit was set, in the engine.
    limit = sum(_tasks_of(owner, folder) for folder in glob("/proc/[0-9]*")) + MOST_TASKS  # noqa: PTH207
    with contextlib.suppress(OSError, ValueError):  # a lower limit is in force
        resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))


def _tasks_of(user: int, folder: str) -> int:
    """Return the number of threads of a process if it belongs to the user."""
    with contextlib.suppress(OSError):
        if os.stat(folder).st_uid == user:  # noqa: PTH116
            return len(os.listdir(f"{folder}/task"))  # noqa: PTH208
    return 0


def _become(user: int, groups: Sequence[int]) -> None:
    os.setgroups(groups)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _die_with(guard: int) -> None:
    """Set the parent-death signal again, since the kernel clears it when a process changes its user."""
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != guard:
        os._exit(1)


def _probe(request: dict[str, Any]) -> dict[str, Any]:
    try:
        _become(request["user"], request["groups"])
    except (OSError, ValueError) as error:
        return {"error": str(error), "unreachable": []}
    wanted = [(path, os.X_OK) for path in request["enter"]]
    wanted += [(path, os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK) for path in request["read"]]  # noqa: PTH112
    return {"error": None, "unreachable": [path for path, mode in wanted if not os.access(path, mode)]}


def _restrict(request: dict[str, Any]) -> None:
    abi = landlock_abi()
    handled = _HANDLED[max(version for version in _HANDLED if version <= abi)]
    attributes = struct.pack("=QQQ", handled, 0, _SCOPES if abi >= _SCOPED_SINCE else 0)
    size = 24 if abi >= _SCOPED_SINCE else 16 if abi >= 4 else 8
    ruleset = _call("syscall", _CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    for path, access in _rules(request):
        _allow(ruleset, path, access & handled)
    _call("syscall", _RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _leave_others_their_limits() -> None:
    """Forbid prlimit(2) and changes of priority on other processes by seccomp, if the kernel and the architecture
    support it.
    """
    # Landlock does not cover them. A CPU limit of zero ends any process of the same user, and one that may run only
    # while the processor is idle waits for as long as the engine computes.
    numbers = _SECCOMP.get(os.uname().machine)
    if numbers is None:
        return
    seccomp, architecture, prlimit, schedulers, setpriority, ioprio_set = numbers
    own = os.getpid()
    # Offsets are those of struct seccomp_data: 0 the number, 4 the architecture, from 16 on the arguments.
    program = _assembled(
        ("", _LOAD, 4, "", ""),
        ("", _IS, architecture, "", "refuse"),
        ("", _LOAD, 0, "", ""),
        ("", _AND, ~_X32 & 0xFFFFFFFF, "", ""),
        ("", _IS, prlimit, "limits", ""),
        ("", _IS, setpriority, "priority", ""),
        ("", _IS, ioprio_set, "disk", ""),
        *(("", _IS, number, "process", "") for number in schedulers),
        ("", _RETURN, _ALLOW, "", ""),
        ("limits", _LOAD, 32, "", ""),  # both halves of the new limits: none only asks
        ("", _IS, 0, "", "process"),
        ("", _LOAD, 36, "", ""),
        ("", _IS, 0, "own", "process"),
        ("process", _LOAD, 16, "", ""),  # none is itself
        ("", _IS, 0, "own", ""),
        ("", _IS, own, "own", "refuse"),
        ("priority", _LOAD, 16, "", ""),  # 0 is a process: others are groups and users
        ("", _IS, 0, "second", "refuse"),
        ("disk", _LOAD, 16, "", ""),  # here 1 is a process
        ("", _IS, 1, "second", "refuse"),
        ("second", _LOAD, 24, "", ""),
        ("", _IS, 0, "own", ""),
        ("", _IS, own, "own", ""),
        ("refuse", _RETURN, _REFUSE, "", ""),
        ("own", _RETURN, _ALLOW, "", ""),
    )
    code = ctypes.create_string_buffer(program)
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    with contextlib.suppress(OSError):
        _call("syscall", seccomp, _SET_MODE_FILTER, _SPEC_ALLOW, described)


def _assembled(*steps: tuple[str, int, int, str, str]) -> bytes:
    """A program of a label, an instruction, its value, and the labels behind a jump: if equal, and if not. Jumps go
    forward; without a label the next step follows."""
    places = {label: number for number, (label, *_) in enumerate(steps) if label}
    found = b""
    for number, (_, instruction, value, equal, other) in enumerate(steps):
        jumps = (places[label] - number - 1 if label else 0 for label in (equal, other))
        found += struct.pack("=HBBI", instruction, *jumps, value)
    return found


def _rules(request: dict[str, Any]) -> Iterator[tuple[str, int]]:
    hidden = {os.path.realpath(path) for path in request["hidden"]}
    for path in _outside("/", hidden | {"/dev"}):
        yield path, _READ
    if request["user"] is not None:  # the modes of folders decide what names it sees; some packs list the root
        yield "/", _READ_DIR
    for folder in map(os.path.realpath, request["code"]):
        is_apart = False
        for path in _outside(folder, hidden - {folder}):
            is_apart = is_apart or path != folder
            yield path, _READ
        if is_apart:  # Python lists the folders that it imports from: names in it can be seen, contents cannot
            yield folder, _READ_DIR
    for path in request["writable"]:
        yield path, _WRITE
    for pattern in GPU_DEVICES:
        for path in glob(pattern):  # noqa: PTH207
            yield path, _USE | _READ_DIR
    for name in _DEVICES:
        yield f"/dev/{name}", _USE | _READ_DIR
    yield "/dev/shm", _WRITE  # noqa: S108  POSIX shared memory
    yield from _own_process(has_own_user=request["user"] is not None)


def _own_process(*, has_own_user: bool) -> Iterator[tuple[str, int]]:
    """Yield the parts of /proc that the engine may write."""
    # CUDA does not start if it cannot name its threads in /proc/PID/task/TID/comm.
    writable = _READ_FILE | _READ_DIR | _WRITE_FILE | _TRUNCATE
    if has_own_user:  # it may write only the files of its own processes anyway
        yield "/proc", writable
        return
    # Any other could write the `autogroup` and `oom_score_adj` of every process of its user, and root the kernel's
    # settings, so it gets the files of its first process alone.
    own = os.open("/proc/self/", os.O_PATH)
    os.set_inheritable(own, True)  # while it is open, the kernel keeps the entry that the rule refers to
    yield f"/proc/{os.getpid()}", writable


def _outside(top: str, hidden: set[str]) -> Iterator[str]:
    """Yield the largest parts of a folder that contain nothing hidden."""
    if top in hidden:
        return
    prefix = top.rstrip("/") + "/"
    if not any(path.startswith(prefix) for path in hidden):
        yield top
        return
    try:
        entries = sorted(os.scandir(top), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if not entry.is_symlink():  # the target of a link counts by its own location
            yield from _outside(entry.path, hidden)


def _allow(ruleset: int, path: str, access: int) -> None:
    """Add a rule for a path. A path that is missing or unreachable needs none."""
    try:
        descriptor = os.open(path, os.O_PATH)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        rule = struct.pack("=Qi", access, descriptor)
        if access:
            _call("syscall", _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)


def _call(name: str, *arguments: Any) -> int:
    """Call a function of the C library that returns -1 on failure; raise OSError then."""
    result: int = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)} ({name} {arguments[0]})")
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
