"""Builds the deliverer from the settings and the stores."""

from datetime import timedelta

from app.api.events import EventRenderer
from infra.compose.api import api_config
from infra.compose.values import receiver_rules, webhook_secrets
from infra.settings import Settings
from storage.stores import Stores
from storage.webhooks.signing import Signer
from workers.webhooks.deliverer import Deliverer, DeliveryPolicy
from workers.webhooks.dispatcher import Dispatcher
from workers.webhooks.post import RemotePoster, WebhookTransport


def dispatcher(settings: Settings, stores: Stores, transport: WebhookTransport) -> Dispatcher:
    policy = DeliveryPolicy(
        lease=timedelta(seconds=15 + 3 * settings.webhook_timeout_s),
        retry_scale=settings.webhook_retry_scale,
        origin=settings.webhook_origin,
    )
    renderer = EventRenderer(stores.objects, api_config(settings))
    deliverer = Deliverer(stores, transport=transport, renderer=renderer, signer=signer(settings), policy=policy)
    return Dispatcher(stores.outbox, deliverer, stores.signal, poll_s=settings.deliver_poll_s)


def signer(settings: Settings) -> Signer:
    key = settings.webhook_signing_key
    return Signer(webhook_secrets(settings), None if key is None else key.get_secret_value())


def webhook_transport(settings: Settings, stores: Stores) -> RemotePoster:
    return RemotePoster(receiver_rules(settings, stores.api_keys), timeout_s=settings.webhook_timeout_s)
