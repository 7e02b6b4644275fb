"""Which clients get which messages: no client, two clients, one client twice, a client that reconnects."""

import asyncio
import uuid

from tests.conformance.graphs import slow
from tests.conformance.scenarios import Book
from tests.conformance.traffic import Traffic

BOOK = Book()
QUIET_S = 0.3
"""The time in which unwanted messages would arrive after the run that would cause them."""


@BOOK.add(own_nodes=True, varying=True)
async def s50_no_client_id(traffic: Traffic) -> None:
    await traffic.socket(str(uuid.uuid4()))
    await traffic.socket(None, name="anonymous")
    prompt_id = await traffic.submit(slow(traffic.nodes, 3, 0.1))
    await traffic.until_idle()
    await asyncio.sleep(QUIET_S)
    await traffic.history(prompt_id)


@BOOK.add(own_nodes=True, varying=True)
async def s51_reconnect_mid_run(traffic: Traffic) -> None:
    client_id = str(uuid.uuid4())
    socket = await traffic.socket(client_id)
    prompt_id = await traffic.submit(slow(traffic.nodes, 30, 0.1, preview=False), client_id)
    await socket.until_step(5)
    await socket.close()
    await asyncio.sleep(0.5)
    again = await traffic.socket(client_id, name="reconnected")
    await again.until_end(prompt_id)
    await traffic.history(prompt_id)


@BOOK.add(own_nodes=True, varying=True)
async def s51b_connect_after_end(traffic: Traffic) -> None:
    client_id = str(uuid.uuid4())
    socket = await traffic.socket(client_id)
    prompt_id = await traffic.submit(slow(traffic.nodes, 5, 0.1, preview=False), client_id)
    await socket.until_step(1)
    await socket.close()
    await traffic.until_idle()
    await asyncio.sleep(QUIET_S)
    await traffic.socket(client_id, name="reconnected")
    await traffic.history(prompt_id)


@BOOK.add(own_nodes=True, varying=True)
async def s52_two_sockets_one_client_id(traffic: Traffic) -> None:
    client_id = str(uuid.uuid4())
    first = await traffic.socket(client_id)
    second = await traffic.socket(client_id, name="second")
    prompt_id = await traffic.submit(slow(traffic.nodes, 4, 0.1, preview=False), client_id)
    await second.until_end(prompt_id)
    await first.close()
    await asyncio.sleep(0.2)
    prompt_id = await traffic.submit(slow(traffic.nodes, 4, 0.1, preview=False), client_id)
    await traffic.until_idle()
    await asyncio.sleep(QUIET_S)
    await traffic.history(prompt_id)


@BOOK.add(own_nodes=True, varying=True)
async def s53_late_socket(traffic: Traffic) -> None:
    client_id = str(uuid.uuid4())
    prompt_id = await traffic.submit(slow(traffic.nodes, 20, 0.1, preview=False), client_id)
    await traffic.until_running(prompt_id)
    await asyncio.sleep(QUIET_S)
    socket = await traffic.socket(client_id)
    await socket.until_end(prompt_id)
    await traffic.history(prompt_id)


@BOOK.add(own_nodes=True, varying=True)
async def s54_other_clients_jobs(traffic: Traffic) -> None:
    clients = [str(uuid.uuid4()), str(uuid.uuid4())]
    sockets = [await traffic.socket(clients[0]), await traffic.socket(clients[1], name="client2")]
    prompts = [await traffic.submit(slow(traffic.nodes, 3, 0.1, preview=False), client) for client in clients]
    for socket, prompt_id in zip(sockets, prompts, strict=True):
        await socket.until_end(prompt_id)
    await asyncio.sleep(0.1)
    for prompt_id in prompts:
        await traffic.history(prompt_id)
