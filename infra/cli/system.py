"""`comfyui-modal system` and `openapi`: what the API says about itself."""

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from infra.cli.arguments import AsJson, Target
from infra.cli.output import Json, Terminal, print_json

GIB = 1024**3


def system(*, as_json: AsJson = False, target: Target = Target()) -> None:
    with target.client() as client:
        found = client.system()
    if as_json:
        print_json(found)
        return
    console = Terminal()
    console.print_line(f"API {found['version']}, Python {found['python_version']}")
    for pool in found["pools"]:
        for line in _lines(pool):
            console.print_line(line)


def openapi(*, out: Annotated[Path | None, Parameter(help="file to write; standard output otherwise")] = None) -> None:
    from app.openapi import document

    text = json.dumps(document(), indent=1, ensure_ascii=False) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text)


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
    known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    attention = worker["attention"]
    return [
        f"pool {pool['name']}: worker {worker['worker']} since {worker['started_at'][:19]}",
        f"  engine     {worker['engine']}, {known}" if known else f"  engine     {worker['engine']}",
        f"  GPU        {_gpu_line(worker)}",
        f"  attention  {attention['backend'] or 'unknown'}: {attention['reason']}",
        f"  isolation  {worker.get('isolation') or 'unknown'}",
    ]


def _gpu_line(worker: Json) -> str:
    memory = worker["gpu_memory_bytes"]
    return (worker["gpu"] or "none") + (f", {memory / GIB:.0f} GiB" if memory and worker["gpu"] else "")
