"""A parent process to be killed: it starts a lite engine in the given folder, prints its process id and URL, and
waits."""

import asyncio
import json
import sys
from pathlib import Path

from tests.support.engines import LITE
from workers.comfy.process import EngineProcess


async def keep(parent: Path) -> None:
    host = EngineProcess(LITE.spec(parent))
    await host.start()
    sys.stdout.write(json.dumps({"pid": host.pid, "url": host.engine.url}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(keep(Path(sys.argv[1])))
