"""Server-sent events of a job, decoded without I/O: both clients feed the bytes that they receive."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from comfyui_modal_client._json import parsed

RECONNECT_S = 0.5
"""The pause before a stream that has ended is opened again."""
MAX_EVENT_BYTES = 4 * 1024 * 1024
"""The limit of an event, and of the weight of its data (`parsed`). The API's largest, a preview, has 128 KiB."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """`name` is `status`, `progress`, `node`, `preview` or `output`; `data` is described in the API's reference."""

    name: str
    data: dict[str, Any]


class Following:
    """What a client has received of a job's events, over all connections."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_over = False
        """Whether the job has ended and its last event was received."""
        self._last_id = ""
        self._begin()

    def _begin(self) -> None:
        self._received = bytearray()

    @property
    def headers(self) -> dict[str, str]:
        """Begin a connection and return its headers. An event that the last one broke off is sent again."""
        self._begin()
        accept = {"accept": "text/event-stream"}
        return accept | ({"last-event-id": self._last_id} if self._last_id else {})

    def received(self, chunk: bytes) -> Iterator[JobEvent]:
        """Yield the events that are complete with these bytes. Raises ValueError for what is no event."""
        # Only what is new is searched: an event may come in a million chunks.
        searched = max(0, len(self._received) - 1)
        self._received += chunk
        end = self._received.rfind(b"\n\n", searched)
        blocks = self._received[:end].split(b"\n\n") if end >= 0 else ()
        if blocks:
            del self._received[: end + 2]
        if len(self._received) > MAX_EVENT_BYTES:
            raise ValueError("an event is too long")
        for block in blocks:
            lines = block.decode().split("\n")
            fields = dict(line.split(": ", 1) for line in lines if ": " in line and line[0] != ":")
            if "event" not in fields:
                continue
            event = JobEvent(fields["event"], _data_of(fields.get("data", "")))
            yield event
            # Set after the event was processed: if that fails, the next connection sends it again.
            self._last_id = fields.get("id", self._last_id)
            self.is_over = event.name == "status" and event.data.get("status") in ("completed", "failed")


def _data_of(text: str) -> dict[str, Any]:
    """Return the JSON object of an event. Raises ValueError for anything else."""
    data = parsed(text.encode(), MAX_EVENT_BYTES)
    if isinstance(data, dict):
        return data
    raise ValueError("its data are no JSON object")
