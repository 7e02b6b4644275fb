"""Hides the secrets of this process from other processes of its user, above all from the engine.

A graph that can read any file could read `/proc/<pid>/environ` of the process that started the engine, with the
bucket's credentials. Three measures prevent that, none of which exists on every system:
- The memory behind this file is overwritten where a variable's name suggests a secret (Linux). `os.environ` keeps the
  values, because libraries read them there later.
- The process is made non-dumpable, so that only a process that may trace any other can read its memory (Linux).
- `workers.supervise` removes the privileges with which an engine of root could do that.
"""

import ctypes
import re
import sys

_PR_SET_DUMPABLE = 4
"""The option of prctl(2)."""
_SECRET = re.compile(r"(COMFYUI_MODAL_|AWS_).*|.*(KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL).*", re.IGNORECASE)


def keep_secrets() -> None:
    """Hide the secrets. Call it after the settings have been read.

    A child process that is started without an explicit environment inherits the overwritten values.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    _overwrite_environment(libc)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _overwrite_environment(libc: ctypes.CDLL) -> None:
    block = ctypes.POINTER(ctypes.c_void_p).in_dll(libc, "environ")
    index = 0
    while (address := block[index]) is not None:
        name, equals, value = ctypes.string_at(address).partition(b"=")
        if _SECRET.fullmatch(name.decode(errors="replace")):
            ctypes.memset(address + len(name) + len(equals), ord("x"), len(value))
        index += 1
