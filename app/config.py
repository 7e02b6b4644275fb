"""Configuration of the HTTP API. Each limit and option is declared here once: its name, default, bounds and meaning.

The settings inherit these fields, `GET /v1/limits` shows the limits, and docs/reference/settings.md repeats them (a
test compares).
"""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from app.body import TextLimits
from app.fields import LONGEST_QUEUE_TIMEOUT_S
from app.urls import base_url, web_origin
from storage.bounds import Amount, Count, CountOrZero, Seconds, WholeSeconds
from storage.intake.media_check import MediaLimits
from workflows.policy import DEFAULT, GraphTrust, NodePolicy

MIB, GIB = 1024**2, 1024**3

CountedJobs = Annotated[int, Field(ge=1, le=10_000)]
"""A limit for counted jobs. Counting costs one LIST per thousand jobs."""
PutBytes = Annotated[int, Field(ge=1, le=5 * GIB)]
"""The size of a single PUT. S3 accepts at most 5 GiB."""
UrlSeconds = Annotated[int, Field(ge=1, le=7 * 24 * 3600)]
"""A lifetime of a presigned URL. S3 accepts at most seven days."""
PageSize = Annotated[int, Field(ge=1, le=1_000)]
"""A page of a list. S3 lists at most a thousand keys per request."""
WaitSeconds = Annotated[int, Field(ge=1, le=140)]
"""A long poll. Modal redirects a request after 150 seconds."""
QueueSeconds = Annotated[int, Field(ge=1, le=LONGEST_QUEUE_TIMEOUT_S)]
BaseUrl = Annotated[Annotated[str, AfterValidator(base_url)] | None, BeforeValidator(lambda given: given or None)]
"""A URL to which paths are added. An empty one counts as unset."""
WebOrigin = Annotated[str, AfterValidator(web_origin)]


class RequestLimits(MediaLimits):
    """The limits that a client can meet and a setting can change. Sizes are in bytes, times in seconds."""

    max_requests_per_s: Amount | None = Field(
        None, description="most requests a second of one key at one API process; any number if unset"
    )
    max_active_jobs: CountedJobs | None = Field(
        None, description="most jobs of one tenant that are queued or running; any number if unset"
    )
    max_queued_jobs: CountedJobs | None = Field(
        None, description="most jobs of one tenant that are queued; any number if unset"
    )
    max_webhook_targets: Annotated[int, Field(ge=1, le=900)] | None = Field(
        None, description="most receivers of webhooks that a tenant may have had in 30 days; any number if unset"
    )
    max_upload_bytes_a_day: Count | None = Field(
        None,
        description="most bytes that one tenant brings on a day (UTC): uploads, files in requests, and copies of "
        "outputs and files for new jobs; any number if unset",
    )
    max_request_bytes: Count = Field(700 * MIB, description="largest request body")
    # 700 MiB at 3 Mbit/s.
    max_body_s: Seconds = Field(1800.0, description="longest time in which a request body arrives, seconds")
    max_text_bytes: Count = Field(1 * MIB, description="longest string in a request that is not a file")
    max_total_text_bytes: Count = Field(
        8 * MIB, description="most bytes of all strings of more than 64 KiB in a request that are not files"
    )
    max_unfinished_requests: Count = Field(
        256, description="most requests of one tenant whose bodies have begun and not arrived at one API process"
    )
    # More than `max_unfinished_requests`, so that slow bodies leave room. Bodies of up to 64 KiB in memory, which no
    # other limit counts once they have arrived, take at most 64 MiB of a tenant's.
    max_requests_in_flight: Count = Field(
        1_000,
        description="most requests of one tenant in flight at one API process; those that wait for jobs do not count",
    )
    max_long_polls: Count = Field(
        1_000, description="most requests of one tenant that wait for jobs or batches at one API process"
    )
    # Each counts as a request in flight, of which an API container on Modal takes few (`infra/on_modal/api.py`).
    max_streams: Count = Field(
        60, description="most open streams of events at one API process; one tenant gets half of them"
    )
    max_streams_of_key: Count = Field(20, description="of these, streams of one key")
    max_stream_s: Seconds = Field(
        140.0, description="after how long a stream of events ends, so that its client reconnects, seconds"
    )
    # A test polls the bucket until the receiver has answered.
    max_webhook_tests: Count = Field(
        8, description="most tests of receivers of one tenant that wait for an answer at one API process"
    )
    max_unread_bytes: Count = Field(
        64 * MIB,
        description="most bytes of answers of more than 64 KiB that one tenant's clients have not read yet, at one "
        "API process",
    )
    # This bounds the temporary files to 16 times `max_request_bytes`.
    max_receiving_requests: Count = Field(
        16,
        description="most requests of more than 64 KiB that one API process receives at once, and as many of more "
        "than 64 KiB in memory (text, and 64 bytes for each value) that it works on; one tenant gets half of each",
    )
    max_large_requests: Count = Field(
        4,
        description="most requests of more than 4 MiB in memory, files not counted, that one API process works on at "
        "once; one tenant gets half of them",
    )
    max_nodes: Count = Field(2_000, description="most nodes of a workflow")
    max_inputs: CountOrZero = Field(1_000, description="most `inputs` of a job")
    max_media: CountOrZero = Field(10, description="most `media` of a job")
    max_medium_bytes: Count = Field(50 * MIB, description="largest file in a request body or behind a URL")
    max_urls: CountOrZero = Field(
        20, description="most URLs that are fetched for a job: `url` of its media, and `image_url` inputs"
    )
    max_batch_urls: CountOrZero = Field(200, description="most URLs that are fetched for all jobs of a batch")
    max_fetch_s: Seconds = Field(
        300.0, description="longest time that the fetches of one request take together, seconds"
    )
    max_upload_bytes: PutBytes = Field(5 * GIB, description="largest presigned upload")
    # Its body comes through the API. Clients wait 30 s for the whole call.
    max_asset_bytes: Count = Field(100 * MIB, description="largest file of POST /api/v2/assets")
    max_batch_jobs: Count = Field(1_000, description="most jobs of one batch")
    # Validating one node takes about 16 µs.
    max_batch_nodes: Count = Field(
        500_000, description="most nodes of a batch: those of its graph, times its `input_sets`"
    )
    # Checking one value takes up to 1 µs, a text that names a file up to 4. Most graphs have fewer than 8 a node.
    max_batch_values: Count = Field(
        5_000_000,
        description="most values of a batch: those of its graph's inputs and the members of lists and objects in them, "
        "times its `input_sets`",
    )
    # A step takes about 3 µs. The largest of 1,700 published files takes 7,000.
    max_batch_conversion_steps: Count = Field(
        2_000_000,
        description="most steps of converting the editor's files of a batch's `jobs` "
        "(`max_conversion_steps` is the limit of one)",
    )
    # The graph is sent once and stored with each job; that of an editor's file may be larger than the file.
    max_batch_graph_bytes: Count = Field(
        256 * MIB,
        description="most bytes of a batch's graphs: the size of its graph, times its `input_sets`, or the sizes of "
        "the graphs of its `jobs`",
    )
    max_metadata_pairs: CountOrZero = Field(16, description="most `metadata` of a job")
    max_timeout_s: WholeSeconds = Field(24 * 3600, description="largest run-time limit that a job may name, seconds")
    max_wait_s: WaitSeconds = Field(
        60, description="longest `wait` of a GET of a job or batch, and of the `Prefer` of a submission, seconds"
    )
    max_page: PageSize = Field(200, description="largest `limit` of a list")
    # A GET of the bucket each, 16 at a time.
    max_scanned_jobs: PageSize = Field(
        1_000, description="most jobs that one page of GET /v1/jobs reads to find those that its filters select"
    )

    @property
    def media_limits(self) -> MediaLimits:
        """The limits on files alone, which are passed to the process that examines one."""
        return MediaLimits(**{name: getattr(self, name) for name in MediaLimits.model_fields})

    @property
    def text_limits(self) -> TextLimits:
        return TextLimits(self.max_text_bytes, self.max_total_text_bytes)

    @property
    def most_jobs_at_once(self) -> int:
        """The largest batch that can be accepted. One beyond a job quota would be refused on every retry."""
        limits = (self.max_batch_jobs, self.max_active_jobs, self.max_queued_jobs)
        return min(limit for limit in limits if limit is not None)

    @property
    def largest_upload(self) -> int:
        """The largest upload that can be accepted, in bytes: no larger than the daily quota."""
        return min(self.max_upload_bytes, self.max_upload_bytes_a_day or self.max_upload_bytes)

    @property
    def largest_asset(self) -> int:
        """The largest file of an asset that can be accepted, in bytes: no larger than the daily quota."""
        return min(self.max_asset_bytes, self.max_upload_bytes_a_day or self.max_asset_bytes)


class ApiOptions(RequestLimits):
    """The limits, and the other settings that the API takes as they are."""

    public_url: BaseUrl = Field(
        None,
        description="base of the links in answers and events; unset means the request's own host, "
        "and in events on Modal the API's",
    )
    docs: bool = Field(default=True, description="serve /docs and /openapi.json")
    ui: bool = Field(default=True, description="serve /ui, the pages for operators")
    cors_origins: tuple[WebOrigin, ...] = Field(
        (),
        description="web origins whose pages may call the API, as a JSON list, `*` for all; with none, no browser may",
    )
    metrics: bool = Field(default=False, description="serve /metrics, to keys with the scope `admin`")
    graphs: GraphTrust = Field(
        "own",
        description="who writes the graphs: `own` (your team; they reach ComfyUI as submitted) or `strangers` (end "
        "users; what may be dangerous is refused); `keys create --graphs` sets it for one key",
    )
    output_expires_s: UrlSeconds = Field(3600, description="how long a presigned output URL is valid, seconds")
    default_timeout_s: WholeSeconds = Field(1800, description="run-time limit of a job that names none, seconds")
    queue_timeout_s: QueueSeconds | None = Field(
        None, description="longest wait of a job that names none; unset means 7 days, or as long as the job is kept"
    )
    bucket_timeout_s: Seconds = Field(
        15.0,
        description="how long a request may wait for the bucket in all, before it gets a 503, seconds; each job of a "
        "batch adds 0.1 s",
    )


class ApiConfig(ApiOptions):
    """The whole configuration of the API."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    api_key: str | None = Field(repr=False)
    """The admin key of the default tenant."""
    session_secret: bytes | None = Field(None, repr=False)
    """What sessions of the pages are signed with; None makes one for each process."""
    node_policy: NodePolicy = Field(default_factory=lambda: NodePolicy.parse(DEFAULT))
    """The node classes that a graph may use."""
    body_idle_s: float = 30.0
    """The longest pause within a request body."""
    cancel_wait_s: float = 6.0
    """The time that DELETE waits for a running job to stop before it responds 202."""
    keep_alive_s: float = 10.0
    """The silence after which a stream of events sends a comment. Clients give up after 30 s, some proxies earlier."""
    feed_poll_s: float = 2.0
    """Seconds between two polls of the index of a tenant whose jobs are followed."""
    spawn_wait_s: float = 5.0
    """The time that the response to a submission waits for a worker to be requested; the reaper retries."""
    retain_s: int = 7 * 24 * 3600
    """The longest retention of a finished job."""
    gpu_pools: tuple[str, ...] = ()
    """The pools that a job may name as `gpu`."""
    webhook_public_keys: tuple[str, ...] = ()
    """The ed25519 public keys that verify webhook signatures, as `whpk_…`."""
    signs_webhooks: bool = True
    """Whether the deployment has a webhook secret. Unsigned events are not sent."""
    webhook_test_wait_s: float = 20.0
    """The time that POST /v1/webhooks/test waits for the receiver's response."""
