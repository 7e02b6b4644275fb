"""Comfy Cloud's official clients against `comfyui-modal up`: `make interop`.

Their scripts (`comfy_python.py`, `comfy_node.mjs`) and the blocks of docs/how-to/comfy-sdk.md run in turn. With
`--suite`, the path of the live tests of Comfy-Org/comfy-python-sdk (tests/integration/test_gateway_e2e.py), these run
twice: the second run finds its file uploaded already.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from infra.demo import write_photograph
from tests.support.cut_proxy import CutProxy, cutting
from tests.support.up import up

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
PYTHON = ROOT / ".interop/bin/python"
PAGE = ROOT / "docs/how-to/comfy-sdk.md"
MOST_QUEUED = 2
LIMIT_S = 600
GRAPH = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "copy"}},
}


async def main(suite: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        # Node finds packages next to the script, so the scripts run where the packages are linked.
        (work / "node_modules").symlink_to(FOLDER / "node_modules")
        write_photograph(work / "photo.png")
        (work / "workflow_api.json").write_text(json.dumps(GRAPH))
        limit = {"COMFYUI_MODAL_MAX_QUEUED_JOBS": str(MOST_QUEUED)}
        with up(work / "data", environment=limit) as running:
            url, key = running.connection["api_url"], running.connection["api_key"]
            async with cutting(url) as proxy:
                environment = os.environ | {
                    "COMFY_BASE_URL": url,
                    "COMFY_API_KEY": key,
                    "COMFY_CUT_URL": proxy.url,
                    "COMFY_MOST_QUEUED": str(MOST_QUEUED),
                }
                await run_all(work, environment, proxy, suite)


async def run_all(work: Path, environment: Mapping[str, str], proxy: CutProxy, suite: Path | None) -> None:
    """Run every script and every block of the page. Ends the process if one fails."""

    def on_line(line: str) -> None:
        if line == "cut":
            proxy.cut()
        else:
            sys.stdout.write(f"{line}\n")

    script = str(shutil.copy(FOLDER / "comfy_node.mjs", work))
    await run([str(PYTHON), str(FOLDER / "comfy_python.py")], work, environment, on_line)
    await run(["node", script], work, environment, on_line)
    for kind, suffix, *command in (("python", "py", str(PYTHON)), ("ts", "mjs", "node"), ("sh", "sh", "bash", "-eu")):
        if kind == "sh" and not (shutil.which("curl") and shutil.which("jq")):
            continue
        block = work / f"block.{suffix}"
        block.write_text(blocks(kind)[-1])
        await run([*command, str(block)], work, environment, lambda _: None)
        on_line(f"docs/how-to/comfy-sdk.md: the {kind} block runs")
    tests = [str(PYTHON), "-m", "pytest", "-rxX", "-q", "-p", "no:cacheprovider", str(suite)]
    for _ in range(0 if suite is None else 2):
        await run(tests, work, environment, on_line)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


async def run(command: list[str], folder: Path, environment: Mapping[str, str], on_line: Callable[[str], None]) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT_S):
            async for line in process.stdout:
                on_line(line.decode().rstrip("\n"))
            code = await process.wait()
    except BaseException:
        process.kill()
        raise
    if code:
        sys.exit(f"failed: {' '.join(command)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", type=Path)
    asyncio.run(main(parser.parse_args().suite))
