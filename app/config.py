"""Limits and addresses of the HTTP API, each with a name, a default and a meaning. `infra.settings` sets them."""

from dataclasses import dataclass, field

from app.body import TextLimits
from storage.intake.media_check import MediaLimits
from workflows.policy import DEFAULT, GraphTrust, NodePolicy

MIB, GIB = 1024**2, 1024**3


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """Configuration of the API. Sizes are in bytes, times in seconds. `api_key` is the default tenant's admin key."""

    api_key: str | None
    public_url: str | None = None
    docs: bool = True
    metrics: bool = False
    """Whether GET /metrics is served."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the API from a browser."""
    max_requests_per_s: float | None = None
    """Requests per second of one key at one process; None means no limit, here and in the next four."""
    max_active_jobs: int | None = None
    """Queued or running jobs of one tenant."""
    max_queued_jobs: int | None = None
    max_webhook_targets: int | None = None
    """Webhook receivers of one tenant within 30 days."""
    max_upload_bytes_a_day: int | None = None
    max_request_bytes: int = 700 * MIB
    body_idle_s: float = 30.0
    """The longest pause within a request body."""
    max_body_s: float = 1800.0
    """The longest time to receive a body: 700 MiB at 3 Mbit/s."""
    max_text_bytes: int = 1 * MIB
    """The longest string in a request that is not a medium, such as a prompt."""
    max_total_text_bytes: int = 8 * MIB
    """The total of a request's strings of more than 64 KiB that are not media."""
    max_unfinished_requests: int = 256
    """Requests of one tenant whose bodies have begun and not arrived completely, at one process."""
    max_long_polls: int = 1_000
    """Requests of one tenant that wait for jobs, at one process."""
    max_unread_bytes: int = 64 * MIB
    """Unread bytes of one tenant's responses of more than 64 KiB, at one process."""
    max_receiving_requests: int = 16
    """Bodies of more than 64 KiB that a process receives and handles at once; one tenant gets half of them. This bounds
    the temporary files to 16 times `max_request_bytes`."""
    max_large_requests: int = 4
    """Requests of more than 1 MiB without media that a process handles at once; one tenant gets half of them."""
    max_media: int = 10
    max_medium_bytes: int = 50 * MIB
    max_urls: int = 20
    """URLs that are fetched for one job."""
    max_batch_urls: int = 200
    """URLs that are fetched for all jobs of a batch."""
    max_fetch_s: float = 300.0
    """The longest total time of one request's fetches."""
    max_upload_bytes: int = 5 * GIB
    media_limits: MediaLimits = field(default_factory=MediaLimits)
    """Limits on the decoded size of a file."""
    max_nodes: int = 2_000
    graphs: GraphTrust = "own"
    """The trust level of graphs whose key sets none."""
    node_policy: NodePolicy = field(default_factory=lambda: NodePolicy.parse(DEFAULT))
    """The node classes that a graph may use."""
    max_inputs: int = 1_000
    max_metadata_pairs: int = 16
    max_page: int = 200
    max_wait_s: int = 60
    cancel_wait_s: float = 6.0
    """The time that DELETE waits for a running job to stop before it responds 202."""
    bucket_timeout_s: float = 15.0
    """The total time that one request may wait for the bucket."""
    spawn_wait_s: float = 5.0
    """The time that the response to a submission waits for a worker to be requested; the reaper retries."""
    output_expires_s: int = 3600
    default_timeout_s: int = 1800
    max_timeout_s: int = 24 * 3600
    queue_timeout_s: int | None = None
    """The queue timeout of a job that names none; None means no timeout."""
    retain_s: int = 7 * 24 * 3600
    """The longest retention of a finished job."""
    max_batch_jobs: int = 1_000
    max_batch_nodes: int = 500_000
    """The nodes of a batch's graph times its input sets. Validating one takes about 16 µs."""
    max_batch_graph_bytes: int = 256 * MIB
    """The size of a batch's graph times its input sets: the graph is sent once and stored with each job."""
    gpu_pools: tuple[str, ...] = ()
    """The pools that a job may name as `gpu`."""
    webhook_public_keys: tuple[str, ...] = ()
    """The ed25519 public keys that verify webhook signatures, as `whpk_…`."""
    signs_webhooks: bool = True
    """Whether the deployment has a webhook secret. Unsigned events are not sent."""
    webhook_test_wait_s: float = 20.0
    """The time that POST /v1/webhooks/test waits for the receiver's response."""

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
