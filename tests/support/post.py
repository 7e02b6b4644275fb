"""All parts between a job and the receiver of its events, with a clock that a test sets."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from app.api.events import EventRenderer
from app.config import ApiConfig
from infra.compose.reaper import reaper
from infra.compose.stores import make_stores
from infra.settings import Settings
from storage.bucket.objects import ObjectStore
from storage.clock import ManualClock
from storage.index_keys import OUTBOX, OutboxEntry
from storage.jobs.record import JobRecord
from storage.jobs.store import StoredJob
from storage.launcher import NoLauncher
from storage.signal import MemorySignal
from storage.webhooks.signing import Signer, new_secret
from tests.support.records import a_job
from workers.webhooks.deliverer import Deliverer
from workers.webhooks.dispatcher import Dispatcher
from workers.webhooks.post import Answer

URL = "https://example.com/hook"
ALL = ("queued", "started", "progress", "output", "completed", "failed")
OK, DOWN = Answer(200, 5), Answer(503, 5, excerpt="down")


@dataclass
class Receiver:
    """A `WebhookTransport` that keeps its requests and gives the scripted answers, then 200."""

    answers: list[Answer] = field(default_factory=list)
    posts: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    wants: bool = True

    async def post(self, tenant: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.posts.append((url, headers, body))
        return self.answers.pop(0) if self.answers else OK

    async def handshake(self, tenant: str, url: str, origin: str) -> Answer | None:
        self.asked.append(origin)
        return None if self.wants else Answer(None, 0, "the receiver does not allow it")

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.posts]

    def types(self) -> list[str]:
        return [event["type"].split(".")[2] for event in self.events()]


SETTINGS = Settings(bucket="tests", max_attempts=2, lease_s=60)
"""Immutable, and made once, because a hundred tests would spend 8 ms on it."""


class Post:
    """All parts between a job and its receiver."""

    def __init__(self, objects: ObjectStore, clock: ManualClock) -> None:
        self.objects, self.clock = objects, clock
        self.settings = SETTINGS
        self.stores = make_stores(self.settings, objects, MemorySignal(), clock)
        self.receiver: Receiver = Receiver()
        self.secret = new_secret()
        self.deliverer = self.new_deliverer()

    def new_deliverer(self, *secrets: str) -> Deliverer:
        stores = self.stores
        return Deliverer(
            stores,
            transport=self.receiver,
            renderer=EventRenderer(stores.objects, ApiConfig(api_key=None, public_url="https://api.example.com")),
            signer=Signer(secrets or (self.secret,)),
        )

    async def send(self) -> None:
        """Send every event that is due."""
        await Dispatcher(self.stores.outbox, self.deliverer, MemorySignal(), poll_s=1).sweep()

    async def reap(self) -> None:
        await reaper(self.settings, self.stores, NoLauncher()).sweep()

    def pass_time(self, **span: float) -> None:
        self.clock.set(self.clock.now() + timedelta(**span))

    async def queued(self, *events: str, **fields: Any) -> StoredJob:
        standard = {"created_at": self.clock.now(), "timeout_s": 3600, "webhook_url": URL}
        record = a_job(**(standard | {"webhook_events": events or ALL} | fields))
        return await self.stores.jobs.create(record.initial(), workflow=b"{}")

    async def claimed(self, *events: str, **fields: Any) -> StoredJob:
        await self.queued(*events, **fields)
        stored = await self.stores.queue.claim("default", "w")
        assert stored is not None
        return stored

    async def completed(self, *events: str, **fields: Any) -> JobRecord:
        now = self.clock.now()
        stored = await self.stores.jobs.evolve_from(
            await self.claimed(*events, **fields), lambda r: r.complete(attempt=r.attempt, now=now, outputs=())
        )
        return stored.record

    async def outbox_entries(self) -> list[OutboxEntry]:
        return [OutboxEntry.parse(key) for key in (await self.objects.list(OUTBOX)).keys]
