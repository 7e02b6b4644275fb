"""Starts a process where other users can reach this Python, optionally as another user, in its own mount namespace.

Pythons of version managers lie in a home folder that other users cannot enter.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_MOUNTS = """
set -e
blocked=$1 prefix=$2; shift 2
if [ -n "$blocked" ]; then
    mount --bind "$prefix" /mnt
    mount -t tmpfs -o mode=0755 none "$blocked"
    mkdir -p "$prefix"
    mount --bind /mnt "$prefix"
fi
exec "$@"
"""


def reachable(command: Sequence[str], *, user: int | None = None) -> list[str]:
    """Return the command line for root. The command runs as `user`."""
    prefix = Path(sys.base_prefix).resolve()
    blocked = next((str(one) for one in [*prefix.parents][::-1] if not one.stat().st_mode & 0o001), "")
    become = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return ["unshare", "--mount", "sh", "-c", _MOUNTS, "sh", blocked, str(prefix), *become, *command]


@cache
def is_possible() -> bool:
    """Return whether this process is root with the right to mount."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    return subprocess.run(reachable(["true"]), capture_output=True, check=False).returncode == 0
