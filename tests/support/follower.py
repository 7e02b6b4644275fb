"""Prompts that the driver follows on a scripted ComfyUI."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.scripted_comfy import ComfyState, Play, Script, serving
from workers.comfy.engine import Prompt
from workers.comfy.execution import Execution, ExecutionPolicy
from workers.comfy.http_engine import HttpEngine
from workers.comfy.socket import PromptSocket
from workers.errors import (
    WorkerError,
)
from workflows.messages import Executed, Message

QUICK = ExecutionPolicy(
    poll_s=0.05,
    settle_s=0.01,
    settling_s=0.1,
    reconnect_s=0.02,
    connect_s=5.0,
    linger_s=0.3,
    broken_s=0.2,
    absent_s=0.3,
    interrupt_every_s=0.02,
    interrupt_grace_s=10.0,
)
PICTURE = {"images": [{"filename": "a_00001_.png", "subfolder": "", "type": "output"}]}
ERROR = {
    "node_id": "3",
    "node_type": "KSampler",
    "executed": [],
    "exception_type": "RuntimeError",
    "exception_message": "boom\n",
    "traceback": [],
}


class Follower:
    """Runs one prompt and keeps the messages that it yields, even if it fails."""

    def __init__(self, url: str, policy: ExecutionPolicy = QUICK, *, is_strict: bool = False) -> None:
        self.engine = HttpEngine(url)
        graph = {"1": {"class_type": "A", "inputs": {}}}
        self.prompt = Prompt(str(uuid.uuid4()), str(uuid.uuid4()), graph, is_strict=is_strict)
        self.socket = PromptSocket(self.engine, self.prompt.client_id, policy)
        self.execution = Execution(self.engine, self.prompt, policy, self.socket)
        self.messages: list[Message] = []

    async def follow(self, then: Callable[[Message], Awaitable[None] | None] = lambda _: None) -> None:
        try:
            async with asyncio.timeout(20):
                async for message in self.execution:
                    self.messages.append(message)
                    doing = then(message)
                    if doing is not None:
                        await doing
        finally:
            await self.engine.close()

    def outputs(self) -> dict[str, Any]:
        executed = [message for message in self.messages if isinstance(message, Executed)]
        assert len({message.node for message in executed}) == len(executed), "an output was yielded twice"
        return {message.node: message.output for message in executed}


async def refused(
    script: Script,
    error: type[WorkerError],
    state: ComfyState | None = None,
    policy: ExecutionPolicy = QUICK,
    *,
    is_strict: bool = False,
) -> tuple[Follower, Any]:
    async with serving(script, state) as server:
        follower = Follower(server.url, policy, is_strict=is_strict)
        with pytest.raises(error) as caught:
            await follower.follow()
    return follower, caught.value


async def completed(script: Script, state: ComfyState | None = None, policy: ExecutionPolicy = QUICK) -> Follower:
    async with serving(script, state) as server:
        follower = Follower(server.url, policy)
        await follower.follow()
        assert follower.execution.history is not None
    return follower


async def simple(play: Play) -> None:
    await play.say("execution_start")
    await play.say("executing", node="1", display_node="1")
    await play.say("executed", node="1", display_node="1", output=PICTURE)
    await play.succeed({"1": PICTURE})


async def never(play: Play) -> None:
    await asyncio.Event().wait()
