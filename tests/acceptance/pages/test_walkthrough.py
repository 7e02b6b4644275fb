"""The way of a newcomer: log in, run a workflow with a picture, and find its results."""

import base64
import re
import shutil
from io import BytesIO

import pytest
from PIL import Image
from playwright.async_api import Page

from infra.cli.open import link_file
from tests.support.chromium import Visit, needs_chromium
from tests.support.receiver import receiver
from tests.support.up import Up

pytestmark = [pytest.mark.anyio, needs_chromium]


async def test_a_wrong_key_is_refused_and_a_right_one_logs_in(guest: Visit, running: Up, url: str) -> None:
    """A page leads to the login, which refuses a wrong key in words, and then to the page that was asked for."""
    page = guest.page
    await page.goto(f"{url}/ui/usage")
    await page.fill("#key", "ck_live_wrong")
    await page.keyboard.press("Enter")
    assert "The api key is not valid" in await page.inner_text("[role=alert]")
    await page.fill("#key", running.connection["api_key"])
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/ui/usage")
    await page.click("text=Log out")
    await page.wait_for_url("**/ui/login")
    await page.goto(f"{url}/ui/jobs")
    assert page.url.startswith(f"{url}/ui/login")


async def test_the_pages_alone_lead_to_a_result_and_its_webhook(visit: Visit, url: str) -> None:
    """A picture is dropped on a form, its job is watched, and its result and webhook are found, by pages alone."""
    page = visit.page
    with receiver() as hook:
        await page.goto(f"{url}/ui/jobs")
        await page.click("main >> text=Run a")
        await page.click("text=A photograph, scaled and inverted")
        await _drop(page, "[data-upload=image]", "photo of a cat (1).png")
        await page.wait_for_selector("text=is uploaded")
        await page.fill("#input-width", "80")
        await page.click("summary:has-text('Webhook')")
        await page.fill("#webhook-url", hook.url("hook"))
        await page.click("button.primary")
        await page.wait_for_selector("#result .badge.completed")
        await visit.until("document.querySelector('#outputs img')?.naturalWidth === 80")
        await page.click("#outputs img")
        await page.wait_for_selector("dialog.zoom img")
        await page.keyboard.press("Escape")
        async with page.expect_download() as saving:
            await page.click("#outputs figcaption a")
        with Image.open(await (await saving.value).path()) as saved:
            assert saved.size == (80, 60)
        await page.click("text=Open job")
        await page.wait_for_selector("#deliveries .badge.delivered")
        assert len(hook.taken("hook")) == 1
    assert await page.locator("svg .node.output").count() == 1
    assert await page.locator(".timeline tbody tr").count() == 4
    assert "80" in await page.inner_text("dl.values")
    assert await page.locator("pre.log").count() == 1
    await page.click("text=Change and run")
    assert await page.input_value("#input-width") == "80"
    await page.click("nav >> text=Jobs")
    await visit.until("document.querySelector('.jobs .thumb img')?.naturalWidth > 0")


async def test_the_link_of_the_command_line_opens_the_pages(guest: Visit, running: Up, url: str) -> None:
    """`comfyui-modal open` makes a link that logs one browser in, once, after a question, from a file or by itself."""
    link = running.command("open", "--print").stdout.strip()
    assert re.fullmatch(rf"{re.escape(url)}/ui/open\?token=\S+", link)
    await guest.page.goto((file := link_file(link)).as_uri())
    shutil.rmtree(file.parent)
    await guest.page.click("main button >> text=Log in")
    await guest.page.wait_for_url("**/ui/jobs")
    assert "token" not in await guest.page.evaluate("location.href")
    await guest.context.clear_cookies()
    await guest.page.goto(link)
    assert "was used already" in await guest.page.inner_text("[role=alert]")
    assert link.partition("token=")[2] not in running.logs()


async def _drop(page: Page, zone: str, name: str) -> None:
    """Drop a picture on a part of the page, as from a file manager."""
    content = BytesIO()
    Image.effect_mandelbrot((160, 120), (-2, -1.2, 1, 1.2), 60).convert("RGB").save(content, "PNG")
    dropped = await page.evaluate_handle(
        """([name, text]) => {
            const dropped = new DataTransfer();
            const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
            dropped.items.add(new File([bytes], name, { type: "image/png" }));
            return dropped;
        }""",
        [name, base64.b64encode(content.getvalue()).decode()],
    )
    await page.dispatch_event(zone, "drop", {"dataTransfer": dropped})
