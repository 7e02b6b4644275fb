"""Events that can never be sent: given up, and seen."""

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
from workers.webhooks.deliverer import Deliverer, DeliveryRoom
from workers.webhooks.dispatcher import Dispatcher

pytestmark = pytest.mark.anyio


class BrokenRenderer(EventRenderer):
    """Cannot make any event."""

    def render(self, found: Committed) -> tuple[Mapping[str, str], bytes]:
        raise ValueError("a defect")


async def test_an_event_that_cannot_be_made_is_given_up_and_seen(clock: ManualClock) -> None:
    """It is not tried for ever, its receiver is not blamed, and its job can go."""
    post = Post(MemoryObjectStore(clock), clock)
    stores = post.stores
    record = await post.completed("completed")
    room = DeliveryRoom(stores.outbox, stores.deliveries, stores.endpoints, stores.objects, clock)
    renderer = BrokenRenderer(stores.objects, ApiConfig(api_key=None))
    broken = Deliverer(room, transport=post.receiver, renderer=renderer, signer=Signer())
    await Dispatcher(stores.outbox, broken, MemorySignal(), poll_s=1).sweep()
    ((letter,), _) = await stores.deliveries.dead_letters("default", limit=10, after="")
    assert letter.reason is not None
    assert "could not be made" in letter.reason
    assert await stores.endpoints.all("default") == []
    assert await stores.remover.is_free_to_go(record)


async def test_an_event_whose_secret_is_gone_is_given_up_and_seen(clock: ManualClock) -> None:
    """Signed with another secret it would be of no use."""
    post = Post(MemoryObjectStore(clock), clock)
    await post.completed("completed", has_webhook_secret=True)
    await post.send()
    ((letter,), _) = await post.stores.deliveries.dead_letters("default", limit=10, after="")
    assert letter.reason is not None
    assert "secret" in letter.reason
    assert post.receiver.posts == []
