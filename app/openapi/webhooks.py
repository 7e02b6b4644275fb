"""Deliveries, dead letters and receivers."""

from app.openapi.operation import ID, PAGE, Operation, Parameter
from app.wire.webhooks import (
    DeadLetterList,
    DeliveryList,
    DeliveryView,
    EndpointList,
    Replayed,
    ReplayRequest,
    WebhookKeys,
    WebhookTestRequest,
)

OPERATIONS = (
    Operation(
        "list_deliveries",
        "get",
        "/v1/jobs/{job_id}/deliveries",
        "How the delivery of the job's events went",
        {200: ("every event that was tried, with every attempt", DeliveryList)},
        parameters=(ID,),
        refusals=("unknown-job", "job-gone"),
    ),
    Operation(
        "redeliver",
        "post",
        "/v1/jobs/{job_id}/deliveries/{event_id}/redeliver",
        "Send an event once more, with the same id",
        {202: ("it is sent again", DeliveryView)},
        parameters=(ID, Parameter("event_id", "path", {"type": "string"}, "the event")),
        refusals=("unknown-job", "job-gone", "unknown-event"),
    ),
    Operation(
        "list_dead_letters",
        "get",
        "/v1/dead-letters",
        "Events that were given up, newest first",
        {200: ("one page", DeadLetterList)},
        parameters=(*PAGE,),
        refusals=("invalid-parameter", "bad-cursor"),
    ),
    Operation(
        "replay_dead_letters",
        "post",
        "/v1/dead-letters/replay",
        "Send dead letters again, with the same ids",
        {202: ("these are sent again", Replayed)},
        request=ReplayRequest,
        example={},
        refusals=("malformed-json", "request-timeout", "request-too-large", "validation-error"),
    ),
    Operation(
        "test_webhook",
        "post",
        "/v1/webhooks/test",
        "Send a signed test event to a receiver",
        {
            200: ("what came of it", DeliveryView),
            202: ("it was not tried within the time that this waits", DeliveryView),
        },
        request=WebhookTestRequest,
        example={"url": "https://example.com/hooks/comfyui"},
        refusals=(
            "malformed-json",
            "request-timeout",
            "request-too-large",
            "validation-error",
            "too-many-webhook-targets",
        ),
    ),
    Operation(
        "list_endpoints",
        "get",
        "/v1/webhooks/endpoints",
        "How each receiver has been doing",
        {200: ("the receivers of the last 30 days", EndpointList)},
    ),
    Operation(
        "get_event_schema",
        "get",
        "/schemas/{type}.json",
        "The JSON Schema of an event's data",
        {200: ("the schema", None)},
        parameters=(
            Parameter("type", "path", {"type": "string", "examples": ["comfyui.job.completed.v1"]}, "the event's type"),
        ),
        refusals=("not-found",),
        is_open=True,
    ),
    Operation(
        "get_webhook_keys",
        "get",
        "/.well-known/webhook-keys.json",
        "The public keys of ed25519 signatures",
        {200: ("the keys, none where only secrets are used", WebhookKeys)},
        is_open=True,
    ),
)
