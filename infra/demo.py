"""`make demo`: the main use of the product on this machine, from an empty folder to files in outputs/.

It starts `comfyui-modal up` in a temporary folder, sends a photograph through a presigned upload, runs a picture
and a video workflow with the ordinary command line, checks the pixels, receives and verifies a signed webhook,
and stops everything. A demo that fails leaves its folder behind, for the logs.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from rich.console import Console

import comfyui_modal
from infra.local.connection import Connection

OUTPUTS = Path("outputs")
READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
WEBHOOK_TIMEOUT_S = 30.0
PHOTO_SIZE = (1280, 853)
COMMAND = tuple(comfyui_modal.command("infra.cli"))

console = Console()


class DemoFailed(Exception):
    """A step of the demo did not have its expected result."""


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="comfyui-modal-demo-"))
    try:
        _run(folder)
    except DemoFailed as failure:
        console.print(f"[red]demo failed:[/] {failure}", highlight=False)
        console.print(f"its logs are kept: {folder / 'data' / 'logs'}", highlight=False, soft_wrap=True)
        return 1
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)
    return 0


def _run(folder: Path) -> None:
    photo = folder / "photo.png"
    write_photograph(photo)
    console.rule("comfyui-modal up: S3 server, API, worker")
    with _up(folder / "data") as data:
        console.rule("a photograph: LoadImage → ImageScale → ImageInvert → SaveImage")
        started = time.time()
        _command("run", "still", "--image", str(photo), "--out", str(OUTPUTS), "--data", str(data))
        _check_pixels(photo, _newest("*.png", started))
        console.print("pixels checked: scaled and inverted as asked", style="green")
        console.rule("a short video")
        started = time.time()
        _command("run", "clip", "--image", str(photo), "--out", str(OUTPUTS), "--data", str(data))
        _newest("*.mp4", started)
        console.rule("a signed webhook, received and verified")
        with _listening(data) as (url, listener):
            _command("run", "words", "--webhook", url, "--out", str(OUTPUTS), "--data", str(data))
            if listener.wait(WEBHOOK_TIMEOUT_S) != 0:
                raise DemoFailed("the event was not verified")
        console.rule("what the API remembers")
        _command("jobs", "list", "--data", str(data))
    console.rule()
    console.print(f"done: everything is stopped; the files are in {OUTPUTS.resolve()}", style="green", highlight=False)
    console.print("next: `make up` keeps it running; then open the docs page that it names", highlight=False)


@contextmanager
def _up(data: Path) -> Iterator[Path]:
    """Run the local runtime on a free port until the end of the block."""
    process = subprocess.Popen([*COMMAND, "up", "--port", "0", "--data", str(data)])
    try:
        _wait_ready(process, data)
        yield data
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _listening(data: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run `comfyui-modal listen` for one event. Yield its URL and its process."""
    command = [*COMMAND, "listen", "--port", "0", "--count", "1", "--data", str(data)]
    listener = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert listener.stdout is not None  # noqa: S101  it was asked for
        yield listener.stdout.readline().removeprefix("listening: ").strip(), listener
        for line in listener.stdout:
            console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
    finally:
        listener.terminate()
        listener.wait()


def _wait_ready(process: subprocess.Popen[bytes], data: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while Connection.of(data) is None:
        if process.poll() is not None:
            raise DemoFailed(f"`comfyui-modal up` ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise DemoFailed(f"`comfyui-modal up` was not ready within {READY_TIMEOUT_S:.0f} s")
        time.sleep(0.05)


def _command(*arguments: str) -> None:
    """Run a command as a user would, with its output on this terminal."""
    console.print(f"[bold]$ comfyui-modal {' '.join(arguments)}[/]", highlight=False, soft_wrap=True)
    finished = subprocess.run([*COMMAND, *arguments], check=False, env=os.environ)
    if finished.returncode != 0:
        raise DemoFailed(f"`comfyui-modal {arguments[0]}` ended with {finished.returncode}")


def _newest(pattern: str, since: float) -> Path:
    # A file system may round times down to a second.
    found = [path for path in OUTPUTS.glob(pattern) if path.stat().st_mtime >= since - 1]
    if not found:
        raise DemoFailed(f"no {pattern} arrived in {OUTPUTS}")
    return max(found, key=lambda path: path.stat().st_mtime)


def _check_pixels(photo: Path, result: Path) -> None:
    """Compare the result with the photograph, scaled to its size and inverted, within the resampler's rounding."""
    with Image.open(photo) as source, Image.open(result) as inverted:
        expected = 255 - np.asarray(source.convert("RGB").resize(inverted.size, Image.Resampling.BILINEAR), np.int16)
        difference = np.abs(np.asarray(inverted.convert("RGB"), np.int16) - expected)
    if difference.mean() > 6:
        raise DemoFailed(f"{result} is not the inverted photograph: mean difference {difference.mean():.1f} of 255")


def write_photograph(path: Path, seed: int = 7) -> None:
    """Write a PNG of about 3 MB, whose noise compresses as badly as that of a camera."""
    width, height = PHOTO_SIZE
    noise = np.random.default_rng(seed)
    horizon = int(height * 0.58)
    rows = np.linspace(0, 1, height)[:, None, None]
    sky = np.array([92, 142, 205]) + rows * np.array([150, 90, 20])
    ground = np.array([70, 92, 48]) + noise.normal(0, 18, (height, width, 1))
    pixels = np.where(np.arange(height)[:, None, None] < horizon, np.broadcast_to(sky, (height, width, 3)), ground)
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((900, 90, 1040, 230), fill=(255, 236, 190))
    for left, top, spread in ((80, 300, 340), (420, 220, 420), (820, 340, 360)):
        draw.polygon([(left, horizon), (left + spread // 2, top), (left + spread, horizon)], fill=(74, 80, 104))
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float32)
    grain = noise.normal(0, 5, soft.shape)
    Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8)).save(path)


if __name__ == "__main__":
    sys.exit(main())
