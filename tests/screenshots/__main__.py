"""Start `up`, run some jobs, and take a picture of each page at desktop and phone width."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.async_api import FilePayload, Page

from infra.demo import write_photograph
from tests.support.chromium import DESKTOP, PHONE, launched, visiting
from tests.support.receiver import Receiver, receiver
from tests.support.up import Up, eventually, finished, up

INTO = Path(__file__).parents[2] / "docs/ui"
QUALITY = 85
BELOW = "one.getBoundingClientRect().top > innerHeight"
"""Pictures below the screen are loaded when they are scrolled to."""
EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 512, "height": 320, "batch_size": 1, "color": 0x3B82F6}}


def main() -> None:
    INTO.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, up(Path(folder) / "data", "--lite-fault-nodes") as running:
        with running.client() as client, receiver() as hook:
            names = _fill(client, Path(folder), hook)
        asyncio.run(_shoot(running, names))


def _fill(client: httpx.Client, folder: Path, hook: Receiver) -> dict[str, str]:
    """Run some jobs and return the pages to show, by name."""
    photo = folder / "photo.png"
    write_photograph(photo)
    hook.script("retired", ["410"])
    ids = [_run(client, "still", {"image": _upload(client, photo), "width": 480}, hook.url("orders"))]
    ids += [_run(client, "clip", {"image": _upload(client, photo)}), _run(client, "silence", {"seconds": 2.0})]
    ids.append(_run(client, "words", {"first": "a lighthouse", "second": " in a storm"}))
    graph = {"1": EMPTY, "2": _save("blue")}
    sets = [[{"node": "1", "field": "color", "value": 0x3B82F6 + 0x151009 * n}] for n in range(6)]
    many = {"workflow": graph, "input_sets": sets, "metadata": {"campaign": "spring"}}
    batch_id = client.post("/v1/batches", json=many).json()["batch_id"]
    raises = {"class_type": "LiteRaise", "inputs": {"image": ["1", 0], "kind": "value"}}
    wrong = {"1": EMPTY, "3": raises, "2": _save("wrong", "3")}
    fields = {"workflow": wrong, "metadata": {"order": "4711"}, "webhook_url": hook.url("retired")}
    ids.append(client.post("/v1/jobs", json=fields).json()["job_id"])
    for job_id in ids:
        finished(client, job_id)
    eventually(lambda: client.get("/v1/dead-letters").json()["dead_letters"])
    slow = {"image": ["1", 0], "steps": 100, "seconds_per_step": 0.5, "preview": False}
    steps = {**graph, "3": {"class_type": "LiteSlowSteps", "inputs": slow}, "2": _save("slow", "3")}
    client.post("/v1/jobs", json={"workflow": steps, "metadata": {"order": "4712"}})
    client.post("/v1/jobs", json={"workflow": graph, "priority": -5})
    pages = ("jobs", "workflows", "batches", "webhooks", "usage", "keys", "system")
    special = {"job": f"jobs/{ids[0]}", "workflow": "workflows/still", "batch": f"batches/{batch_id}", "try": "try"}
    return {name: name for name in pages} | special


def _run(client: httpx.Client, name: str, inputs: dict[str, Any], receiver: str | None = None) -> str:
    fields = {"inputs": inputs, **({} if receiver is None else {"webhook_url": receiver})}
    job_id: str = client.post(f"/v1/workflows/{name}/jobs", json=fields).json()["job_id"]
    return job_id


def _upload(client: httpx.Client, path: Path) -> dict[str, str]:
    body = path.read_bytes()
    made = client.post("/v1/uploads", json={"size_bytes": len(body), "content_type": "image/png"}).json()
    httpx.put(made["url"], content=body, headers=made["headers"]).raise_for_status()
    return {"upload_id": made["upload_id"], "filename": path.name}


def _save(prefix: str, source: str = "1") -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": [source, 0], "filename_prefix": prefix}}


async def _shoot(running: Up, names: dict[str, str]) -> None:
    url, key = running.connection["api_url"], running.connection["api_key"]
    async with launched() as browser:
        for size, width in _sizes():
            async with visiting(browser, **size) as visit:
                await visit.page.goto(f"{url}/ui/login")
                await _take(visit.page, f"login-{width}")
                await visit.log_in(url, key)
                for name, path in names.items():
                    await visit.page.goto(f"{url}/ui/{path}")
                    # Not until the network is idle: a page in front follows a stream.
                    await visit.until("document.querySelectorAll('[hx-trigger=load]').length === 0")
                    await visit.until(f"[...document.images].every((one) => one.complete || {BELOW})")
                    if name == "try":
                        await _check(visit.page)
                    await _take(visit.page, f"{name}-{width}")


async def _check(page: Page) -> None:
    """Have a file of the editor checked: with a muted node, and a picture that the job must bring."""
    nodes = [
        _node(1, "LoadImage", 0, ["harbour.png", "image"], outputs=[_slot("IMAGE", links=[1]), _slot("MASK")]),
        _node(2, "ImageInvert", 1, [], mode=4, inputs=[_slot("image", link=1)], outputs=[_slot("IMAGE", links=[2])]),
        _node(3, "SaveImage", 2, ["harbour"], inputs=[_slot("images", link=2)], title="Result"),
        _node(4, "PreviewImage", 2, [], mode=2, title="Not needed now"),
    ]
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]
    file = {"version": 0.4, "nodes": nodes, "links": links}
    payload: FilePayload = {
        "name": "harbour.json",
        "mimeType": "application/json",
        "buffer": json.dumps(file).encode(),
    }
    await page.set_input_files("#graph-file", payload)
    await page.wait_for_selector("#checked .good")


def _node(number: int, kind: str, column: int, values: list[Any], **members: Any) -> dict[str, Any]:
    place = {"pos": [420 * column, 40 * number], "size": [315, 120]}
    return {"id": number, "type": kind, "widgets_values": values, **place, **members}


def _slot(name: str, **members: Any) -> dict[str, Any]:
    return {"name": name, "type": "MASK" if name == "MASK" else "IMAGE", **members}


def _sizes() -> Iterator[tuple[dict[str, int], str]]:
    yield DESKTOP, "desktop"
    yield PHONE, "phone"


async def _take(page: Page, name: str) -> None:
    with Image.open(BytesIO(await page.screenshot())) as picture:
        picture.convert("RGB").save(INTO / f"{name}.webp", quality=QUALITY)


if __name__ == "__main__":
    main()
