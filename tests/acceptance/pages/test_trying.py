"""A graph is read from a file and checked before it runs."""

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.support.chromium import Visit, needs_chromium

pytestmark = [pytest.mark.anyio, needs_chromium]

EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 40, "batch_size": 1, "color": 255}}
SAVE = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}}


async def test_the_graph_of_a_picture_is_read_and_checked(visit: Visit, url: str, tmp_path: Path) -> None:
    """A graph is read from each form of text in a PNG, without a request that sends the picture."""
    page = visit.page
    await page.goto(f"{url}/ui/try")
    for number in range(3):
        # Chromium says nothing when the same file is chosen again.
        path, texts = tmp_path / f"made-{number}.png", PngInfo()
        text = json.dumps({"1": EMPTY, "2": {**SAVE, "_meta": {"title": f"form {number} é"}}})
        if number == 2:
            texts.add_itxt("prompt", text, zip=True)
        else:
            texts.add_text("prompt", text, zip=number == 1)
        Image.new("RGB", (4, 4)).save(path, pnginfo=texts)
        await page.set_input_files("#graph-file", path)
        await page.wait_for_selector(f"#checked svg >> text=form {number} é", state="attached")
    assert "It can run here" in await page.inner_text("#checked")
