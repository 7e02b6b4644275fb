"""A worker with a secret in its environment, whose engine tries to read it.

`python -m tests.support.secretive FOLDER` prints what the engine could read of this process, as JSON.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from infra.secrecy import keep_secrets
from tests.support.engines import ENVIRONMENT
from workers.comfy.process import EngineProcess
from workers.comfy.spec import EngineFolders, EngineSpec
from workers.errors import EngineUnavailable

SPY = """
import json, os, sys
def read(pid, name):
    try:
        with open(f"/proc/{pid}/{name}", "rb", 0) as file:
            return file.read(1).decode("latin-1") + file.read(100_000).decode("latin-1")
    except OSError as error:
        return type(error).__name__
def memory(pid):
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as file:
            file.seek(next(int(line.split("-")[0], 16) for line in maps if "[stack]" in line or "[heap]" in line))
            return str(len(file.read(16)))
    except OSError as error:
        return type(error).__name__
worker = int(sys.argv[1])
folder = sys.argv[2]
open(os.path.join(folder, "input", "written"), "w").close()
seen = {"environ": read(worker, "environ"), "memory": memory(worker), "uid": os.getuid()}
print("SEEN" + json.dumps(seen), flush=True)
"""


async def seen(folder: Path) -> str:
    command = [sys.executable, "-c", SPY, str(os.getpid()), str(folder)]
    host = EngineProcess(EngineSpec(command, folder, EngineFolders(folder), ENVIRONMENT, 30.0))
    try:
        await host.start()
    except EngineUnavailable as error:
        return next(line.removeprefix("SEEN") for line in str(error).splitlines() if line.startswith("SEEN"))
    raise AssertionError("the spy acted as an engine")


if __name__ == "__main__":
    keep_secrets()
    sys.stdout.write(json.dumps(json.loads(asyncio.run(seen(Path(sys.argv[1])))) | {"kept": os.environ["THE_SECRET"]}))
