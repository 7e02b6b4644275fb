"""What the lite engine holds for a client that reads slowly."""

import asyncio
import contextlib
import json
from typing import Any, cast

import pytest
from aiohttp import web

from workers.lite.clients import MAX_WAITING_NODES, Clients

pytestmark = pytest.mark.anyio


class Reader:
    """Stands for a client's WebSocket, and keeps what it is sent."""

    def __init__(self, messages: int) -> None:
        self.messages: list[dict[str, Any]] = []
        self.has_all = asyncio.Event()
        self._expected = messages

    async def send_str(self, text: str) -> None:
        self.messages.append(json.loads(text))
        if len(self.messages) == self._expected:
            self.has_all.set()


async def received(clients: Clients, reader: Reader) -> list[dict[str, Any]]:
    """Return what the client is sent from now on."""
    await asyncio.sleep(0)  # the calls of the executor's thread reach the loop
    clients.add("c", cast(web.WebSocketResponse, reader))
    pump = asyncio.create_task(clients.pump())
    await asyncio.wait_for(reader.has_all.wait(), 30)
    pump.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await pump
    return reader.messages


def node(state: str) -> dict[str, Any]:
    return {"state": state, "value": 1, "max": 1}


async def test_waiting_snapshots_are_bounded() -> None:
    """From a number of nodes on, a newer snapshot replaces the one that waits, and goes behind other messages."""
    clients = Clients(asyncio.get_running_loop())
    nodes: dict[str, Any] = {str(number): node("running") for number in range(MAX_WAITING_NODES // 2)}
    for number in range(20):
        nodes["0"] = node(f"state {number}")
        clients.send_progress("p", nodes, "c")
        clients.send("executing", {"node": str(number)}, "c")
    messages = await received(clients, Reader(22))
    states = [message["data"]["nodes"]["0"]["state"] for message in messages if message["type"] == "progress_state"]
    assert states == ["state 0", "state 19"]
    assert [message["type"] for message in messages[-2:]] == ["progress_state", "executing"]
    assert [message["data"]["node"] for message in messages if message["type"] == "executing"] == list(
        map(str, range(20))
    )


async def test_snapshots_of_small_prompts_are_all_sent() -> None:
    """Each snapshot shows the nodes as they were when it was sent."""
    clients = Clients(asyncio.get_running_loop())
    nodes: dict[str, Any] = {}
    for number in range(50):
        nodes[str(number)] = node("running")
        clients.send_progress("p", nodes, "c")
    messages = await received(clients, Reader(50))
    assert [len(message["data"]["nodes"]) for message in messages] == list(range(1, 51))


async def test_another_prompts_snapshot_is_not_replaced() -> None:
    """The last snapshot of a prompt is sent, whatever the next prompt sends."""
    clients = Clients(asyncio.get_running_loop())
    nodes = {str(number): node("finished") for number in range(MAX_WAITING_NODES)}
    clients.send_progress("p", nodes, "c")
    clients.send_progress("q", nodes, "c")
    messages = await received(clients, Reader(2))
    assert [message["data"]["prompt_id"] for message in messages] == ["p", "q"]


async def test_progress_that_json_cannot_hold_is_left_out() -> None:
    """Messages behind a snapshot with values of a node's code are sent."""
    clients = Clients(asyncio.get_running_loop())
    clients.send_progress("p", {"1": {"value": object()}}, "c")
    clients.send("executing", {"node": "1"}, "c")
    messages = await received(clients, Reader(1))
    assert [message["type"] for message in messages] == ["executing"]
