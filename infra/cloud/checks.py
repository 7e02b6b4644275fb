"""What must hold around the app on Modal: before a deploy, and of what is deployed.

`preflight` is what a deploy needs. `deployed` looks at what a deploy has made, from the outside, and ends with a
ticket's round trip, which starts a GPU container if none is idle.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from infra.cloud.modal_commands import ROOT
from infra.cloud.port import Cloud, CloudError, CloudUnreachable, NotDeployed
from infra.doctor import ApiChecks
from infra.findings import Check, CheckFailed, Note
from infra.gpu_architectures import expected_attention, memory_gb
from infra.gpu_prices import MODAL_USD_PER_S
from infra.image import lock_sources
from infra.image_lock import full_lock, pins, recorded_sources
from infra.manifests import BadManifest
from infra.models.manifest import models
from infra.nodes import custom_nodes
from infra.on_modal.names import API_FUNCTION, APP_NAME, MODELS_FUNCTION, PARTS
from infra.settings import ENV_PREFIX, DeploymentSettings
from workflows.library import shipped

REQUIRED = (f"{ENV_PREFIX}BUCKET", f"{ENV_PREFIX}API_KEY")
CREDENTIALS = (
    (f"{ENV_PREFIX}S3_ACCESS_KEY", f"{ENV_PREFIX}S3_SECRET_KEY"),
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
)
"""Either of these lets containers into the bucket."""
SIGNING = (f"{ENV_PREFIX}WEBHOOK_SECRET", f"{ENV_PREFIX}WEBHOOK_SIGNING_KEY")

T = TypeVar("T")

MIB_PER_GIB = 1024
DEPLOY_IT = "run `comfyui-modal deploy`"
KNOWN_GPUS = frozenset({*MODAL_USD_PER_S, "A10G", "A100"})
"""What has a price, and what Modal takes as another name of one."""
NAMED = 3
"""Missing models that are told by name."""
API_START_S = 60.0
"""The first request to an API without a container waits for one to start."""
_COLD_START_S = 60.0
"""Added to a container's start time: until a ticket is scheduled, and its answer is back."""


class CloudChecks:
    """`api_url` is asked of the cloud unless given; `api_key` None leaves out what needs one."""

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
        """Without this nothing else can be asked."""
        return {"Modal token": self.token}

    def preflight(self) -> dict[str, Check]:
        return {
            "GPUs": self.gpus,
            "attention": self.attention,
            "image lock": self.image_lock,
            "memory": self.memory,
            "secret": self.secret,
            "webhook secret": self.signing,
            "model volume": self.volume,
        }

    def deployed(self, *, pool: str | None) -> dict[str, Check]:
        """`pool` None leaves out the ticket."""
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
        except CloudUnreachable as error:
            raise CheckFailed(
                str(error), "run `modal token new`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"
            ) from error
        except CloudError as error:
            raise CheckFailed(str(error), "look at https://status.modal.com, and try again") from error
        return "accepted"

    async def gpus(self) -> str | Note:
        """Modal's client does not check a name; its scheduler refuses an unknown one when the first worker starts."""
        wanted = [*(self._deployment.gpus or []), *self._deployment.gpu_pools.values()]
        unknown = [name for name in wanted if name.partition(":")[0].rstrip("!").upper() not in KNOWN_GPUS]
        if unknown:
            return Note(
                f"{', '.join(unknown)} is no GPU that this version knows", "see https://modal.com/docs/guide/gpu"
            )
        return ", ".join(wanted) or "none: workers run on CPUs"

    async def attention(self) -> str | Note:
        """What each pool's GPUs most likely run with; a pool that would run without SageAttention is a note."""
        wanted = self._deployment.all_gpus
        if self._deployment.image != "comfyui" or not wanted:
            return "none: workers run the lite engine, or on CPUs"
        built_for = self._deployment.sage_targets
        expected = {gpu: expected_attention(gpu, built_for) for gpu in wanted}
        said = "; ".join(f"{gpu}: {words}" for gpu, words in expected.items())
        if all(words.startswith("SageAttention") for words in expected.values()):
            return said
        return Note(said, "jobs run there too, a little slower; see COMFYUI_MODAL_SAGE_ARCHITECTURES")

    async def memory(self) -> str | Note:
        """Whether each pool's GPUs, and the workers, have what the manifests of the shipped workflows ask for."""
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
            return Note("; ".join(found), "such jobs are slow or end for want of memory: see docs/workflows.md")
        return f"a worker has {worker_gb:g} GB; the shipped workflows need no more than the pools have"

    async def image_lock(self) -> str | Note:
        """Whether the versions of the image's Python packages were resolved for this ComfyUI and these packs."""
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
        return f"{path} has {len(pins(text))} packages, for {sum('/' not in node.name for node in nodes)} packs"

    async def secret(self) -> str:
        """Which variable lacks is asked one by one, and only when something does."""
        name = self._deployment.secret
        if not await self._has():
            raise CheckFailed(
                f"there is no secret {name!r}", f"make it: `modal secret create {name} {REQUIRED[0]}=… …`"
            )
        lacking = [variable for variable in REQUIRED if not await self._has(variable)]
        if not any([await self._has(*pair) for pair in CREDENTIALS]):
            lacking += CREDENTIALS[0]
        if lacking:
            raise CheckFailed(
                f"{name} lacks {', '.join(lacking)}",
                f"make it anew with all of its variables: `modal secret create --force {name} …`",
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
        return Note(f"there is no volume {name!r} yet", "the first download of models makes it")

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
            job_id = await _asked(self._cloud.ticket(pool, limit_s))
        except TimeoutError:
            return Note(
                f"no answer within {limit_s:.0f} s: it waits for a GPU, or runs a long job",
                "look at `comfyui-modal status`",
            )
        return "a worker took it, and found no job" if job_id is None else f"a worker took it, and ran job {job_id}"

    async def image(self) -> str:
        """What a deploy does last: submissions are then judged by what the deployed engine has."""
        if missing := await _asked(self._cloud.check_image()):
            raise CheckFailed("; ".join(missing), "add it to the manifest of nodes, and deploy again")
        return "the engine starts, and has every node of the shipped workflows; its nodes are published"

    async def models(self) -> str | Note:
        """Of the manifest. A deployment without them stands: whoever needs one is told at submission."""
        manifest = _read(lambda: models(ROOT / self._deployment.models))
        wanted = [model.model_dump(exclude_none=True) for model in manifest]
        if not await _asked(self._cloud.has_function(MODELS_FUNCTION)):
            return Note("not asked: nothing is deployed yet", "after the deploy: `comfyui-modal models sync`")
        found = await _asked(self._cloud.see_to_models("plan", wanted))
        lacking = [one["name"] for one in found if one["state"] != "present"]
        if lacking:
            names = ", ".join(lacking[:NAMED]) + (" …" if len(lacking) > NAMED else "")
            return Note(f"{len(lacking)} of {len(found)} are missing: {names}", "run `comfyui-modal models sync`")
        return f"{len(found)} are there"

    async def url(self) -> str:
        """Where the API is, as given or as the cloud says."""
        if self._url is None:
            self._url = (await _asked(self._cloud.url(API_FUNCTION))).rstrip("/")
        return self._url

    async def _has(self, *variables: str) -> bool:
        return await _asked(self._cloud.secret_has(self._deployment.secret, variables))


def _read(manifest: Callable[[], T]) -> T:
    """What a manifest says, or a finding: the deploy would end at it."""
    try:
        return manifest()
    except BadManifest as bad:
        raise CheckFailed(str(bad), "see docs/modal.md#the-image and docs/models.md#add-a-model") from bad


def _short(owner: str, what: str, has: float, needs: Mapping[str, float | None]) -> list[str]:
    """In words, which workflows need more than that."""
    more = [f"{name} needs {need:g}" for name, need in needs.items() if need is not None and need > has]
    return [f"{owner} has {has:g} GB of {what}: {', '.join(more)}"] if more else []


async def bucket_not_seen() -> Note:
    """Stands for the checks of the bucket where this shell does not know it."""
    return Note(
        f"not tried: {ENV_PREFIX}BUCKET is not set here",
        "set the secret's variables in this shell too; otherwise `doctor --cloud` learns of it from the deployed API",
    )


async def _asked(question: Awaitable[T]) -> T:
    """The answer of the cloud, or a finding."""
    try:
        return await question
    except NotDeployed as error:
        raise CheckFailed(str(error), DEPLOY_IT) from error
    except CloudUnreachable as error:
        raise CheckFailed(str(error), "check the network and the Modal token") from error
    except CloudError as error:
        raise CheckFailed(str(error), f"look at `modal app logs {APP_NAME}`") from error
