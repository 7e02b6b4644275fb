"""What this process knows stays in it: another process of the same user, the engine above all, must not read it.

A graph that finds a way to read any file finds `/proc/<pid>/environ` of the process that started the engine, with the
bucket's credentials. Three things stand before that, none of which every system has:
- the block of memory that this file shows is overwritten, for what looks like a secret (any Linux; `os.environ` keeps
  the values, as libraries read them there when they need them);
- the process is made not dumpable: then only who may trace any process can read its memory (Linux);
- the engine loses the privileges by which root may do that, in `workers.supervise`.
"""

import ctypes
import re
import sys

_PR_SET_DUMPABLE = 4
"""prctl(2)."""
_SECRET = re.compile(r"(COMFYUI_MODAL_|AWS_).*|.*(KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL).*", re.IGNORECASE)


def keep_secrets() -> None:
    """Once the settings were read. Processes that are started without an environment of their own get the values
    overwritten too."""
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
