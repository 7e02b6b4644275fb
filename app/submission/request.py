"""The request bodies of job submissions: POST /v1/jobs and POST /v1/batches."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SecretStr,
    field_validator,
)

from app.fields import (
    DEFAULT_EVENTS,
    LONGEST_DEADLINE_S,
    LONGEST_QUEUE_TIMEOUT_S,
    LONGEST_RETAIN_DAYS,
    LONGEST_TIMEOUT_S,
    MAX_PARTNER_KEY,
    Few,
    Many,
    MetadataName,
    MetadataText,
    NodeId,
    RequestBody,
    WebhookUrl,
)
from app.numbers import Number, Whole
from storage.index_keys import MAX_PRIORITY, MIN_PRIORITY
from storage.jobs.models import EventName


class InputValue(RequestBody):
    """One value to set in the workflow."""

    node: NodeId = Field(description="id of the node", examples=["16"])
    field: NodeId = Field(description="name of its input", examples=["positive_prompt"])
    value: Any = Field(description="the value; base64 or a URL for the image types")
    type: Literal["raw", "image_base64", "image_url"] = Field(
        "raw", description="image types save the image as an input file and set the field to its name"
    )

    @field_validator("node", "field", mode="before")
    @classmethod
    def _numbers_are_names(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class MediumSource(RequestBody):
    """A file that the workflow loads by `name`; exactly one of the sources is given."""

    name: str = Field(description="as the loader node names it; folders are allowed", examples=["input.png"])
    data: str | None = Field(None, description="the bytes in base64, at most 50 MB")
    url: str | None = Field(None, description="a public URL of the bytes, at most 50 MB")
    upload_id: str | None = Field(None, description="an upload of POST /v1/uploads, at most 5 GiB")
    asset_id: str | None = Field(None, description="an asset: an upload, or another job's output by its `asset_id`")


class ExtraData(RequestBody):
    """What goes to the engine with the graph."""

    api_key_comfy_org: SecretStr = Field(
        min_length=1,
        max_length=MAX_PARTNER_KEY,
        description="your key of Comfy.org, for its partner nodes; never shown",
    )


class JobOptions(RequestBody):
    """How a job is run, whatever it computes."""

    media: Many[MediumSource] = Field(default_factory=list)
    priority: Whole = Field(0, ge=MIN_PRIORITY, le=MAX_PRIORITY, description="higher runs first")
    timeout_s: Whole | None = Field(
        None, ge=1, le=LONGEST_TIMEOUT_S, description="longest run time of one attempt, seconds"
    )
    queue_timeout_s: Whole | None = Field(
        None, ge=1, le=LONGEST_QUEUE_TIMEOUT_S, description="longest wait for a worker, seconds"
    )
    deadline_s: Whole | None = Field(
        None, ge=1, le=LONGEST_DEADLINE_S, description="longest time until the job has ended, queue included, seconds"
    )
    retain_days: Number | None = Field(
        None, gt=0, le=LONGEST_RETAIN_DAYS, description="how long the job and its files stay after its end"
    )
    strict: bool = Field(
        default=False, description="refuse the job if some of its outputs cannot run, instead of running the others"
    )
    gpu: str | None = Field(None, max_length=64, description="which of the deployment's GPU pools runs it")
    metadata: Annotated[dict[MetadataName, MetadataText], Few] = Field(
        default_factory=dict, description="your own labels, given back with the job"
    )
    extra_data: ExtraData | None = Field(None, description="ComfyUI's `extra_data`: goes to the engine alone")
    webhook_url: WebhookUrl | None = Field(None, description="where events are sent")
    webhook_secret: str | None = Field(
        None, max_length=200, description="`whsec_…` that signs this job's events instead of yours"
    )
    webhook_events: Many[EventName] = Field(
        default_factory=lambda: list(DEFAULT_EVENTS), description="which events are sent"
    )


class JobRequest(JobOptions):
    """What POST /v1/jobs takes."""

    workflow: Any = Field(description="ComfyUI's API-format graph")
    inputs: Many[InputValue] = Field(default_factory=list)


class BatchRequest(JobOptions):
    """What POST /v1/batches takes: `workflow` and `input_sets`, or `jobs`."""

    workflow: Any = Field(None, description="ComfyUI's API-format graph, of every job")
    input_sets: Many[Many[InputValue]] | None = Field(None, description="the inputs of one job each")
    jobs: Many[JobRequest] | None = Field(None, description="whole jobs instead")
