"""The connected sockets and the messages to them. Safe to call from the executor's thread.

Each client id has one socket; a second one replaces it. A message without a client id goes to every socket.
"""

import asyncio
import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from PIL import Image

_PREVIEW = 1
_PREVIEW_WITH_METADATA = 4
_OPTIONS: Mapping[str, Mapping[str, int]] = {"JPEG": {"quality": 95}, "PNG": {"compress_level": 1}}
_IMAGE_TYPES = {"JPEG": 1, "PNG": 2}


MAX_WAITING_NODES = 100_000
"""Nodes in the waiting progress snapshots, beyond which a newer snapshot replaces the newest that waits. Each has all
nodes of its prompt so far: a chain of 2,000 makes 4,000 snapshots of 4,000,000 nodes in all."""


@dataclass(slots=True)
class _Client:
    socket: web.WebSocketResponse
    wants_metadata: bool = False


@dataclass(slots=True)
class _Snapshot:
    """A waiting `progress_state`, encoded when it is sent. `nodes` is empty if a newer one has replaced it."""

    prompt_id: str
    nodes: Mapping[str, Any]


class Clients:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._clients: dict[str, _Client] = {}
        self._outgoing: asyncio.Queue[tuple[str | None, str | bytes | _Snapshot]] = asyncio.Queue()
        self._waiting_nodes = 0
        self._newest: tuple[str | None, _Snapshot] | None = None

    def add(self, client_id: str, socket: web.WebSocketResponse) -> None:
        self._clients[client_id] = _Client(socket)

    def remove(self, client_id: str) -> None:
        self._clients.pop(client_id, None)

    def set_flags(self, client_id: str, flags: Mapping[str, Any]) -> None:
        if client_id in self._clients:
            self._clients[client_id].wants_metadata = bool(flags.get("supports_preview_metadata"))

    def send(self, kind: str, data: Any, client_id: str | None) -> None:
        """Queue a text message. It is encoded now, since its data may change before it is sent."""
        self._put(client_id, json.dumps({"type": kind, "data": data}))

    def send_progress(self, prompt_id: str, nodes: Mapping[str, Any], client_id: str | None) -> None:
        """Queue a snapshot of a prompt's nodes, which the caller may change afterwards, but not its values."""
        self._loop.call_soon_threadsafe(self._put_snapshot, client_id, _Snapshot(prompt_id, dict(nodes)))

    def wants_metadata(self, client_id: str | None) -> bool:
        client = self._clients.get(client_id or "")
        return client is not None and client.wants_metadata

    def send_preview(self, picture: Image.Image, kind: str, about: Mapping[str, str], client_id: str | None) -> None:
        """Queue a node's preview. `about` is its node_id and prompt_id, sent only to clients that want metadata."""
        if client_id is not None and client_id not in self._clients:
            return
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, kind, **_OPTIONS[kind])
        if not self.wants_metadata(client_id):
            self._put(client_id, struct.pack(">II", _PREVIEW, _IMAGE_TYPES[kind]) + buffer.getvalue())
            return
        node_id = about["node_id"]
        full = {
            **about,
            "display_node_id": node_id,
            "parent_node_id": None,
            "real_node_id": node_id,
            "image_type": f"image/{kind.lower()}",
        }
        text = json.dumps(full).encode()
        self._put(client_id, struct.pack(">II", _PREVIEW_WITH_METADATA, len(text)) + text + buffer.getvalue())

    async def pump(self) -> None:
        """Send the messages in order, without end."""
        while True:
            client_id, waiting = await self._outgoing.get()
            message = self._encoded(waiting) if isinstance(waiting, _Snapshot) else waiting
            if message is None:
                continue
            clients = self._clients.values() if client_id is None else [self._clients.get(client_id)]
            for client in [client for client in clients if client is not None]:
                try:
                    if isinstance(message, str):
                        await client.socket.send_str(message)
                    else:
                        await client.socket.send_bytes(message)
                except (ConnectionError, RuntimeError):
                    continue  # the socket is closing, and its handler removes it

    def _put_snapshot(self, client_id: str | None, snapshot: _Snapshot) -> None:
        self._waiting_nodes += len(snapshot.nodes)
        if self._waiting_nodes > MAX_WAITING_NODES and self._newest is not None:
            other, newest = self._newest
            if (other, newest.prompt_id) == (client_id, snapshot.prompt_id):
                self._waiting_nodes -= len(newest.nodes)
                newest.nodes = {}
        self._newest = client_id, snapshot
        self._outgoing.put_nowait((client_id, snapshot))

    def _encoded(self, snapshot: _Snapshot) -> str | None:
        """Return a snapshot's message; None if a newer one has replaced it, or a node's code gave it other values."""
        nodes, snapshot.nodes = snapshot.nodes, {}
        if not nodes:
            return None
        self._waiting_nodes -= len(nodes)
        try:
            return json.dumps({"type": "progress_state", "data": {"prompt_id": snapshot.prompt_id, "nodes": nodes}})
        except (TypeError, ValueError):
            return None

    def _put(self, client_id: str | None, message: str | bytes) -> None:
        self._loop.call_soon_threadsafe(self._outgoing.put_nowait, (client_id, message))
