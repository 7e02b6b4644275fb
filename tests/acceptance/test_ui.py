"""The pages from outside: a real Chromium, a real `up` with the lite engine, and nothing else."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.async_api import Page

from tests.support.chromium import DESKTOP, PHONE, WAIT_MS, Visit, chromium, needs_chromium
from tests.support.receiver import receiver
from tests.support.up import Up, eventually, finished, up

pytestmark = [pytest.mark.anyio, needs_chromium]

EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 40, "batch_size": 1, "color": 255}}
SAVE = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}}
BLUE = {"1": EMPTY, "2": SAVE}
SLOW = {
    "1": EMPTY,
    "3": {
        "class_type": "LiteSlowSteps",
        "inputs": {"image": ["1", 0], "steps": 100, "seconds_per_step": 0.5, "preview": True},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "slow"}},
}
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("ui") / "data") as running:
        yield running


async def test_somebody_who_knows_the_pages_alone_gets_a_picture(running: Up, tmp_path: Path) -> None:
    """A picture is uploaded, the job is watched to its end, and its result is shown and saved, by pages alone."""
    photo = tmp_path / "photo of a cat (1).png"
    Image.effect_mandelbrot((160, 120), (-2, -1.2, 1, 1.2), 60).convert("RGB").save(photo)
    async with chromium() as visit:
        page = await _opened(visit, running)
        await page.click("text=Run a first workflow")
        await page.click("text=A photograph, scaled and inverted")
        await page.set_input_files("input[type=file]", photo)
        await page.wait_for_selector("text=is uploaded")
        await page.fill("#input-width", "80")
        await page.click("button.primary")
        await page.wait_for_selector("#result .badge.completed")
        picture = page.locator("#outputs img")
        await picture.wait_for()
        await _until(page, "document.querySelector('#outputs img').naturalWidth === 80")
        await picture.click()
        await page.wait_for_selector("dialog.zoom img")
        await page.keyboard.press("Escape")
        async with page.expect_download() as saving:
            await page.click("#outputs figcaption a")
        with Image.open(await (await saving.value).path()) as saved:
            assert saved.size == (80, 60)
        await page.click("#result p a")
        await page.wait_for_selector("svg .node.output")
        assert await page.locator(".timeline tbody tr").count() == 4
        assert "80" in await page.inner_text("dl.values")
        await page.click("text=Change and run")
        assert await page.input_value("#input-width") == "80"
        await page.goto(f"{running.connection['api_url']}/ui/jobs")
        await _until(page, "document.querySelector('.jobs .thumb img').naturalWidth > 0")
        await _a_picture_has_its_graph(page, tmp_path)
        _was_good(visit, running)


async def test_a_running_job_moves_on_its_page_and_can_be_cancelled(running: Up) -> None:
    """The progress of a running job changes without a reload, and a cancelled job shows that it was."""
    with running.client() as client:
        job_id = client.post("/v1/jobs", json={"workflow": SLOW}).json()["job_id"]
    async with chromium(**PHONE) as visit:
        page = await _opened(visit, running)
        await page.click(f"#job-{job_id} .name")
        await page.wait_for_selector("#live .badge.running")
        first = int(await page.locator("#live progress").get_attribute("value") or 0)
        await _until(page, f"Number(document.querySelector('#live progress')?.value) > {first}")
        preview = page.locator("#live .live-preview")
        before = await preview.get_attribute("src")
        await _until(page, "document.querySelector('#live .live-preview')?.naturalWidth > 0")
        assert before is not None
        assert before.startswith("data:image/")
        await page.click("#live >> text=Cancel")
        await page.wait_for_selector("#live .badge.cancelled")
        assert "Cancelled by user" in await page.inner_text("#live")
        _was_good(visit, running)


async def test_an_event_is_sent_again_from_the_page(running: Up) -> None:
    """The page of a job shows the deliveries of its events, and sends one again with the same id."""
    with receiver() as hook, running.client() as client:
        fields: dict[str, Any] = {
            "workflow": BLUE,
            "webhook_url": hook.url("hook"),
            "webhook_events": ["completed"],
        }
        job_id = client.post("/v1/jobs", json=fields).json()["job_id"]
        finished(client, job_id)
        eventually(lambda: hook.on("hook"))
        async with chromium() as visit:
            page = await _opened(visit, running)
            await page.goto(f"{running.connection['api_url']}/ui/jobs/{job_id}")
            await page.wait_for_selector("#deliveries .badge.delivered")
            await page.click("#deliveries >> text=Send again")
            eventually(lambda: len(hook.on("hook")) == 2)
            _was_good(visit, running)
        assert len(hook.taken("hook")) == 1


async def test_a_key_is_made_shown_once_and_revoked(running: Up) -> None:
    """A key that is made on the page logs its tenant in, who sees no job of another, and it can be revoked."""
    with running.client() as client:
        client.post("/v1/jobs", json={"workflow": BLUE}).raise_for_status()
    async with chromium() as visit:
        page = await _opened(visit, running)
        await page.click("nav >> text=Keys")
        await page.fill("#tenant", "acme")
        await page.click("text=Make the key")
        key = await page.inner_text("#new-key")
        await page.goto(f"{running.connection['api_url']}/ui/keys")
        assert key not in await page.content()
        async with chromium() as other:
            await other.log_in(running.connection["api_url"], key)
            assert "No jobs yet" in await other.page.inner_text("main")
            assert await other.page.locator("nav >> text=Keys").count() == 0
            _was_good(other, running)
        await page.evaluate("window.confirm = () => true")
        await page.click("text=Revoke")
        await page.wait_for_selector("tr:has-text('acme') .badge.failed")
        _was_good(visit, running)


async def test_the_link_of_the_command_line_opens_the_pages(running: Up) -> None:
    """`comfyui-modal open --print` prints a link that logs one browser in, once."""
    link = running.command("open", "--print").stdout.strip()
    assert re.fullmatch(rf"{re.escape(running.connection['api_url'])}/ui/open\?token=\S+", link)
    async with chromium() as visit:
        await visit.page.goto(link)
        await visit.page.wait_for_url("**/ui/jobs")
        await visit.context.clear_cookies()
        await visit.page.goto(link)
        assert "was used already" in await visit.page.inner_text("[role=alert]")


async def test_no_page_is_wider_than_a_phone_or_hard_to_use(running: Up) -> None:
    """No page is wider than the screen of a phone or of a desktop, and axe-core finds nothing serious on any."""
    with running.client() as client:
        job_id = client.post("/v1/jobs", json={"workflow": BLUE, "metadata": {"order": "4711"}}).json()["job_id"]
        finished(client, job_id)
    names = (
        "jobs",
        "workflows",
        "workflows/still",
        "workflows/sdxl",
        "try",
        "batches",
        "webhooks",
        "usage",
        "keys",
        "system",
    )
    async with chromium() as visit:
        page = await _opened(visit, running)
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
            for name in (*names, f"jobs/{job_id}"):
                await page.goto(f"{running.connection['api_url']}/ui/{name}")
                for size in (DESKTOP, PHONE):
                    await page.set_viewport_size({"width": size["width"], "height": size["height"]})
                    assert await page.evaluate("document.documentElement.scrollWidth") <= size["width"], name
                found = (await Axe().run(page)).response["violations"]
                assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in SERIOUS] == [], name
        _was_good(visit, running)


async def _a_picture_has_its_graph(page: Page, folder: Path) -> None:
    """Check that a graph is read from each form of text in a PNG, without a request that sends the picture."""
    await page.click("nav >> text=Workflows")
    await page.click("text=Try a graph")
    for number in range(3):
        # Chromium says nothing when the same file is chosen again.
        path, texts = folder / f"made-{number}.png", PngInfo()
        text = json.dumps({**BLUE, "2": {**SAVE, "_meta": {"title": f"form {number} é"}}})
        if number == 2:
            texts.add_itxt("prompt", text, zip=True)
        else:
            texts.add_text("prompt", text, zip=number == 1)
        Image.new("RGB", (4, 4)).save(path, pnginfo=texts)
        await page.set_input_files("#graph-file", path)
        await page.wait_for_selector(f"#checked svg >> text=form {number} é", state="attached")
    assert "It can run here" in await page.inner_text("#checked")


async def _until(page: Page, condition: str) -> None:
    """Wait until an expression is true. The pages' policy forbids what `wait_for_function` does for that."""
    async with asyncio.timeout(WAIT_MS / 1000):
        while not await page.evaluate(condition):
            await page.wait_for_timeout(100)


async def _opened(visit: Visit, running: Up) -> Page:
    await visit.log_in(running.connection["api_url"], running.connection["api_key"])
    return visit.page


def _was_good(visit: Visit, running: Up) -> None:
    """Check that nothing violated the policy, and that no request left this deployment."""
    assert visit.faults == []
    bucket = running.connection["s3_endpoint"].rstrip("/")
    assert visit.hosts <= {running.connection["api_url"], bucket}
