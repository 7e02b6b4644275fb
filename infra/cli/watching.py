"""`comfyui-modal jobs watch`: prints a job's events as they happen, with previews in terminals that show pictures."""

import base64
import os
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from comfyui_modal_client import JobEvent
from infra.cli.output import Terminal

PICTURE_ROWS = 12
"""The height of a preview, in lines of the terminal."""
_KITTY_CHUNK = 4096
"""Characters of one escape sequence of kitty's protocol."""


def picture_protocol(environment: Mapping[str, str]) -> str | None:
    """Return the protocol by which this terminal shows pictures: `iterm2`, `kitty`, or None."""
    if environment.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm"):
        return "iterm2"
    return "kitty" if environment.get("TERM") == "xterm-kitty" or "KITTY_WINDOW_ID" in environment else None


def picture(protocol: str, data_base64: str) -> str:
    """Return the text that shows a JPEG. Raises ValueError for data that is not base64."""
    data = base64.b64decode(data_base64, validate=True)
    if protocol == "iterm2":
        size = f"size={len(data)};height={PICTURE_ROWS};inline=1"
        return f"\x1b]1337;File={size}:{base64.b64encode(data).decode()}\x07\n"
    return "".join(_kitty(_as_png(data))) + "\n"


def _kitty(png: bytes) -> Iterator[str]:
    text = base64.b64encode(png).decode()
    for start in range(0, len(text), _KITTY_CHUNK):
        control = f"a=T,f=100,r={PICTURE_ROWS},q=2," if start == 0 else ""
        more = int(start + _KITTY_CHUNK < len(text))
        yield f"\x1b_G{control}m={more};{text[start : start + _KITTY_CHUNK]}\x1b\\"


def _as_png(jpeg: bytes) -> bytes:
    """Convert a JPEG, because kitty's protocol has none."""
    from io import BytesIO

    from PIL import Image

    with BytesIO() as file:
        Image.open(BytesIO(jpeg), formats=["JPEG"]).save(file, "PNG")
        return file.getvalue()


def print_event(console: Terminal, event: JobEvent) -> None:
    """Print one event as a line, or a preview as a picture."""
    if event.name == "preview":
        print_preview(console, event)
    else:
        console.print_line(_line(event.name, event.data))


def print_preview(console: Console, event: JobEvent) -> None:
    """Print a preview as a picture, in a terminal that shows pictures."""
    protocol = picture_protocol(os.environ) if console.is_terminal else None
    if protocol is not None:
        # Not through the console, which escapes control characters. The picture is our own encoding of its bytes.
        console.file.write(picture(protocol, event.data["data_base64"]))
        console.file.flush()


def _line(name: str, data: Mapping[str, Any]) -> str:
    match name:
        case "status":
            return f"{data['status']}{': ' + data['error'] if data['error'] else ''}"
        case "progress":
            step = data["progress_details"]["step"]
            return f"{data['progress']:3} %{'  step ' + step if step else ''}"
        case "node":
            return f"node {data['node_id']} {data['state']}"
        case "output":
            return f"output {data['output']['filename']}  {data['output']['size_bytes']} bytes"
        case _:  # of a newer API
            return name
