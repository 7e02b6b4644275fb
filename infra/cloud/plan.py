"""The plan that `deploy` prints: its steps, their usual durations, and the cost of the deployment."""

from collections.abc import Iterator

from infra.gpus import CPU_USD_PER_CORE_S, MEMORY_USD_PER_GIB_S, MODAL_USD_PER_S
from infra.on_modal import APP_NAME
from infra.settings import DeploymentSettings
from storage.keys import DEFAULT_POOL

CHECK, BUILD, PUBLISH = "check", "build", "publish"
HOUR_S = 3600
MIB_PER_GIB = 1024


def plan(deployment: DeploymentSettings) -> Iterator[str]:
    """Yield the lines of the plan. Durations are estimates: no deployment has been timed on the cloud yet."""
    yield f"{APP_NAME} on Modal. Safe to repeat: what is deployed serves until the new image is built and checked."
    yield f"  1 {CHECK:8} token, secret, bucket, GPUs: a few seconds"
    yield f"  2 {BUILD:8} the image and the functions: {_build_time(deployment)}, without a GPU"
    yield f"  3 {PUBLISH:8} the engine's nodes, from a container without a GPU: 1 to 3 minutes"
    yield "Running jobs end in the containers that they are in; queued ones wait in the bucket."
    yield from costs(deployment)


def costs(deployment: DeploymentSettings) -> Iterator[str]:
    """Yield the cost of a running worker of each pool, at list prices without a region's surcharge."""
    pools = {DEFAULT_POOL: deployment.gpu or "", **deployment.gpu_pools}
    for pool, gpus in pools.items():
        hourly = [_in_words(gpu.strip(), deployment) for gpu in gpus.split(",") if gpu.strip()]
        kept = deployment.min_workers if pool == DEFAULT_POOL else 0
        always = f"; {kept} kept without work, day and night" if kept else "; nothing while no worker lives"
        yield f"Pool {pool}: {' or '.join(hourly) or 'CPUs only'}{always}"
    yield "Idle cost of the rest: docs/how-to/operations.md."


def worker_usd_per_hour(gpu: str, deployment: DeploymentSettings) -> float | None:
    """Return the price of one worker's GPU (`L40S`, `H100:2`), cores and memory; None if the GPU's price is unknown."""
    name, _, count = gpu.rstrip("!").partition(":")
    price = MODAL_USD_PER_S.get(_PRICED_AS.get(name.upper(), name.upper()))
    if price is None or not (count or "1").isdecimal():
        return None  # a wrong name is reported by Modal itself
    cores = deployment.worker_cpu * CPU_USD_PER_CORE_S
    memory = deployment.worker_memory_mib / MIB_PER_GIB * MEMORY_USD_PER_GIB_S
    return (price * int(count or 1) + cores + memory) * HOUR_S


_PRICED_AS = {"A10G": "A10", "A100": "A100-40GB"}


def _in_words(gpu: str, deployment: DeploymentSettings) -> str:
    hourly = worker_usd_per_hour(gpu, deployment)
    price = "of a price unknown here" if hourly is None else f"about {hourly:.2f} USD an hour"
    return f"{gpu} {price} for each worker"


def _build_time(deployment: DeploymentSettings) -> str:
    if deployment.image != "comfyui":
        return "about a minute"
    if not deployment.sage_targets:
        return "10 to 15 minutes the first time, then about a minute"
    return "20 to 40 minutes the first time, for SageAttention is compiled, then about a minute"
