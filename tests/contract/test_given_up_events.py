"""Events that can never be sent become dead letters."""

from collections.abc import Mapping

import pytest

from app.api.events import EventRenderer
from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.outbox import Committed
from storage.signal import MemorySignal
from storage.webhooks.signing import Signer
from tests.support.post import Post
from workers.webhooks.deliverer import Deliverer
from workers.webhooks.dispatcher import Dispatcher

pytestmark = pytest.mark.anyio


class BrokenRenderer(EventRenderer):
    """A renderer that fails for every event."""

    async def render(self, found: Committed) -> tuple[Mapping[str, str], bytes]:
        raise ValueError("a defect")


async def test_an_event_that_cannot_be_rendered_becomes_a_dead_letter(clock: ManualClock) -> None:
    """An event that cannot be rendered is given up without blaming its endpoint, and its job can be removed."""
    post = Post(MemoryObjectStore(clock), clock)
    stores = post.stores
    record = await post.completed("completed")
    renderer = BrokenRenderer(stores.objects, ApiConfig(api_key=None))
    broken = Deliverer(stores, transport=post.receiver, renderer=renderer, signer=Signer())
    await Dispatcher(stores.outbox, broken, MemorySignal(), poll_s=1).sweep()
    ((letter,), _) = await stores.deliveries.dead_letters("default", limit=10, after="")
    assert letter.reason is not None
    assert "could not be made" in letter.reason
    assert await stores.endpoints.all("default") == []
    assert await stores.remover.is_free_to_go(record)


async def test_an_event_without_its_secret_becomes_a_dead_letter(clock: ManualClock) -> None:
    """An event whose webhook secret no longer exists is given up and never sent with another signature."""
    post = Post(MemoryObjectStore(clock), clock)
    await post.completed("completed", has_webhook_secret=True)
    await post.send()
    ((letter,), _) = await post.stores.deliveries.dead_letters("default", limit=10, after="")
    assert letter.reason is not None
    assert "secret" in letter.reason
    assert post.receiver.posts == []
