"""What an operator does: watch, cancel and repeat jobs, repair deliveries, and give and take keys."""

import asyncio
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.support.chromium import PHONE, Visit, needs_chromium, visiting
from tests.support.receiver import receiver
from tests.support.up import Up, eventually, finished

pytestmark = [pytest.mark.anyio, needs_chromium]

EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 40, "batch_size": 1, "color": 255}}
BLUE = {"1": EMPTY, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}}}
STEPS = {"image": ["1", 0], "steps": 200, "seconds_per_step": 0.3, "preview": True}
SLOW = {
    "1": EMPTY,
    "3": {"class_type": "LiteSlowSteps", "inputs": STEPS},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "slow"}},
}
BAR, PREVIEW = "document.querySelector('#live progress')", "document.querySelector('.live-preview')"


async def test_a_running_job_moves_on_its_page_and_is_cancelled_and_repeated(
    visit: Visit, running: Up, url: str
) -> None:
    """Progress, node and preview change by the job's stream alone; then the job is cancelled, and run again."""
    page, asked = visit.page, list[str]()
    await page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
    await page.goto(f"{url}/ui/jobs")
    with running.client() as client:
        job_id = client.post("/v1/jobs", json={"workflow": SLOW}).json()["job_id"]
    await page.click(f"#job-{job_id} .name")  # it shows up in the open list
    await page.wait_for_selector("#live .badge.running")
    page.on("request", lambda request: asked.append(request.url))
    await visit.until(f"{BAR}?.value > 0 && {PREVIEW}?.naturalWidth > 0")
    value, picture = await page.evaluate(f"[{BAR}.value, {PREVIEW}.src]")
    await visit.until(f"{BAR}.value > {value} && {PREVIEW}.src !== {picture!r}")
    assert picture.startswith("data:image/")
    assert await page.inner_text("[data-live=nodes] tbody th") == "3 LiteSlowSteps"
    assert await page.locator("svg .node.current").get_attribute("data-node") == "3"
    assert not [path for path in asked if "/live" in path]
    await page.focus("#cancel")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#live .badge.cancelled")
    assert "Cancelled by user" in await page.inner_text("#live")
    await page.click("text=Run again")
    await page.wait_for_selector("#live .badge.running")
    assert job_id not in page.url
    await page.click("#cancel")
    await page.wait_for_selector("#live .badge.cancelled")
    await visit.confirm_questions()
    await page.click("#live >> text=Remove")
    await page.wait_for_url("**/ui/jobs")


async def test_a_page_without_a_stream_asks_again(visit: Visit, running: Up, url: str) -> None:
    """Where a stream is refused, the page of a job reads its state from time to time until the end."""
    await visit.context.route("**/ui/jobs/*/events*", lambda route: route.abort())
    with running.client() as client:
        steps = {**STEPS, "steps": 4}
        graph = {**SLOW, "3": {"class_type": "LiteSlowSteps", "inputs": steps}}
        job_id = client.post("/v1/jobs", json={"workflow": graph}).json()["job_id"]
        await visit.page.goto(f"{url}/ui/jobs/{job_id}")
        await visit.page.wait_for_selector("#live .badge.completed")
        await visit.page.wait_for_selector("#outputs img")


async def test_deliveries_are_sent_again_and_dead_letters_replayed(visit: Visit, running: Up, url: str) -> None:
    """The page of a job sends a delivered event again, and that of the webhooks replays a dead letter."""
    page = visit.page
    with receiver() as hook, running.client() as client:
        hook.script("gone", ["410"])
        done, dead = [await asyncio.to_thread(_job_with_receiver, client, hook.url(path)) for path in ("hook", "gone")]
        eventually(lambda: hook.on("hook") and hook.on("gone"))
        await page.goto(f"{url}/ui/jobs/{done}")
        await page.wait_for_selector("#deliveries .badge.delivered")
        await page.click("#deliveries >> text=Send again")
        eventually(lambda: len(hook.on("hook")) == 2)
        assert len(hook.taken("hook")) == 1  # one event, twice
        eventually(lambda: client.get("/v1/dead-letters").json()["dead_letters"])
        await page.goto(f"{url}/ui/webhooks")
        await page.wait_for_selector(f"li:has-text('{dead[:8]}') .fault")
        await page.click(f"li:has-text('{dead[:8]}') >> text=Send again")
        await page.wait_for_selector("text=None. Every event was delivered")
        eventually(lambda: hook.taken("gone"))


async def test_a_key_is_made_shown_once_and_revoked(visit: Visit, browser: Browser, running: Up, url: str) -> None:
    """A key that is made on the page logs its tenant in, who sees no job of another, and is out when it is revoked."""
    page = visit.page
    with running.client() as client:
        client.post("/v1/jobs", json={"workflow": BLUE}).raise_for_status()
    await page.goto(f"{url}/ui/keys")
    await page.fill("#tenant", "acme")
    await page.click("text=Make the key")
    key = await page.inner_text("#new-key")
    await page.goto(f"{url}/ui/keys")
    assert key not in await page.content()
    async with visiting(browser) as other:
        await other.log_in(url, key)
        await other.page.goto(f"{url}/ui/jobs")
        assert "No jobs yet" in await other.page.inner_text("main")
        assert await other.page.locator("nav >> text=Keys").count() == 0
        await visit.confirm_questions()
        await page.click("tr:has-text('acme') >> text=Revoke")
        await page.wait_for_selector("tr:has-text('acme') .badge.failed")
        await other.page.click("nav >> text=Workflows")
        assert other.page.url.startswith(f"{url}/ui/login")
        assert other.faults == []


def _job_with_receiver(client: Any, receiver: str) -> str:
    fields = {"workflow": BLUE, "webhook_url": receiver, "webhook_events": ["completed"]}
    job_id: str = client.post("/v1/jobs", json=fields).json()["job_id"]
    finished(client, job_id)
    return job_id
