"""Every page on a phone and on a desktop, in light and dark, as axe-core judges it."""

import pytest
from axe_playwright_python.async_playwright import Axe

from tests.support.chromium import DESKTOP, PHONE, Visit, needs_chromium
from tests.support.up import Up, finished

pytestmark = [pytest.mark.anyio, needs_chromium]

PAGES = (
    *("jobs", "workflows", "workflows/still", "workflows/sdxl", "try"),
    *("batches", "webhooks", "usage", "keys", "system"),
)
SERIOUS = ("serious", "critical")


async def test_no_page_is_wider_than_a_phone_or_hard_to_use(visit: Visit, running: Up, url: str) -> None:
    """No page is wider than the screen of a phone or of a desktop, and axe-core finds nothing serious on any."""
    with running.client() as client:
        fields = {"inputs": {"first": "a lighthouse"}, "metadata": {"order": "4711"}}
        job_id = client.post("/v1/workflows/words/jobs", json=fields).json()["job_id"]
        finished(client, job_id)
    for name in (*PAGES, f"jobs/{job_id}", "login"):
        if name == "login":
            await visit.context.clear_cookies()
        await visit.page.goto(f"{url}/ui/{name}")
        for size in (PHONE, DESKTOP):
            await visit.page.set_viewport_size({"width": size["width"], "height": size["height"]})
            assert await visit.page.evaluate("document.documentElement.scrollWidth") <= size["width"], name
        await visit.page.evaluate(Axe().axe_script)
        assert await _faults(visit) == [], name
        # Only the colours differ in the dark.
        await visit.page.emulate_media(color_scheme="dark")
        assert await _faults(visit, "color-contrast") == [], name
        await visit.page.emulate_media(color_scheme="light")


async def _faults(visit: Visit, *rules: str) -> list[tuple[str, str]]:
    options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    found = await visit.page.evaluate("async (options) => (await axe.run(options)).violations", options)
    return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in SERIOUS]
