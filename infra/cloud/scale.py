"""The command `comfyui-modal scale`: shows the limits of a pool's autoscaler, or changes them until the next deploy."""

from rich.console import Console

from infra.cli.output import REFUSED
from infra.cloud.port import Cloud, PoolScale, ScaleChange


def refusal(change: ScaleChange) -> str | None:
    """Return why this change is invalid, or None if it is valid."""
    if change.max_containers is not None and change.max_containers < 1:
        return "--max must be at least 1: `modal app stop` ends a deployment"
    if min(change.min_containers or 0, change.buffer_containers or 0) < 0:
        return "--min and --buffer must not be negative"
    return None


async def rescale(cloud: Cloud, pool: str, change: ScaleChange, console: Console) -> int:
    """Change the limits. Return exit code 0, or 2 if the minimum would exceed the maximum."""
    before = await cloud.scale(pool)
    if change == ScaleChange():
        console.print(f"pool {pool}: {in_words(before)}", highlight=False)
        return 0
    low = before.min_containers if change.min_containers is None else change.min_containers
    high = before.max_containers if change.max_containers is None else change.max_containers
    if high is not None and low > high:
        console.print(f"pool {pool} cannot keep {low} containers and have at most {high}", style="red", highlight=False)
        return REFUSED
    after = await cloud.rescale(pool, change)
    console.print(f"pool {pool}: {in_words(after)} (was: {in_words(before)})", highlight=False, soft_wrap=True)
    console.print("holds until the next deploy, which sets what the settings say", highlight=False)
    return 0


def in_words(scale: PoolScale) -> str:
    high = "no limit" if scale.max_containers is None else f"max {scale.max_containers}"
    idle = "" if scale.idle_s is None else f", idle for {scale.idle_s} s"
    return f"min {scale.min_containers}, {high}, buffer {scale.buffer_containers}{idle}"
