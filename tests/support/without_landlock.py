"""Runs a command as on a kernel without Landlock: `python -m tests.support.without_landlock COMMAND …`.

A seccomp filter answers Landlock's first system call as such a kernel does. The filter applies to all child processes.
"""

import ctypes
import errno
import os
import struct
import sys

LANDLOCK_CREATE_RULESET = 444
"""The system call number, which is the same on every architecture."""
_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PROGRAM = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (_LOAD, 0, 0, 0),  # the number of the system call
        (_JUMP_IF_EQUAL, 0, 1, LANDLOCK_CREATE_RULESET),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_RETURN, 0, 0, _ALLOW),
    )
)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def run(command: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Filter(len(_PROGRAM) // struct.calcsize("HBBI"), _PROGRAM)
    # The kernel lets an unprivileged user set a filter only after PR_SET_NO_NEW_PRIVS.
    for arguments in ((_NO_NEW_PRIVS, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    os.execv(command[0], command)  # noqa: S606  a shell is not wanted


if __name__ == "__main__":
    run(sys.argv[1:])
