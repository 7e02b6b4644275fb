"""Checks of the Modal deployment: its prerequisites before a deploy, and its health after it.

`preflight` checks what a deploy needs. `deployed` checks the deployment from outside and ends with the round trip of a
ticket, which starts a GPU container if none is idle.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from infra.cloud.port import BadToken, Cloud, CloudError, CloudUnreachable, NotDeployed
from infra.doctor import ApiChecks
from infra.findings import Check, CheckFailed, Note
from infra.gpus import MODAL_USD_PER_S, expected_attention, memory_gb
from infra.image import lock_sources
from infra.image_lock import full_lock, pins, recorded_sources
from infra.manifests import ROOT, BadManifest
from infra.models.manifest import models
from infra.nodes import custom_nodes
from infra.on_modal import API_FUNCTION, APP_NAME, MODELS_FUNCTION, PARTS
from infra.settings import ENV_PREFIX, DeploymentSettings, WorkflowSettings
from workflows.library import library, shipped
from workflows.manifest import BadWorkflow

REQUIRED = (f"{ENV_PREFIX}BUCKET", f"{ENV_PREFIX}API_KEY")
CREDENTIALS = (
    (f"{ENV_PREFIX}S3_ACCESS_KEY", f"{ENV_PREFIX}S3_SECRET_KEY"),
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
)
"""The pairs of variables with which containers can reach the bucket. One pair is enough."""
SIGNING = (f"{ENV_PREFIX}WEBHOOK_SECRET", f"{ENV_PREFIX}WEBHOOK_SIGNING_KEY")

T = TypeVar("T")

MIB_PER_GIB = 1024
DEPLOY_IT = "run `comfyui-modal deploy`"
KNOWN_GPUS = frozenset({*MODAL_USD_PER_S, "A10G", "A100"})
"""GPUs with a known price, and the other names that Modal accepts for them."""
NAMED = 3
"""The number of missing models that a finding names."""
API_START_S = 60.0
"""Timeout of the first request, which waits for a container to start if none is running."""
_COLD_START_S = 60.0
"""Added to a container's start time, for the scheduling of a ticket and the return of its result."""


class CloudChecks:
    """Checks of a deployment. `api_url` None asks the cloud for it; `api_key` None skips the checks that need it."""

    def __init__(
        self, cloud: Cloud, deployment: DeploymentSettings, *, api_url: str | None = None, api_key: str | None = None
    ) -> None:
        self._cloud = cloud
        self._deployment = deployment
        self._url = api_url
        self._key = api_key

    @property
    def deployment(self) -> DeploymentSettings:
        return self._deployment

    def gate(self) -> dict[str, Check]:
        """The check that every other check depends on."""
        return {"Modal token": self.token}

    def preflight(self) -> dict[str, Check]:
        return self.local() | self.account()

    def local(self) -> dict[str, Check]:
        """The checks of a deploy that need no account: settings and files of this machine."""
        return {
            "GPUs": self.gpus,
            "attention": self.attention,
            "manifests": self.manifests,
            "image lock": self.image_lock,
            "memory": self.memory,
        }

    def account(self) -> dict[str, Check]:
        """The checks of a deploy that ask Modal."""
        return {
            "secret": self.secret,
            "webhook secret": self.signing,
            "model volume": self.volume,
        }

    def deployed(self, *, pool: str | None) -> dict[str, Check]:
        """The checks of a deployment. `pool` None skips the round trip of a ticket."""
        checks: dict[str, Check] = {
            "functions": self.functions,
            "API alive": self.alive,
            "API ready": self.ready,
            "API key": self.key,
        }

        async def ticket() -> str | Note:
            return await self.ticket(pool or "")

        return checks | {f"ticket of pool {pool}": ticket} if pool else checks

    async def token(self) -> str:
        try:
            await self._cloud.hello()
        except BadToken as error:
            raise CheckFailed(
                str(error), "run `modal token new`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"
            ) from error
        except CloudUnreachable as error:
            raise CheckFailed(
                str(error), "check the network, a proxy or firewall before it, and https://status.modal.com"
            ) from error
        except CloudError as error:
            raise CheckFailed(str(error), "see https://status.modal.com, and try again") from error
        return "accepted"

    async def gpus(self) -> str | Note:
        """Check that every configured GPU has a known name."""
        # Modal's client does not check names; its scheduler refuses an unknown one when the first worker starts.
        wanted = [*(self._deployment.gpus or []), *self._deployment.gpu_pools.values()]
        unknown = [name for name in wanted if name.partition(":")[0].rstrip("!").upper() not in KNOWN_GPUS]
        if unknown:
            return Note(
                f"{', '.join(unknown)} is not a GPU that this version knows", "see https://modal.com/docs/guide/gpu"
            )
        return ", ".join(wanted) or "none: workers run on CPUs"

    async def attention(self) -> str | Note:
        """Report the attention backend expected on each pool's GPUs. A pool without SageAttention is a note."""
        wanted = self._deployment.all_gpus
        if self._deployment.image != "comfyui" or not wanted:
            return "none: workers run the lite engine, or on CPUs"
        built_for = self._deployment.sage_targets
        expected = {gpu: expected_attention(gpu, built_for) for gpu in wanted}
        detail = "; ".join(f"{gpu}: {words}" for gpu, words in expected.items())
        if all(words.startswith("SageAttention") for words in expected.values()):
            return detail
        return Note(detail, "jobs run there too, a little slower; see COMFYUI_MODAL_SAGE_ARCHITECTURES")

    async def memory(self) -> str | Note:
        """Check that GPUs and workers have the memory that the manifests of the shipped workflows require."""
        deployment = self._deployment
        if deployment.image != "comfyui" or not deployment.all_gpus:
            return "not compared: workers run the lite engine, or on CPUs"
        needs = {name: workflow.manifest for name, workflow in shipped().items()}
        worker_gb = deployment.worker_memory_mib / MIB_PER_GIB
        found = _short("a worker", "memory", worker_gb, {name: one.ram_gb for name, one in needs.items()})
        for gpu in dict.fromkeys(deployment.all_gpus):
            if (has := memory_gb(gpu)) is not None:
                found += _short(gpu, "GPU memory", has, {name: one.vram_gb for name, one in needs.items()})
        if found:
            return Note("; ".join(found), "such jobs are slow or end for want of memory: see docs/how-to/workflows.md")
        return f"a worker has {worker_gb:g} GB; the shipped workflows need no more than the pools have"

    async def manifests(self) -> str:
        """Check the manifests of nodes, models and workflows, at which a deploy or a container would fail."""
        nodes = _read(lambda: custom_nodes(ROOT / self._deployment.nodes, self._deployment.node_packs))
        files = _read(lambda: models(ROOT / self._deployment.models))
        folder = WorkflowSettings().workflows_dir
        try:
            workflows = library(folder)
        except (BadWorkflow, OSError) as error:
            raise CheckFailed(f"{folder}: {error}", "see docs/how-to/workflows.md#your-own") from error
        return f"{len(nodes)} nodes, {len(files)} models, {len(workflows)} workflows"

    async def image_lock(self) -> str | Note:
        """Check that the image's lock was resolved for this version of ComfyUI and these packs."""
        deployment = self._deployment
        if deployment.image != "comfyui":
            return "none: workers run the lite engine"
        path = full_lock(deployment.cuda)
        nodes = _read(lambda: custom_nodes(ROOT / deployment.nodes, deployment.node_packs))
        wanted = lock_sources(cuda=deployment.cuda, comfyui_version=deployment.comfyui_version, nodes=nodes)
        text = (ROOT / path).read_text()
        other = [source for source in wanted if source not in recorded_sources(text)]
        if other:
            return Note(f"{path} was not made for {'; '.join(other)}", "run `make image-lock`: the build may fail")
        # A name with a slash is a dependency inside a pack.
        return f"{path} has {len(pins(text))} packages, for {sum('/' not in node.name for node in nodes)} packs"

    async def secret(self) -> str:
        """Check that the secret exists and has the required variables."""
        # Values cannot be read, only whether a set of variables exists, so missing ones are found one by one.
        name = self._deployment.secret
        if not await self._has():
            raise CheckFailed(
                f"there is no secret {name!r}", f"create it: `modal secret create {name} {REQUIRED[0]}=… …`"
            )
        lacking = [variable for variable in REQUIRED if not await self._has(variable)]
        if not any([await self._has(*pair) for pair in CREDENTIALS]):
            lacking += CREDENTIALS[0]
        if lacking:
            raise CheckFailed(
                f"{name} lacks {', '.join(lacking)}",
                f"create it again with all of its variables: `modal secret create --force {name} …`",
            )
        return f"{name} holds what containers need"

    async def signing(self) -> str | Note:
        for variable in SIGNING:
            if await self._has(variable):
                return f"{variable} is set"
        return Note("none: a job that names a webhook is refused, unless it brings its own secret", f"add {SIGNING[0]}")

    async def volume(self) -> str | Note:
        name = self._deployment.model_volume
        if await _asked(self._cloud.volume_exists(name)):
            return f"{name} is there"
        return Note(f"there is no volume {name!r} yet", "the first download of models creates it")

    async def functions(self) -> str:
        lacking = [part for part in PARTS if not await _asked(self._cloud.has_function(part))]
        if lacking:
            raise CheckFailed(f"{APP_NAME} lacks {', '.join(lacking)}", DEPLOY_IT)
        return f"{APP_NAME} has {', '.join(PARTS)}"

    async def alive(self) -> str:
        return await ApiChecks(await self.url(), "", API_START_S).alive()

    async def ready(self) -> str:
        return await ApiChecks(await self.url(), "").ready()

    async def key(self) -> str | Note:
        if self._key is None:
            return Note("not tried: no key is known here", f"set {ENV_PREFIX}API_KEY, or give --api-key")
        return await ApiChecks(await self.url(), self._key).key()

    async def ticket(self, pool: str) -> str | Note:
        limit_s = self._deployment.container_start_s + _COLD_START_S
        try:
            jobs = await _asked(self._cloud.ticket(pool, limit_s))
        except TimeoutError:
            return Note(
                f"no answer within {limit_s:.0f} s: it waits for a GPU, or runs a long job",
                "run `comfyui-modal status`",
            )
        return "a worker took it, and ran a job" if jobs else "a worker took it, and found no job"

    async def image(self) -> str:
        """Check the deployed engine and publish its node classes, against which submissions are validated."""
        if missing := await _asked(self._cloud.check_image()):
            raise CheckFailed("; ".join(missing), "add it to the manifest of nodes, and deploy again")
        return "the engine starts, and has every node of the shipped workflows; its nodes are published"

    async def models(self) -> str | Note:
        """Check that the manifest's models are on the volume. A missing one is a note, and jobs with it are refused."""
        manifest = _read(lambda: models(ROOT / self._deployment.models))
        wanted = [model.model_dump(exclude_none=True, exclude_defaults=True) for model in manifest]
        if not await _asked(self._cloud.has_function(MODELS_FUNCTION)):
            return Note("not asked: nothing is deployed yet", "after the deploy: `comfyui-modal models sync`")
        found = await _asked(self._cloud.manage_models("plan", wanted))
        lacking = [one["name"] for one in found if one["state"] != "present"]
        if lacking:
            names = ", ".join(lacking[:NAMED]) + (" …" if len(lacking) > NAMED else "")
            return Note(f"{len(lacking)} of {len(found)} are missing: {names}", "run `comfyui-modal models sync`")
        return f"{len(found)} are there"

    async def url(self) -> str:
        """Return the URL of the API, as given or from the cloud."""
        if self._url is None:
            self._url = (await _asked(self._cloud.url(API_FUNCTION))).rstrip("/")
        return self._url

    async def _has(self, *variables: str) -> bool:
        return await _asked(self._cloud.secret_has(self._deployment.secret, variables))


def _read(manifest: Callable[[], T]) -> T:
    """Read a manifest. Raise `CheckFailed` for a bad one, at which the deploy would fail."""
    try:
        return manifest()
    except BadManifest as bad:
        raise CheckFailed(
            str(bad), "see docs/explanation/modal.md#the-image and docs/how-to/models.md#add-a-model"
        ) from bad


def _short(owner: str, what: str, has: float, needs: Mapping[str, float | None]) -> list[str]:
    """Describe which workflows need more than `has` GB."""
    more = [f"{name} needs {need:g}" for name, need in needs.items() if need is not None and need > has]
    return [f"{owner} has {has:g} GB of {what}: {', '.join(more)}"] if more else []


async def bucket_not_seen() -> Note:
    """Replaces the checks of the bucket if this shell has no settings for it."""
    return Note(
        f"not tried: {ENV_PREFIX}BUCKET is not set here",
        "set the secret's variables in this shell too; otherwise `doctor --cloud` learns of it from the deployed API",
    )


async def _asked(question: Awaitable[T]) -> T:
    """Await an answer of the cloud. Raise `CheckFailed` where there is none."""
    try:
        return await question
    except NotDeployed as error:
        raise CheckFailed(str(error), DEPLOY_IT) from error
    except CloudUnreachable as error:
        raise CheckFailed(str(error), "check the network and the Modal token") from error
    except CloudError as error:
        raise CheckFailed(str(error), f"read `modal app logs {APP_NAME}`") from error
