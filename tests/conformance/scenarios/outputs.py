"""Outputs of nodes, progress messages, the cache, and failing nodes."""

import io
import math
import struct
import uuid
import wave

from PIL import Image

from tests.conformance.graphs import Graph, basic, colour, empty_image, node, save, slow
from tests.conformance.scenarios import Book
from tests.conformance.traffic import Traffic

BOOK = Book()
PREVIEWS = {"supports_preview_metadata": True}


def png(width: int = 64, height: int = 48, colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def tone(frequency: int, *, seconds: float = 1.0, rate: int = 16000) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        values = (round(8000 * math.sin(2 * math.pi * frequency * i / rate)) for i in range(int(seconds * rate)))
        file.writeframes(b"".join(struct.pack("<h", value) for value in values))
    return buffer.getvalue()


def view(entry: dict[str, str]) -> str:
    return f"/view?filename={entry['filename']}&subfolder={entry['subfolder']}&type={entry['type']}"


@BOOK.add()
async def s01_empty_save(traffic: Traffic) -> None:
    history = await traffic.run(basic())
    await traffic.get(view(history["outputs"]["2"]["images"][0]))


@BOOK.add()
async def s02_load_scale_invert_save(traffic: Traffic) -> None:
    up = await traffic.upload(png(colour=(colour() & 255, 20, 30)), "rec_in.png", overwrite="true")
    scale = {"upscale_method": "bilinear", "width": 96, "height": 0, "crop": "disabled"}
    await traffic.run(
        {
            "1": node("LoadImage", image=up["name"]),
            "2": node("ImageScale", image=["1", 0], **scale),
            "3": node("ImageInvert", image=["2", 0]),
            "4": save("3", "rec/inverted"),
        }
    )


@BOOK.add()
async def s03_animated_webp_png(traffic: Traffic) -> None:
    shared = {"images": ["1", 0], "filename_prefix": "rec/anim", "fps": 6.0}
    await traffic.run(
        {
            "1": empty_image(batch_size=8),
            "2": node("SaveAnimatedWEBP", **shared, lossless=True, quality=80, method="default"),
            "3": node("SaveAnimatedPNG", **shared, compress_level=4),
        }
    )


@BOOK.add()
async def s04_video_mp4(traffic: Traffic) -> None:
    video = {"video": ["2", 0], "filename_prefix": "rec/video", "format": "mp4"}
    webm = {"filename_prefix": "rec/webm", "codec": "vp9", "fps": 8.0, "crf": 32.0}
    history = await traffic.run(
        {
            "1": empty_image(batch_size=16),
            "2": node("CreateVideo", images=["1", 0], fps=8),
            "3": node("SaveVideo", **video, **{"codec": "h264", "format.codec": "h264"}),
            "4": node("SaveWEBM", images=["1", 0], **webm),
        }
    )
    path = view(history["outputs"]["3"]["images"][0])
    await traffic.get(path)
    await traffic.get(path, "range request", headers={"Range": "bytes=0-99"})


@BOOK.add()
async def s04b_video_old_keys(traffic: Traffic) -> None:
    video = {"video": ["2", 0], "filename_prefix": "rec/video", "format": "auto", "codec": "auto"}
    await traffic.run(
        {
            "1": empty_image(batch_size=4),
            "2": node("CreateVideo", images=["1", 0], fps=8),
            "3": node("SaveVideo", **video),
        }
    )


@BOOK.add()
async def s05_preview_image(traffic: Traffic) -> None:
    history = await traffic.run({"1": empty_image(batch_size=2), "2": node("PreviewImage", images=["1", 0])})
    entry = history["outputs"]["2"]["images"][0]
    await traffic.get(view(entry))
    await traffic.get(f"/view?filename={entry['filename']}", "default type is output -> 404")


@BOOK.add()
async def s06_preview_any_text(traffic: Traffic) -> None:
    await traffic.run(
        {
            "1": node("PrimitiveString", value=f"hällo {colour()}"),
            "2": node("StringConcatenate", string_a=["1", 0], string_b="world", delimiter="\n"),
            "3": node("PreviewAny", source=["2", 0]),
            "4": node("PrimitiveInt", value=7),
            "5": node("PreviewAny", source=["4", 0]),
        }
    )


@BOOK.add()
async def s07_audio(traffic: Traffic) -> None:
    note = "audio is uploaded through /upload/image too"
    await traffic.upload(tone(300 + colour() % 500), "rec_tone.wav", note, overwrite="true")
    duration = 0.5 + (colour() % 100) / 1000
    await traffic.run(
        {
            "1": node("EmptyAudio", duration=duration, sample_rate=44100, channels=2),
            "2": node("SaveAudio", audio=["1", 0], filename_prefix="rec/audio"),
            "3": node("LoadAudio", audio="rec_tone.wav"),
            "4": node("SaveAudioMP3", audio=["3", 0], filename_prefix="rec/audio", quality="128k"),
            "5": node("SaveAudioOpus", audio=["3", 0], filename_prefix="rec/audio", quality="128k"),
            "6": node("PreviewAudio", audio=["3", 0]),
        }
    )


def _to_socket() -> Graph:
    return {"1": empty_image(batch_size=2), "2": node("SaveImageWebsocket", images=["1", 0])}


@BOOK.add()
async def s09_websocket_image(traffic: Traffic) -> None:
    await traffic.run(_to_socket())


@BOOK.add()
async def s09b_websocket_image_with_flags(traffic: Traffic) -> None:
    await traffic.run(_to_socket(), flags=PREVIEWS)


@BOOK.add(own_nodes=True)
async def s10_progress_preview(traffic: Traffic) -> None:
    await traffic.run(slow(traffic.nodes, 8, 0.05, size=128))


@BOOK.add(own_nodes=True)
async def s10b_progress_preview_metadata(traffic: Traffic) -> None:
    await traffic.run(slow(traffic.nodes, 8, 0.05, size=128), flags=PREVIEWS)


@BOOK.add(own_nodes=True)
async def s11_cached_twice(traffic: Traffic) -> None:
    """The same graph runs twice, then with another prefix, another title and other node ids."""
    client_id = str(uuid.uuid4())
    socket = await traffic.socket(client_id)

    async def follow(graph: Graph) -> None:
        prompt_id = await traffic.submit(graph, client_id)
        await socket.until_end(prompt_id)
        await traffic.history(prompt_id)

    graph = slow(traffic.nodes, 3, 0.02)
    await follow(graph)
    await follow(graph)
    graph["3"]["inputs"]["filename_prefix"] = "rec/slow_other"
    await follow(graph)
    graph["3"]["_meta"] = {"title": "x"}
    await follow(graph)
    await follow({f"n{key}": _moved(value) for key, value in graph.items()})


def _moved(one: dict[str, object]) -> dict[str, object]:
    inputs = one["inputs"]
    assert isinstance(inputs, dict)
    moved = {key: [f"n{value[0]}", value[1]] if isinstance(value, list) else value for key, value in inputs.items()}
    return {"class_type": one["class_type"], "inputs": moved}


@BOOK.add()
async def s13_multi_output_identical_nodes(traffic: Traffic) -> None:
    await traffic.run({**basic("rec/dup"), "3": save("1", "rec/dup"), "4": save("1", "rec/dup_b")})


@BOOK.add(own_nodes=True)
async def s16_custom_ui_keys(traffic: Traffic) -> None:
    kinds = ("gifs", "text_number", "empty", "abs_path")
    graph = {str(number): traffic.nodes.showing("1", kind) for number, kind in enumerate(kinds, 2)}
    await traffic.run({"1": empty_image(16), **graph})


@BOOK.add(own_nodes=True)
async def s16b_ui_nan(traffic: Traffic) -> None:
    await traffic.run({"1": empty_image(16), "2": traffic.nodes.showing("1", "nan")})


@BOOK.add()
async def s20_error_corrupt_file(traffic: Traffic) -> None:
    """The chunk name starts with the byte of the recording, which the error message contains."""
    await traffic.upload(b"\x89PNG\r\n\x1a\n" + b"\xd2" * 64, "rec_corrupt.png", overwrite="true")
    await traffic.run({"1": node("LoadImage", image="rec_corrupt.png"), "2": save("1", "rec/corrupt")})


@BOOK.add(own_nodes=True)
async def s21_error_runtime(traffic: Traffic) -> None:
    failing = {"3": traffic.nodes.failing("1", "runtime"), "4": save("3", "rec/badbranch")}
    await traffic.run({**basic("rec/goodbranch"), **failing})


@BOOK.add(own_nodes=True)
async def s22_error_oom(traffic: Traffic) -> None:
    await traffic.run({"1": empty_image(), "2": save("3", "rec/basic"), "3": traffic.nodes.failing("1", "oom")})
