"""Every setting of the product: its name, its default and one line of help.

A composition root parses them once from `COMFYUI_MODAL_*` variables and passes them on explicitly; no other module
reads a setting from the environment. `docs/reference/settings.md` lists the same names (a test compares).
"""

import json
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from app.config import ApiOptions, BaseUrl, UrlSeconds
from app.urls import base_url
from infra.gpus import AUTO, NONE, SAGE_ARCHITECTURES, sage_architectures
from infra.nodes import ALL_PACKS
from storage.access.key_store import KeyRecord
from storage.bounds import Amount, AmountOrZero, Count, CountOrZero, Days, Seconds
from storage.keys import DEFAULT_POOL
from storage.webhooks.receivers import Loopback
from storage.webhooks.signing import public_key, secret_bytes
from workers.comfy.flags import parse_flags
from workers.isolation import FIRST_USER, USERS
from workflows.policy import DEFAULT, NodePolicy
from workflows.suggestions import suggestion

ENV_PREFIX = "COMFYUI_MODAL_"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables that limit the threads of the engine's libraries. A container sees all cores of its machine."""

MOST_ON_MODAL = 2**31 - 1
ModalCount = Annotated[int, Field(ge=1, le=MOST_ON_MODAL)]
"""A number of Modal's interface, which counts in 32 bits."""
LONGEST_CALL_S = 24 * 3600
CallSeconds = Annotated[int, Field(ge=1, le=LONGEST_CALL_S)]
"""The timeout of a Modal call. Modal accepts at most a day."""
PrintableText = Annotated[str, StringConstraints(pattern=r"^[!-~]*$")]
"""A text that may stand in a header of HTTP."""
GPU_POOLS = "additional GPU pools, as JSON: the name that a job gives as `gpu` → a Modal GPU"
Pools = dict[Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")], str]


GivenPath = Annotated[Path, AfterValidator(Path.absolute)]
"""A path that is relative to the working directory if it is given, and to the code's folder if it is the default."""


def _architectures(text: str) -> str:
    if text not in (AUTO, NONE) and not set(text.split(";")) <= SAGE_ARCHITECTURES:
        raise ValueError(f"not {AUTO}, {NONE}, or some of {'; '.join(sorted(SAGE_ARCHITECTURES, key=float))}")
    return text


def _policy(text: str) -> str:
    NodePolicy.parse(text)
    return text


def _engine_flags(text: str) -> str:
    parse_flags(text)
    return text


def _engine(text: str) -> str:
    return base_url(text) if "://" in text else text


def _lower(value: object) -> str:
    """Lower a text, so that a boolean may be written as in Python (`True`)."""
    return str(value).lower()


class BadSetting(ValueError):
    """A value that parses but cannot be used. The message begins with the setting's name."""


class Settings(BaseSettings, ApiOptions):
    """The settings of a process. A value that does not parse stops it at start, with the variable's name."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    # The bucket.
    bucket: str = Field(description="name of the bucket that holds all state")
    s3_endpoint: BaseUrl = Field(None, description="S3 endpoint URL; unset means AWS")
    s3_public_endpoint: BaseUrl = Field(None, description="endpoint in presigned URLs, where clients reach another")
    s3_region: PrintableText = Field("us-east-1", description="region of the bucket; `auto` for R2")
    s3_access_key: SecretStr | None = Field(None, description="access key id; unset means the usual AWS chain")
    s3_secret_key: SecretStr | None = Field(None, description="secret access key that belongs to the access key id")
    s3_prefix: str = Field("", description="folder in the bucket under which every key lies")

    # The API.
    api_key: SecretStr | None = Field(
        None, description="a key of the tenant `default` that may do everything; `keys create` makes others"
    )
    api_keys: tuple[KeyRecord, ...] = Field(
        (), description="records of further keys, as a JSON list; `keys create --for-settings` prints one"
    )
    min_free_bytes: CountOrZero = Field(
        512 * 1024**2,
        description="free space on the disk of the embedded bucket, beyond the 1 % that its server reserves, below "
        "which new jobs and uploads are refused; and on the disk of a worker, below which it claims no job",
    )
    fetching_requests: Count = Field(16, description="requests for which one API process fetches URLs at once")
    fetching_requests_of_tenant: Count = Field(4, description="of these, requests of one tenant")
    fetches_of_host: Count = Field(
        8,
        description="URLs of one host that an API process fetches at once; more than `fetching_requests_of_tenant`, so "
        "that one tenant does not take all of them",
    )
    max_media_checks: Count | None = Field(
        None,
        description="files that one process examines at once, one tenant all but one of them; unset means one for each "
        "CPU core, from 2 to 4",
    )
    max_waiting_media_checks: Count = Field(
        100, description="most files of one tenant that wait at one API process to be examined"
    )
    media_check_wait_s: Seconds = Field(30.0, description="longest wait of a file to be examined by the API, seconds")
    denied_nodes: Annotated[str, AfterValidator(_policy)] = Field(
        DEFAULT,
        description="node classes that no workflow may use, as patterns with commas between: the last that fits "
        "decides, `!` allows, `default` stands for those that run code, and for strangers those that reach any path",
    )
    upload_expires_s: UrlSeconds = Field(3600, description="how long a presigned upload URL is valid, seconds")
    retain_days: Days = Field(7.0, description="how long finished jobs, their files and unused uploads stay, days")

    # Pools, prices, and workflows with names.
    gpu_pools: Pools = Field({}, description=GPU_POOLS)
    gpu_prices: dict[str, AmountOrZero] = Field(
        {},
        description="prices for the costs that jobs show, as JSON: GPU → USD a second; others are Modal's list prices, "
        "and unknown on one's own machine",
    )
    workflows_dir: Path | None = Field(
        None, description="folder of your own workflows with names: a manifest `NAME.toml` for each graph"
    )

    # Webhooks.
    webhook_secret: SecretStr | None = Field(
        None,
        description="`whsec_…` that signs events; while secrets rotate several, the newest first",
    )
    webhook_signing_key: SecretStr | None = Field(None, description="`whsk_…`: an ed25519 key that signs as well")
    webhook_loopback: Annotated[Loopback, BeforeValidator(_lower)] = Field(
        "false",
        description="let events go to receivers on this machine: `true`, `false`, or `one-tenant`, the default of "
        "`up`: for as long as one tenant alone has keys",
    )
    fetch_loopback_ports: tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = Field(
        (),
        description="ports of this machine's loopback addresses that the URLs of files may name, as a JSON list, so "
        "that they can be tried with a server of your own; for `up` alone, and for every tenant",
    )
    refused_ports: tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = Field(
        (),
        description="ports of this machine that no event and no fetch reaches, as a JSON list; those of our own "
        "processes: `up` adds its own, and those in other settings' URLs need not be named",
    )
    webhook_origin: PrintableText | None = Field(
        None, description="our DNS name; if set, a receiver is asked once whether it takes events from it (OPTIONS)"
    )
    webhook_timeout_s: Seconds = Field(15.0, description="how long a receiver may take to answer, seconds")
    webhook_retry_scale: Amount = Field(1.0, description="multiplies every wait between attempts at a receiver")
    deliver_poll_s: Seconds = Field(1.0, description="how often the deliverer polls for due events, seconds")

    # The workers.
    engine: Annotated[str, AfterValidator(_engine)] = Field(
        "lite", description="`lite`, the folder of a ComfyUI, or the URL of a running one"
    )
    comfyui_python: Path | None = Field(None, description="Python that runs the ComfyUI folder; unset means ours")
    comfyui_cpu: bool | None = Field(None, description="start ComfyUI with --cpu; unset means where no GPU is seen")
    attention: Literal["auto", "sage", "sdpa"] = Field(
        "auto",
        description="ComfyUI's attention: `auto` takes SageAttention where it is right and quicker on this GPU, "
        "`sage` where it is right, `sdpa` torch's always",
    )
    engine_flags: Annotated[str, AfterValidator(_engine_flags)] = Field(
        "",
        description="further flags of ComfyUI, as in a shell (`--lowvram --reserve-vram 2`); those that its worker "
        "needs to set are refused. `--disable-dynamic-vram` is added unless `--enable-dynamic-vram` is among them",
    )
    engine_dir: Path | None = Field(None, description="folder for the engine's input, output, temp and user files")
    isolation: Literal["auto", "required", "off"] = Field(
        "auto",
        description="keep ComfyUI apart from its worker: `auto` as far as this machine can, `required` starts no "
        "engine otherwise, `off` not at all",
    )
    engine_user: Annotated[int, Field(ge=1_000, le=65_000)] = Field(
        FIRST_USER,
        description=f"first of the {USERS} user numbers that engines run as where workers are root; "
        "no other process may have them",
    )
    private_dirs: tuple[str, ...] = Field(
        (),
        description="folders and files that no engine may read, as a JSON list; "
        "`up` adds its own, and the worker's temporary files and credentials need not be named",
    )
    engine_start_timeout_s: Seconds = Field(300.0, description="how long the engine may take to get ready, seconds")
    warm_up: str | None = Field(
        None, description="a workflow without media, by name, that every engine runs before its worker takes a job"
    )
    read_ahead: bool = Field(
        default=True,
        description="on Modal, read the model files of the next job into memory while ComfyUI starts, as far as half "
        "of the free memory goes",
    )
    engine_stall_s: Seconds = Field(
        600.0, description="how long a running job may go without any message from its engine, seconds"
    )
    lite_fault_nodes: bool = Field(default=False, description="offer the lite engine's nodes that fail on purpose")
    pool: str = Field(DEFAULT_POOL, description="the pool whose queue this worker serves")
    lease_s: Seconds = Field(60.0, description="how long a running job may show no sign of life, seconds")
    max_attempts: Annotated[int, Field(ge=1, le=999)] = Field(
        3, description="attempts before a job whose worker or engine keeps failing is marked failed"
    )
    max_failed_starts: Count = Field(
        3,
        description="starts in a row that may fail before an engine counts as broken: jobs that wait for it fail, "
        "and no worker is started for a while",
    )
    failed_start_pause_s: Seconds = Field(
        300.0, description="how long no worker is started for an engine that counts as broken, seconds"
    )
    reap_interval_s: Seconds = Field(15.0, description="how often `up` runs the reaper, seconds")
    log_interval_s: Seconds = Field(10.0, description="least time between two writes of a running job's log, seconds")
    progress_interval_s: Seconds = Field(1.0, description="least time between two progress writes of a job, seconds")
    cancel_poll_s: Seconds = Field(2.0, description="how often a worker polls for a cancel request, seconds")
    queue_poll_s: Seconds = Field(1.0, description="how often an idle worker polls the queue, seconds")
    parallel_uploads: Count = Field(8, description="outputs of a job that a worker uploads at once")
    concluding_jobs: CountOrZero = Field(
        2, description="finished jobs whose outputs a worker may still upload when it begins another; 0: none"
    )
    ahead_input_bytes: CountOrZero = Field(
        4 * 1024**3, description="most bytes of input files that a worker fetches for its next job"
    )
    ahead_free_bytes: CountOrZero = Field(
        2 * 1024**3, description="free bytes of a worker's disk below which it fetches no files for its next job"
    )
    max_outputs: Count = Field(1_000, description="most outputs of a job")
    max_output_bytes: Count = Field(20 * 1024**3, description="largest output, bytes; holes in a file count")
    max_record_bytes: Count = Field(
        1024**2, description="largest record of a job, bytes; it lists the outputs, warnings and pending events"
    )
    inline_text_bytes: Count = Field(
        16 * 1024, description="largest text output that is repeated in the job itself; of all, 256 KiB are"
    )

    # Models, and this process.
    huggingface_token: SecretStr | None = Field(
        None, description="token for gated models, sent to Hugging Face alone when models are downloaded"
    )
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")
    readiness_file: Path | None = Field(None, description="file in which a local process says that it is ready")
    bucket_dir: Path | None = Field(None, description="folder of the embedded bucket, whose free space is watched")
    signal_dir: Path | None = Field(None, description="folder of the sockets that carry wake-up hints on one machine")
    process_name: str = Field("comfyui-modal", description="name of this process in logs, leases and hints")

    def secret_values(self) -> tuple[str, ...]:
        """Return every secret that is set, for the redaction of logs."""
        secrets = (value for _, value in self if isinstance(value, SecretStr))
        return tuple(word for secret in secrets for word in secret.get_secret_value().split())

    @model_validator(mode="after")
    def _credentials_come_in_pairs(self) -> "Settings":
        if (self.s3_access_key is None) != (self.s3_secret_key is None):
            raise ValueError(f"{ENV_PREFIX}S3_ACCESS_KEY and _S3_SECRET_KEY belong together: set both or neither")
        return self

    @model_validator(mode="after")
    def _secrets_are_usable(self) -> "Settings":
        try:
            for secret in self.webhook_secret.get_secret_value().split() if self.webhook_secret else ():
                secret_bytes(secret)
        except ValueError as error:
            raise ValueError(f"{ENV_PREFIX}WEBHOOK_SECRET: {error}") from None
        try:
            if self.webhook_signing_key is not None:
                public_key(self.webhook_signing_key.get_secret_value())
        except ValueError as error:
            raise ValueError(f"{ENV_PREFIX}WEBHOOK_SIGNING_KEY: {error}") from None
        return self

    def environment(self) -> dict[str, str]:
        """Return variables from which a child process parses the same settings. Secrets are in clear."""
        values = self.model_dump(exclude_none=True, exclude_defaults=True)
        return {ENV_PREFIX + name.upper(): _text(value) for name, value in values.items()}


class DeploymentSettings(BaseSettings):
    """Settings of the Modal deployment, read where `modal deploy` runs. Containers read theirs from the secret."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    gpu: str = Field("L40S", description="GPUs to try in this order, comma-separated; empty means none")
    secret: str = Field("comfyui-modal-api", description="name of the Modal secret that holds the settings")
    max_workers: ModalCount = Field(4, description="most GPU containers at once")
    worker_cpu: Amount = Field(8.0, description="CPU cores that a GPU container asks for")
    worker_memory_mib: ModalCount = Field(
        64 * 1024,
        description="memory that a GPU container asks for, MiB: models that do not fit the GPU wait there",
    )
    api_label: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] | None = Field(
        None,
        description="label of the API in its URL, as in `https://WORKSPACE--LABEL.modal.run`; unset means app and "
        "function; that of another app keeps its clients' base URL",
    )
    max_api_containers: ModalCount = Field(3, description="most API containers at once")
    gpu_pools: Pools = Field({}, description=GPU_POOLS)
    region: str | None = Field(None, description="Modal region of all containers; unset means any")
    min_workers: int = Field(0, ge=0, le=MOST_ON_MODAL, description="GPU containers that are kept without work")
    scaledown_s: Annotated[int, Field(ge=2, le=3600)] = Field(
        100, description="how long an idle GPU container stays, seconds"
    )
    snapshot: Literal["auto", "off", "cpu", "gpu"] = Field(
        "auto",
        description="memory snapshot that workers start from: `off`; `cpu`: memory with ComfyUI ready; "
        "`gpu`: GPU memory too, warmed up (alpha at Modal); `auto`: `cpu` for ComfyUI, `off` for the lite engine",
    )
    container_start_s: CallSeconds = Field(600, description="how long a GPU container may take to start, seconds")
    container_run_s: CallSeconds = Field(24 * 3600, description="how long one job may hold a GPU container, seconds")
    ticket_s: Annotated[int, Field(ge=0, le=3600)] = Field(
        300,
        description="how long a GPU container goes on with further jobs before it asks Modal for its next ticket, "
        "seconds; a container of an earlier deployment goes on as long",
    )
    image: Literal["comfyui", "lite"] = Field(
        "comfyui", description="what workers run: a ComfyUI that is built into their image, or the lite engine"
    )
    cuda: Literal["cu130", "cu128"] = Field(
        "cu130",
        description="the CUDA of the image and of its torch: 13.0, which ComfyUI's quick fp8 operations need, or 12.8",
    )
    comfyui_version: str = Field("0.33.0", description="the ComfyUI that the image is built with")
    nodes: GivenPath = Field(
        Path("infra/nodes.toml"), validate_default=False, description="manifest of the custom nodes in the image"
    )
    node_packs: str = Field(
        ALL_PACKS,
        description="packs of that manifest to build in, by name with commas between; empty means none of them",
    )
    models: GivenPath = Field(Path("infra/models.toml"), validate_default=False, description="manifest of the models")
    sage_architectures: Annotated[str, AfterValidator(_architectures)] = Field(
        "auto",
        description="GPU architectures that SageAttention 2 is built for, `;` between; `auto`: those of the GPUs of "
        "all pools; `none` installs the registry's SageAttention 1 instead",
    )
    modal_timeout_s: Seconds = Field(
        10.0, description="how long a command may wait for the first answer of Modal, seconds"
    )
    model_volume: str = Field("comfyui-modal-models", description="name of the Modal volume that holds the models")

    def environment(self) -> dict[str, str]:
        """Return the deployment's settings as variables, from which containers parse both kinds of settings."""
        values = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return {ENV_PREFIX + name.upper(): _text(value) for name, value in values.items()}

    def threads(self) -> dict[str, str]:
        """Return the variables that give the engine's libraries one thread a core of the container."""
        return dict.fromkeys(THREAD_VARIABLES, str(max(1, int(self.worker_cpu)))) if self.gpus else {}

    @property
    def call_s(self) -> int:
        """The time limit of a ticket's call: the time for further jobs, and that of the last one."""
        return min(self.ticket_s + self.container_run_s, LONGEST_CALL_S)

    @property
    def snapshot_kind(self) -> Literal["off", "cpu", "gpu"]:
        """What a worker's snapshot contains. The lite engine has none: it starts faster than a snapshot is restored."""
        if self.snapshot == "auto":
            return "cpu" if self.image == "comfyui" else "off"
        return self.snapshot

    @property
    def all_gpus(self) -> tuple[str, ...]:
        """The GPUs of every pool."""
        return (*(self.gpus or ()), *self.gpu_pools.values())

    @property
    def sage_targets(self) -> tuple[str, ...]:
        """The architectures for which SageAttention 2 is built, in ascending order; empty for an image without it."""
        if self.sage_architectures == AUTO:
            return sage_architectures(self.all_gpus)
        return () if self.sage_architectures == NONE else tuple(self.sage_architectures.split(";"))

    @property
    def gpus(self) -> list[str] | None:
        """The default pool's GPUs as Modal expects them, in the order in which it tries them."""
        return [name.strip() for name in self.gpu.split(",") if name.strip()] or None


class ModalSettings(BaseSettings):
    """The settings of commands that ask Modal."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    modal_timeout_s: Seconds = 10.0


class WorkflowSettings(BaseSettings):
    """The folder of named workflows, for a check that needs no bucket."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    workflows_dir: Path | None = None


class HubSettings(BaseSettings):
    """The settings of a download of models, which needs no bucket."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    huggingface_token: SecretStr | None = None


class EngineSettings(BaseSettings):
    """The location of a ComfyUI, by the variables that its users know. Without it, the lite engine runs."""

    model_config = SettingsConfigDict(frozen=True)

    comfyui_dir: Path | None = Field(None, description="folder of a ComfyUI, with its main.py")
    comfyui_python: Path | None = Field(None, description="Python with that ComfyUI's requirements")
    comfyui_url: BaseUrl = Field(None, description="URL of a running ComfyUI")

    @property
    def engine(self) -> str:
        """The value of the setting `engine`."""
        return self.comfyui_url or str(self.comfyui_dir or "lite")


def external_settings(bucket: str | None = None) -> Settings | None:
    """Return the settings of the external bucket that the argument or the environment names; None without one."""
    named = bucket or _BucketName().bucket
    return Settings(bucket=named) if named else None


def format_errors(fault: ValidationError | SettingsError) -> str:
    """Return one line for each variable that does not parse."""
    # The value is left out, because it may be a secret.
    if isinstance(fault, SettingsError):
        field = re.search(r'field "(\w+)"', str(fault))
        return f"{ENV_PREFIX}{field[1].upper()} is not JSON" if field else str(fault)
    prefix = "" if fault.title == EngineSettings.__name__ else ENV_PREFIX
    lines = []
    for error in fault.errors(include_input=False, include_url=False):
        words = error["msg"].removeprefix("Value error, ")
        lines.append(f"{prefix}{str(error['loc'][0]).upper()}: {words}" if error["loc"] else words)
    return "\n".join(lines)


def unknown_variables(names: Iterable[str]) -> list[str]:
    """Return a message for each variable with the settings' prefix that is no setting."""
    fields = {*Settings.model_fields, *DeploymentSettings.model_fields, "api_url"}
    known = {ENV_PREFIX + name.upper() for name in fields}
    wrong = sorted(name for name in names if name.startswith(ENV_PREFIX) and name not in known)
    return [f"{name} is no setting: {suggestion(name, known) or 'see docs/reference/settings.md'}" for name in wrong]


class _BucketName(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="ignore")

    bucket: str | None = None


def _text(value: object) -> str:
    if isinstance(value, dict | tuple):
        return json.dumps(value, default=datetime.isoformat)
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
