"""`comfyui-modal status`: the URL of the API, the load of each pool, the number of waiting jobs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import anyio.to_thread

from comfyui_modal_client import ApiProblem, ApiUnreachable, Json
from infra.cli.arguments import ApiKey, ApiUrl, AsJson, Environment, open_client
from infra.cli.cloud import cloud_and_settings
from infra.cli.output import FAILED, Terminal, print_json
from infra.cli.system import failed_starts_line
from infra.cloud.port import Cloud, NotDeployed, PoolLoad, PoolScale
from infra.on_modal import API_FUNCTION, PARTS
from storage.keys import DEFAULT_POOL

PAGE = 200
"""Jobs are counted up to one page, of which each row costs a request to the bucket. A full page means "at least"."""


async def status(
    *, env: Environment = None, api_url: ApiUrl = None, api_key: ApiKey = None, as_json: AsJson = False
) -> int:
    cloud, deployment = cloud_and_settings(env)
    return show_status(
        await read_status(cloud, (DEFAULT_POOL, *deployment.gpu_pools), api_url, api_key), as_json=as_json
    )


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The load of a pool and the limits of its autoscaler."""

    load: PoolLoad
    scale: PoolScale


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a deployment. `missing` lists the parts that are not deployed. `api` has url, and version, jobs and
    system, or error."""

    missing: tuple[str, ...]
    api: Json
    pools: dict[str, PoolStatus]

    @property
    def is_well(self) -> bool:
        return (
            not self.missing and "error" not in self.api and not any(pool.get("failed_starts") for pool in self._pools)
        )

    @property
    def _pools(self) -> Sequence[Json]:
        """The pools as the API reports them."""
        pools: Sequence[Json] = self.api.get("system", {}).get("pools", ())
        return pools


async def read_status(cloud: Cloud, pools: Sequence[str], api_url: str | None, api_key: str | None) -> Status:
    """Read the state from the control plane and the API."""
    missing = tuple([part for part in PARTS if not await cloud.has_function(part)])
    try:
        api = await anyio.to_thread.run_sync(_ask, api_url or await cloud.url(API_FUNCTION), api_key)
    except NotDeployed as error:
        api = {"error": str(error)}
    found = {}
    for pool in pools:
        try:
            found[pool] = PoolStatus(await cloud.load(pool), await cloud.scale(pool))
        except NotDeployed:
            continue  # `missing` already names it
    return Status(missing, api, found)


def show_status(status: Status, *, as_json: bool) -> int:
    """Print the status. Return 0 if all parts exist, the API answers and no engine last failed to start, else 1."""
    if as_json:
        print_json(asdict(status))
    else:
        console = Terminal()
        table = list(_lines(status))
        width = max(len(name) for name, _ in table) + 2
        for name, line in table:
            console.print_line(f"{name:{width}}{line}")
    return 0 if status.is_well else FAILED


def _lines(status: Status) -> Iterator[tuple[str, str]]:
    api = status.api
    yield "API", api.get("url", "not deployed")
    if "version" in api:
        yield "version", str(api["version"])
    if "error" in api:
        yield "error", api["error"]
    if status.missing:
        yield "missing", ", ".join(status.missing)
    for name, pool in status.pools.items():
        load = pool.load
        yield f"pool {name}", f"{load.waiting} tickets wait, {load.running} run, {load.containers} containers"
        yield "", str(pool.scale)
    if "jobs" in api:
        yield "jobs", ", ".join(f"{count}{'+' if count == PAGE else ''} {name}" for name, count in api["jobs"].items())
    for pool in api.get("system", {}).get("pools", ()):
        if (worker := pool["worker"]) is not None:
            facts = (worker["worker"], worker["gpu"], worker["attention"]["backend"])
            yield f"last of {pool['name']}", ", ".join(fact for fact in facts if fact)
        if (problem := failed_starts_line(pool)) is not None:
            yield f"problem of {pool['name']}", problem


def _ask(url: str, key: str | None) -> Json:
    """Query the API. Without a key, only its health."""
    answer: Json = {"url": url}
    with open_client(url, key or "none") as client:  # /health checks no key
        try:
            answer["version"] = client.health().get("version")
            if key is not None:
                counted = {status: client.jobs(status=status, limit=PAGE) for status in ("queued", "running")}
                answer["jobs"] = {status: len(page["jobs"]) for status, page in counted.items()}
                answer["system"] = client.system()
        except (ApiProblem, ApiUnreachable) as error:
            answer["error"] = str(error)
    return answer
