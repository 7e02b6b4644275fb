"""The limits and addresses of the HTTP face. Each has a name, a default and a meaning; `infra.settings` fills them."""

from dataclasses import dataclass, field

from app.body import TextLimits
from storage.intake.media_check import MediaLimits
from workflows.policy import DEFAULT, GraphTrust, NodePolicy

MIB, GIB = 1024**2, 1024**3


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """Sizes in bytes, times in seconds. `api_key` is the one that the settings bring, the default tenant's."""

    api_key: str | None
    public_url: str | None = None
    docs: bool = True
    metrics: bool = False
    """Whether GET /metrics is served."""
    cors_origins: tuple[str, ...] = ()
    """Whose pages may call the API from a browser."""
    max_requests_per_s: float | None = None
    """Of one key at one process; None for any number."""
    max_active_jobs: int | None = None
    """Queued or running, of one tenant; None for any number, as with the next two."""
    max_queued_jobs: int | None = None
    max_webhook_targets: int | None = None
    """Of a tenant, in 30 days."""
    max_upload_bytes_a_day: int | None = None
    max_request_bytes: int = 700 * MIB
    body_idle_s: float = 30.0
    """How long a request's body may pause."""
    max_body_s: float = 1800.0
    """How long a whole body may take: 700 MiB at 3 Mbit/s."""
    max_text_bytes: int = 1 * MIB
    """Longest string in a request that is not a medium: a prompt, for one."""
    max_total_text_bytes: int = 8 * MIB
    """Of all strings of a request together that have more than 64 KiB and are not media."""
    max_unfinished_requests: int = 256
    """So many bodies of a tenant, of any size, may have begun and not arrived in whole in a process."""
    max_long_polls: int = 1_000
    """So many requests of a tenant may wait for jobs at a process."""
    max_unread_bytes: int = 64 * MIB
    """So much of a tenant's answers of more than 64 KiB may not have been read yet at a process."""
    max_receiving_requests: int = 16
    """So many bodies of more than 64 KiB are received and worked on at once in a process; a tenant's half of them. This
    bounds the temporary files: 16 times `max_request_bytes`."""
    max_large_requests: int = 4
    """So many requests of more than a MiB without media are worked on at once in a process; a tenant's half of them."""
    max_media: int = 10
    max_medium_bytes: int = 50 * MIB
    max_urls: int = 20
    """That are fetched for one job."""
    max_batch_urls: int = 200
    """That are fetched for all jobs of a batch."""
    max_fetch_s: float = 300.0
    """How long the fetches of one request may take together."""
    max_upload_bytes: int = 5 * GIB
    media_limits: MediaLimits = field(default_factory=MediaLimits)
    """How large a file may become in an engine's memory."""
    max_nodes: int = 2_000
    graphs: GraphTrust = "own"
    """Who writes the graphs, where a request's key does not say it."""
    node_policy: NodePolicy = field(default_factory=lambda: NodePolicy.parse(DEFAULT))
    """Which node classes a graph may use."""
    max_inputs: int = 1_000
    max_metadata_pairs: int = 16
    max_page: int = 200
    max_wait_s: int = 60
    cancel_wait_s: float = 6.0
    """How long DELETE waits for a running job to stop before it answers 202."""
    bucket_timeout_s: float = 15.0
    """How long one request may wait for the bucket, in all."""
    spawn_wait_s: float = 5.0
    """How long an accepted job's answer waits while a worker is asked for; the reaper asks again."""
    output_expires_s: int = 3600
    default_timeout_s: int = 1800
    max_timeout_s: int = 24 * 3600
    queue_timeout_s: int | None = None
    """Of a job that names none; None waits for ever."""
    retain_s: int = 7 * 24 * 3600
    """How long a finished job stays at most."""
    max_batch_jobs: int = 1_000
    max_batch_nodes: int = 500_000
    """The nodes of a batch's graph times its input sets: each is checked, in about 16 µs."""
    max_batch_graph_bytes: int = 256 * MIB
    """Each job of a batch stores the graph, which is sent once."""
    gpu_pools: tuple[str, ...] = ()
    """What a job may name as `gpu`."""
    webhook_public_keys: tuple[str, ...] = ()
    """What receivers may verify ed25519 signatures with, as `whpk_…`."""
    signs_webhooks: bool = True
    """Whether the deployment has a secret: an event that nobody can verify is not sent."""
    webhook_test_wait_s: float = 20.0
    """How long POST /v1/webhooks/test waits for the receiver's answer."""

    @property
    def text_limits(self) -> TextLimits:
        return TextLimits(self.max_text_bytes, self.max_total_text_bytes)

    @property
    def most_jobs_at_once(self) -> int:
        """The largest batch that can ever be accepted: one beyond the job quota would be refused on every retry."""
        limits = (self.max_batch_jobs, self.max_active_jobs, self.max_queued_jobs)
        return min(limit for limit in limits if limit is not None)

    @property
    def largest_upload(self) -> int:
        """As `most_jobs_at_once`, in bytes."""
        return min(self.max_upload_bytes, self.max_upload_bytes_a_day or self.max_upload_bytes)
