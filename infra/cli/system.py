"""`comfyui-modal system`."""

from infra.cli.client import Client, Json
from infra.cli.output import Terminal, print_json

GIB = 1024**3


def show_system(api: tuple[str, str], *, as_json: bool) -> int:
    with Client(*api) as client:
        system = client.system()
    if as_json:
        print_json(system)
        return 0
    console = Terminal()
    console.print(f"API {system['version']}, Python {system['python_version']}", highlight=False)
    for pool in system["pools"]:
        for line in _lines(pool):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def failed_starts_line(pool: Json) -> str | None:
    """Describe a pool's failed engine starts, or return None if the last start succeeded."""
    failed = pool.get("failed_starts")
    if failed is None:
        return None
    pause = f", none is tried before {failed['paused_until'][:19]}" if failed["paused_until"] else ""
    return f"the engine's last {failed['failures']} starts failed{pause}: {failed['message']}"


def _lines(pool: Json) -> list[str]:
    failed = failed_starts_line(pool)
    problem = [] if failed is None else [f"  problem    {failed}", *(f"    {line}" for line in _log_tail(pool))]
    return [*_worker_lines(pool), *problem]


def _log_tail(pool: Json) -> list[str]:
    lines: list[str] = pool["failed_starts"]["log_tail"]
    return lines


def _worker_lines(pool: Json) -> list[str]:
    worker = pool["worker"]
    if worker is None:
        return [f"pool {pool['name']}: no worker has reported yet"]
    versions = {"ComfyUI": worker["comfyui_version"], "torch": worker["torch_version"]}
    said = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    attention = worker["attention"]
    return [
        f"pool {pool['name']}: worker {worker['worker']} since {worker['started_at'][:19]}",
        f"  engine     {worker['engine']}, {said}" if said else f"  engine     {worker['engine']}",
        f"  GPU        {_gpu_line(worker)}",
        f"  attention  {attention['backend'] or 'unknown'}: {attention['reason']}",
        f"  isolation  {worker.get('isolation') or 'unknown'}",
    ]


def _gpu_line(worker: Json) -> str:
    memory = worker["gpu_memory_bytes"]
    return (worker["gpu"] or "none") + (f", {memory / GIB:.0f} GiB" if memory and worker["gpu"] else "")
