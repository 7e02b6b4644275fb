"""A client that follows a job over processes that die: it reconnects with its last id, to the next API in turn."""

import itertools
import json
import time
from collections.abc import Sequence
from threading import Thread
from typing import Any

import httpx

from tests.support.plain_http import NO_TLS


class StreamClient(Thread):
    """Follows a job in a thread until its end. `events` has what it received, as (name, id, data)."""

    def __init__(self, urls: Sequence[str], key: str, job_id: str) -> None:
        super().__init__(daemon=True)
        self.events: list[tuple[str, str | None, dict[str, Any]]] = []
        self.connections = 0
        self._urls, self._job_id = urls, job_id
        self._headers = {"authorization": f"Bearer {key}"}
        self.start()

    def named(self, name: str) -> list[dict[str, Any]]:
        return [data for event, _, data in self.events if event == name]

    @property
    def lasting(self) -> list[tuple[str, str | None]]:
        """The events with ids, of which none may be missed."""
        return [(name, event_id) for name, event_id, _ in self.events if event_id is not None]

    def ended(self, timeout_s: float) -> str | None:
        """Wait for the end of the job and return its status, None if it did not end in time."""
        self.join(timeout_s)
        return None if self.is_alive() else self.named("status")[-1]["status"]

    def run(self) -> None:
        for url in itertools.cycle(self._urls):
            try:
                if self._follow(f"{url}/v1/jobs/{self._job_id}/events"):
                    return
            except httpx.TransportError:
                time.sleep(0.1)

    def _follow(self, url: str) -> bool:
        with httpx.stream("GET", url, headers=self._headers, timeout=30, verify=NO_TLS) as stream:
            self.connections += 1
            fields: dict[str, str] = {}
            for line in stream.iter_lines():
                name, _, text = line.partition(": ")
                if line:
                    fields[name] = text
                    continue
                if "event" in fields:
                    data = json.loads(fields["data"])
                    self.events.append((fields["event"], fields.get("id"), data))
                    self._headers["last-event-id"] = fields.get("id") or self._headers.get("last-event-id", "")
                    if data.get("status") in ("completed", "failed"):
                        return True
                fields = {}
        return False
