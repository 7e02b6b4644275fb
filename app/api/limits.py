"""/v1/limits: every limit that a client can reach, by name. A test exceeds each of them."""

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from app.api.context import answer, context_of
from app.body import MAX_DEPTH, MAX_SMALL_JSON, MAX_VALUES
from app.config import ApiConfig
from app.fields import LONGEST_QUEUE_TIMEOUT_S, MAX_IDEMPOTENCY_KEY, MAX_METADATA_NAME, MAX_METADATA_TEXT, MAX_URL
from app.operations import Operation
from storage.index_keys import MAX_PRIORITY, MIN_PRIORITY
from storage.jobs.record import DAY_S
from workflows.graph import LONGEST_NAME, MOST_INPUTS


class Limits(BaseModel):
    """What this deployment takes; null where it sets no limit. Sizes in bytes, lengths in characters, times in s."""

    model_config = ConfigDict(frozen=True)

    max_requests_per_s: float | None = Field(description="requests a second of one key, at one API process")
    max_active_jobs: int | None = Field(description="your jobs that are queued or running")
    max_queued_jobs: int | None = Field(description="your jobs that are queued")
    max_webhook_targets: int | None = Field(description="your receivers of the last 30 days")
    max_upload_bytes_a_day: int | None = Field(
        description="what you bring on a day (UTC), uploads and files in requests"
    )
    max_request_bytes: int = Field(description="a request's body")
    max_body_s: float = Field(description="how long a request's body may take")
    max_structure_bytes: int = Field(description="a request's body without its strings of more than 64 KiB")
    max_values: int = Field(description="values in a request's JSON: its commas, colons and opening brackets")
    max_depth: int = Field(description="how deep a request's JSON may be nested")
    max_text_bytes: int = Field(description="a string that is not a file")
    max_total_text_bytes: int = Field(description="all strings of more than 64 KiB in a request that are not files")
    max_unfinished_requests: int = Field(
        description="requests of yours whose bodies have begun and not arrived in whole at one API process"
    )
    max_long_polls: int = Field(description="requests of yours that wait for jobs at once at one API process")
    max_unread_bytes: int = Field(
        description="what your clients have not read yet of answers of more than 64 KiB, at one API process"
    )
    max_receiving_requests: int = Field(
        description="requests of more than 64 KiB that are received at once at one API process; yours half of them"
    )
    max_large_requests: int = Field(
        description="requests of more than 1 MiB, files not counted, that are worked on at once at one API process; "
        "yours half of them"
    )
    max_nodes: int = Field(description="nodes of a workflow")
    max_node_inputs: int = Field(description="inputs of one node")
    max_node_name_length: int = Field(description="a node's id, its class, or the name of an input")
    max_inputs: int = Field(description="`inputs` of a job")
    max_media: int = Field(description="`media` of a job")
    max_medium_bytes: int = Field(description="a file in a request, or behind a URL")
    max_urls: int = Field(description="URLs that are fetched for a job: `url` of its media, and `image_url` inputs")
    max_batch_urls: int = Field(description="URLs that are fetched for all jobs of a batch")
    max_fetch_s: float = Field(description="how long the fetches of a request may take together")
    max_pixels: int = Field(description="pixels of a picture, or of one frame")
    max_animation_pixels: int = Field(
        description="pixels of all frames of a picture that moves, 4,096 at least for each"
    )
    max_frames: int = Field(description="frames of a picture that moves")
    max_samples: int = Field(description="samples of a sound, of all its channels")
    max_video_pixels: int = Field(description="pixels of all frames of a video")
    max_media_s: float = Field(description="how long a video or a sound may be")
    max_upload_bytes: int = Field(description="a presigned upload")
    max_batch_jobs: int = Field(description="jobs of a batch")
    max_batch_nodes: int = Field(description="the nodes of a batch's graph, times its `input_sets`")
    max_batch_graph_bytes: int = Field(description="the size of a batch's graph, times its `input_sets`")
    max_metadata_pairs: int = Field(description="`metadata` of a job")
    max_metadata_name_length: int = Field(description="a name in `metadata`")
    max_metadata_text_length: int = Field(description="a text in `metadata`")
    max_webhook_url_length: int = Field(description="`webhook_url`")
    max_idempotency_key_length: int = Field(description="`Idempotency-Key`")
    min_priority: int = Field(description="`priority`, at least")
    max_priority: int = Field(description="`priority`, at most")
    max_timeout_s: int = Field(description="`timeout_s`")
    max_queue_timeout_s: int = Field(description="`queue_timeout_s`")
    max_retain_days: float = Field(description="`retain_days`")
    max_wait_s: int = Field(description="`wait` of GET /v1/jobs/{job_id}")
    max_page: int = Field(description="`limit` of a list")


def limits_of(config: ApiConfig) -> Limits:
    return Limits(
        max_requests_per_s=config.max_requests_per_s,
        max_active_jobs=config.max_active_jobs,
        max_queued_jobs=config.max_queued_jobs,
        max_webhook_targets=config.max_webhook_targets,
        max_upload_bytes_a_day=config.max_upload_bytes_a_day,
        max_request_bytes=config.max_request_bytes,
        max_body_s=config.max_body_s,
        max_structure_bytes=MAX_SMALL_JSON,
        max_values=MAX_VALUES,
        max_depth=MAX_DEPTH,
        max_text_bytes=config.max_text_bytes,
        max_total_text_bytes=config.max_total_text_bytes,
        max_unfinished_requests=config.max_unfinished_requests,
        max_long_polls=config.max_long_polls,
        max_unread_bytes=config.max_unread_bytes,
        max_receiving_requests=config.max_receiving_requests,
        max_large_requests=config.max_large_requests,
        max_nodes=config.max_nodes,
        max_node_inputs=MOST_INPUTS,
        max_node_name_length=LONGEST_NAME,
        max_inputs=config.max_inputs,
        max_media=config.max_media,
        max_medium_bytes=config.max_medium_bytes,
        max_urls=config.max_urls,
        max_batch_urls=config.max_batch_urls,
        max_fetch_s=config.max_fetch_s,
        max_pixels=config.media_limits.max_pixels,
        max_animation_pixels=config.media_limits.max_animation_pixels,
        max_frames=config.media_limits.max_frames,
        max_samples=config.media_limits.max_samples,
        max_video_pixels=config.media_limits.max_video_pixels,
        max_media_s=config.media_limits.max_duration_s,
        max_upload_bytes=config.largest_upload,
        max_batch_jobs=config.most_jobs_at_once,
        max_batch_nodes=config.max_batch_nodes,
        max_batch_graph_bytes=config.max_batch_graph_bytes,
        max_metadata_pairs=config.max_metadata_pairs,
        max_metadata_name_length=MAX_METADATA_NAME,
        max_metadata_text_length=MAX_METADATA_TEXT,
        max_webhook_url_length=MAX_URL,
        max_idempotency_key_length=MAX_IDEMPOTENCY_KEY,
        min_priority=MIN_PRIORITY,
        max_priority=MAX_PRIORITY,
        max_timeout_s=config.max_timeout_s,
        max_queue_timeout_s=LONGEST_QUEUE_TIMEOUT_S,
        max_retain_days=config.retain_s / DAY_S,
        max_wait_s=config.max_wait_s,
        max_page=config.max_page,
    )


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
