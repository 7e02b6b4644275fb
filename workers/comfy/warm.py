"""`WarmHost`: an engine that has run a workflow before the first job.

The cost of a first run (models loaded, kernels compiled) is moved into the container's start.
"""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import Any

from workers.comfy.engine import Prompt
from workers.comfy.execution import Execution, ExecutionPolicy
from workers.comfy.host import EngineHost, HostWrapper, timed
from workers.errors import WorkerError
from workflows.messages import Executed

logger = logging.getLogger(__name__)


class WarmHost(HostWrapper):
    """`graph` is in API format, without input files.

    A run that fails or exceeds `limit_s` is only a warning, since the engine is ready and the next job reports errors.
    """

    def __init__(self, host: EngineHost, graph: Mapping[str, Any], policy: ExecutionPolicy, *, limit_s: float) -> None:
        self._host = host
        self._graph = graph
        self._policy = policy
        self._limit_s = limit_s
        self._warm_pid: int | None = None
        self._phases: dict[str, float] = {}

    @property
    def start_phases(self) -> Mapping[str, float]:
        return {**self._host.start_phases, **self._phases}

    async def start(self) -> None:
        self._phases.clear()
        await self._host.start()
        if self.pid is None or self.pid != self._warm_pid:  # an engine restored from a snapshot may be warm already
            await self.warm_up()

    async def restart(self) -> None:
        await self._host.restart()
        await self.warm_up()

    async def warm_up(self) -> None:
        """Run the workflow; its outputs are deleted like those of a job."""
        with timed(self._phases, "warm_up"):
            await self._run()
        await self.engine.files.clean()

    async def _run(self) -> None:
        began = asyncio.get_running_loop().time()
        prompt = Prompt(str(uuid.uuid4()), str(uuid.uuid4()), self._graph)
        try:
            async with asyncio.timeout(self._limit_s):
                async for message in Execution(self.engine, prompt, self._policy):
                    if isinstance(message, Executed) and message.display_node in self._graph:
                        # As for a job: the files are deleted, and a cached node would report them again.
                        self.engine.showing.add(self._graph[message.display_node]["class_type"])
        except (WorkerError, TimeoutError) as error:
            # The abandoned prompt's node may still run, so the engine is replaced.
            logger.warning("the engine could not be warmed up: %s", str(error) or "it took too long")
            await self._host.restart()
        else:
            self._warm_pid = self.pid
            logger.info("engine warm", extra={"seconds": round(asyncio.get_running_loop().time() - began, 3)})
