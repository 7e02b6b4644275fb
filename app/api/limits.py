"""/v1/limits: every limit that a client can meet, by name. A test exceeds each of them."""

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import answer, context_of
from app.body import MAX_DEPTH, MAX_SMALL_JSON, MAX_VALUES
from app.config import ApiConfig, RequestLimits
from app.fields import (
    LONGEST_DEADLINE_S,
    LONGEST_QUEUE_TIMEOUT_S,
    MAX_IDEMPOTENCY_KEY,
    MAX_METADATA_NAME,
    MAX_METADATA_TEXT,
    MAX_URL,
)
from app.operations import Operation
from storage.index_keys import MAX_PRIORITY, MIN_PRIORITY
from storage.jobs.record import DAY_S
from workflows.editor.budget import MOST_BYTES, MOST_STEPS
from workflows.graph import LONGEST_NAME, MOST_INPUTS


class Limits(RequestLimits):
    """What this deployment takes; null where it sets no limit. Sizes in bytes, lengths in characters, times in s."""

    max_structure_bytes: int = Field(
        MAX_SMALL_JSON, description="most bytes of a request body without its strings of more than 64 KiB"
    )
    max_values: int = Field(
        MAX_VALUES, description="most values in a request's JSON: its commas, colons and opening brackets"
    )
    max_depth: int = Field(MAX_DEPTH, description="deepest nesting of a request's JSON")
    max_node_inputs: int = Field(MOST_INPUTS, description="most inputs of one node")
    max_node_name_length: int = Field(LONGEST_NAME, description="longest node id, class, or name of an input")
    max_conversion_steps: int = Field(
        MOST_STEPS, description="most steps of converting a file of the editor: nodes, inputs, links, and texts read"
    )
    max_conversion_bytes: int = Field(
        MOST_BYTES, description="most bytes of names, values and titles in the graph that a file of the editor makes"
    )
    max_metadata_name_length: int = Field(MAX_METADATA_NAME, description="longest name in `metadata`")
    max_metadata_text_length: int = Field(MAX_METADATA_TEXT, description="longest text in `metadata`")
    max_webhook_url_length: int = Field(MAX_URL, description="longest `webhook_url`")
    max_idempotency_key_length: int = Field(MAX_IDEMPOTENCY_KEY, description="longest `Idempotency-Key`")
    min_priority: int = Field(MIN_PRIORITY, description="lowest `priority`")
    max_priority: int = Field(MAX_PRIORITY, description="highest `priority`")
    max_queue_timeout_s: int = Field(LONGEST_QUEUE_TIMEOUT_S, description="largest `queue_timeout_s`")
    max_deadline_s: int = Field(LONGEST_DEADLINE_S, description="largest `deadline_s`")
    max_retain_days: float = Field(description="largest `retain_days`")


def limits_of(config: ApiConfig) -> Limits:
    """Return the limits in force. Those that a quota makes smaller are shown as the quota leaves them."""
    configured = config.model_dump(include=set(RequestLimits.model_fields))
    effective = {
        "max_upload_bytes": config.largest_upload,
        "max_asset_bytes": config.largest_asset,
        "max_batch_jobs": config.most_jobs_at_once,
    }
    return Limits(**configured | effective, max_retain_days=config.retain_s / DAY_S)


async def show(request: Request) -> Response:
    return answer(limits_of(context_of(request).config))


OPERATIONS = (
    Operation(
        show,
        "get_limits",
        "get",
        "/v1/limits",
        "What you may send, and how much",
        {200: ("every limit by name", Limits)},
    ),
)
