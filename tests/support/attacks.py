"""The attacks of a hostile graph in its engine's process, as the code of a `LiteRunCode` node.

The code runs in the engine, so it is kept as text, and `code_of` inserts the targets. Each attempt returns the name of
the error that stopped it, or what it obtained.
"""

import json
from collections.abc import Mapping
from pathlib import Path

BREAK_OUT = """
import ctypes, json, os, pathlib, resource, signal, socket

def tried(attempt):
    try:
        return f"GOT {attempt()!r}"[:200]
    except OSError as error:
        return type(error).__name__

def read(path):
    return lambda: open(path, "rb").read(40)

def write(folder):
    def attempt():
        path = os.path.join(folder, "planted")
        open(path, "w").close()
        return path
    return attempt

def note(path, value):
    def attempt():
        with open(path, "w") as file:
            file.write(value)
        return value
    return attempt

def trace():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, worker, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")

def linked():
    os.link(connection, str(folders.output / "connection.json"))

attempts = {
    "environment": read(f"/proc/{worker}/environ"),
    "memory": read(f"/proc/{worker}/mem"),
    "open files": lambda: os.readlink(f"/proc/{worker}/fd/0"),
    "its root": read(f"/proc/{worker}/root{connection}"),
    "connection": read(connection),
    "data of the bucket": read(bucket),
    "names in the data folder": lambda: os.listdir(os.path.dirname(connection)),
    "worker's temporary file": read(temporary),
    "another job's file": read(private),
    "a file among another job's": write(os.path.dirname(private)),
    "another engine's input": read(os.path.join(other, "input", "photo.png")),
    "another engine's output": write(os.path.join(other, "output")),
    "the engine's parent folder": write(str(folders.output.parent)),
    "code": write(code),
    "models": write(models),
    "system's temp folder": write("/var/tmp"),
    "configuration": write("/etc"),
    "signal": lambda: os.kill(worker, signal.SIGCONT),
    "guard": lambda: os.kill(os.getppid(), 0),  # SIGCONT may go to all of one's session
    "limits": lambda: resource.prlimit(worker, resource.RLIMIT_CORE, (0, 0)),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, worker, 19),
    "priority of its user": lambda: os.setpriority(
        os.PRIO_USER, os.stat(f"/proc/{worker}").st_uid or 1, 19),  # 0 is one's own
    "idle scheduling": lambda: os.sched_setscheduler(worker, os.SCHED_IDLE, os.sched_param(0)),
    "a neighbour's scheduling group": note(f"/proc/{neighbour}/autogroup", "19"),
    "a neighbour's place before the kernel's killer": note(f"/proc/{neighbour}/oom_score_adj", "1000"),
    "a terminal of its user": lambda: os.open(terminal, os.O_RDWR | os.O_NOCTTY),
    "trace": trace,
    "second name of a file": linked,
    "device": lambda: os.mknod(str(folders.output / "disk"), 0o060600, os.makedev(254, 0)),
    "becoming root": lambda: os.setuid(0) if os.getuid() else os.mknod(str(folders.temp / "d"), 0o060600, 0),
}
result = {name: tried(attempt) for name, attempt in attempts.items()}
os.symlink(connection, str(folders.output / "link.json"))
"""

LEAVE_BEHIND = """
import ctypes, os, subprocess, sys, tempfile, time
folder = tempfile.gettempdir()
subprocess.run([sys.executable, "-c", "import os; os.fork() and os._exit(0); os.setsid(); "
                "os.fork() and os._exit(0); open(%r, 'w').write(str(os.getpid())); import time; time.sleep(600)"
                % os.path.join(folder, "pid")])
while not os.path.exists(os.path.join(folder, "pid")) or not open(os.path.join(folder, "pid")).read():
    time.sleep(0.02)
left = [os.path.join(folder, "left"), f"/dev/shm/psm_left-{os.getpid()}", *(
    str(f / "left") for f in (folders.input, folders.output, folders.temp, folders.output.parent / "user"))]
for path in left:
    open(path, "w").write("of the first job")
key = 0x70000000 | os.getpid()
ctypes.CDLL(None).shmget(key, 4096, 0o1600)
result = {"daemon": int(open(os.path.join(folder, "pid")).read()), "files": left, "key": key}
"""

FIND_LEFTOVERS = """
import ctypes, os
libc = ctypes.CDLL(None)
memory = libc.shmget(key, 0, 0)
libc.shmctl(memory, 0, None)
result = {"daemon": os.path.exists(f"/proc/{daemon}"), "files": [path for path in files if os.path.exists(path)],
          "shared memory": memory != -1}
"""


def code_of(text: str, values: Mapping[str, object]) -> str:
    """Return the code with assignments of these names before it."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    return "".join(f"{name} = {json.loads(json.dumps(value))!r}\n" for name, value in plain.items()) + text
