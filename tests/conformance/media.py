"""The decoded content of videos, sounds and animations. Real ComfyUI made the expectations in expected/media.json.

`python -m tests.conformance.media URL` regenerates them from a running ComfyUI.
"""

import asyncio
import io
import json
import sys
from pathlib import Path
from typing import Any

import av
from PIL import Image, ImageSequence

from tests.conformance.graphs import Graph, OwnNodes, node
from tests.conformance.scenarios.outputs import tone, view
from tests.conformance.traffic import Traffic

FILE = Path(__file__).parent / "expected" / "media.json"


def graph() -> Graph:
    """Return twelve frames of two alternating colours, half a second of silence and a second of a tone, saved in
    every way."""
    images, empty, loaded = ["1", 0], ["2", 0], ["3", 0]
    size = {"width": 66, "height": 34, "batch_size": 1}
    video = {"video": ["4", 0], "filename_prefix": "media/video", "format": "mp4", "codec": "h264"}
    return {
        "blue": node("EmptyImage", **size, color=0x2080C0),
        "red": node("EmptyImage", **size, color=0xC04020),
        "both": node("ImageBatch", image1=["blue", 0], image2=["red", 0]),
        "1": node("RepeatImageBatch", image=["both", 0], amount=6),
        "2": node("EmptyAudio", duration=0.5, sample_rate=44100, channels=2),
        "3": node("LoadAudio", audio="tone.wav"),
        "4": node("CreateVideo", images=images, fps=8, audio=empty),
        "5": node("SaveVideo", **video, **{"format.codec": "h264"}),
        "6": node("SaveWEBM", images=images, filename_prefix="media/webm", codec="vp9", fps=8.0, crf=32.0),
        "7": node("SaveAudio", audio=empty, filename_prefix="media/silence"),
        "8": node("SaveAudio", audio=loaded, filename_prefix="media/tone"),
        "9": node("SaveAudioMP3", audio=loaded, filename_prefix="media/tone", quality="128k"),
        "10": node("SaveAudioOpus", audio=loaded, filename_prefix="media/tone", quality="64k"),
        "11": node("SaveAnimatedPNG", images=images, filename_prefix="media/apng", fps=5.0, compress_level=4),
        "12": node(
            "SaveAnimatedWEBP",
            images=images,
            filename_prefix="media/webp",
            fps=5.0,
            lossless=False,
            quality=80,
            method="default",
        ),
    }


async def made(traffic: Traffic) -> dict[str, Any]:
    """Return the content of each saved file by node."""
    await traffic.upload(tone(440, rate=22050), "tone.wav", overwrite="true")
    history = await traffic.run(graph())
    assert history["status"]["completed"], history["status"]
    found = {}
    for node_id, ui in history["outputs"].items():
        entry = (ui.get("images") or ui["audio"])[0]
        content = await traffic.bytes_of(view(entry))
        is_picture = entry["filename"].endswith((".png", ".webp"))
        found[node_id] = {"animated": ui.get("animated"), **(_picture(content) if is_picture else _media(content))}
    return found


def _picture(content: bytes) -> dict[str, Any]:
    with Image.open(io.BytesIO(content)) as image:
        frames = [_frame(frame) for frame in ImageSequence.Iterator(image)]
        return {"format": image.format, "size": list(image.size), "frames": frames}


def _frame(frame: Image.Image) -> dict[str, Any]:
    frame.load()
    return {"duration_ms": frame.info["duration"], "colour": list(_pixel(frame))}


def _pixel(frame: Image.Image) -> tuple[int, ...]:
    found = frame.convert("RGB").getpixel((10, 10))
    assert isinstance(found, tuple)
    return found


def _media(content: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with av.open(io.BytesIO(content), "r") as container:
        found["format"] = container.format.name
        for video in container.streams.video:
            frames = list(container.decode(video))
            pixel = frames[0].to_ndarray(format="rgb24")[10, 10]
            rate = float(video.average_rate or 0)
            found["video"] = [video.codec_context.name, len(frames), frames[0].width, frames[0].height, rate]
            found["colour"] = [int(value) for value in pixel]
    with av.open(io.BytesIO(content), "r") as container:
        for audio in container.streams.audio:
            samples = sum(frame.samples for frame in container.decode(audio))
            found["audio"] = [audio.codec_context.name, audio.rate, audio.channels, samples]
    return found


async def _write(url: str) -> None:
    async with Traffic(url, OwnNodes(lite=False)) as traffic:
        FILE.write_text(json.dumps(await made(traffic), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    asyncio.run(_write(sys.argv[1]))
