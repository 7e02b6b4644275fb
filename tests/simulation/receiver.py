"""The receivers of events in virtual time: a `WebhookTransport` that fails, hangs, or accepts events without a
response."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.simulation.faults import Faults
from tests.simulation.watcher import Watcher
from workers.webhooks.post import Answer


@dataclass(slots=True)
class SimulatedReceiver:
    faults: Faults
    watcher: Watcher
    taken: dict[str, float] = field(default_factory=dict)
    """The last arrival of each event by its id, whatever response the sender got."""

    async def handshake(self, tenant: str, url: str, origin: str) -> Answer | None:
        return None

    async def post(self, tenant: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        rates, event = self.faults.rates, json.loads(body)
        self.watcher.event_sent(event["id"], event["type"], event["subject"])
        await self.faults.delay()
        if self.faults.happens(rates.receiver_down):
            return Answer(503, 5)
        if self.faults.happens(rates.receiver_hangs):
            await asyncio.sleep(1)
            return Answer(None, 1000, "simulated: no answer")
        self.taken[event["id"]] = asyncio.get_running_loop().time()
        if self.faults.happens(rates.answer_lost):
            return Answer(None, 1000, "simulated: the answer was lost")
        return Answer(204, 5)
