"""Reads an output's type, dimensions and duration from its bytes. An unreadable file does not fail the job.

A node may write any bytes, so only a picture whose header is cheap is opened in the worker; `workers.outputs.measure`
opens every other file in a process with little memory and time. Code in the engine may also change a file while it is
read: exactly the bytes of its checked size are read, and a thread that reads them can be stopped.
"""

import errno
import hashlib
import json
import logging
import mimetypes
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import filetype
from PIL import Image

import comfyui_modal
from storage.intake.limited_reads import LimitedReads
from storage.intake.media_check import probe_environment
from storage.intake.walkers import MAX_PNG_CHUNK, has_light_header

logger = logging.getLogger(__name__)

HASH_CHUNK = 1024 * 1024
MEASURE_S = 60.0
"""Wall-clock limit of measuring one file, which has 15 s of CPU time."""
LOOK_S = 0.5
"""Seconds between two looks at the stop flag while a file is measured."""
_BY_HEADER = {"image/png": "PNG", "image/jpeg": "JPEG", "image/bmp": "BMP"}

_BY_EXTENSION = {
    ".flac": "audio/flac",
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
    ".json": "application/json",
    ".obj": "model/obj",
    ".opus": "audio/ogg",
    ".ply": "model/ply",
    ".stl": "model/stl",
    ".webp": "image/webp",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """A file's metadata. Videos and animations have `duration_s` and `frames`; sizes are in pixels."""

    size_bytes: int
    sha256: str
    content_type: str
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    frames: int | None = None


def examine(
    path: Path,
    filename: str,
    content_type: str | None = None,
    *,
    size: int | None = None,
    stop: threading.Event | None = None,
) -> Facts:
    """Return a file's metadata. The call blocks: run it in a thread. Raises `OSError` if the file is not readable.

    `content_type` overrides the detected type. With `size`, a file of another size raises `OSError`. The call ends soon
    after `stop` has been set.
    """
    size, stop = path.stat().st_size if size is None else size, stop or threading.Event()
    content_type = content_type or content_type_of(path, filename)
    seen: dict[str, Any] = {}
    try:
        if content_type in _BY_HEADER:
            seen = _still(path, _BY_HEADER[content_type]) or _measured(path, content_type, stop)
        elif content_type.startswith(("image/", "video/", "audio/")) and content_type != "image/svg+xml":
            seen = _measured(path, content_type, stop)
    except Exception as error:  # decoders raise arbitrary errors on nodes' files
        logger.info("could not look into %s: %s: %s", filename, type(error).__name__, error)
    return Facts(size, sha256_of(path, size, stop), content_type, **seen)


def content_type_of(path: Path, filename: str) -> str:
    """Return the type by the first bytes, else by the name's extension."""
    guess = filetype.guess(str(path))
    if guess is not None:
        return str(guess.mime)
    extension = Path(filename).suffix.lower()
    return _BY_EXTENSION.get(extension) or mimetypes.guess_type(filename)[0] or "application/octet-stream"


def sha256_of(path: Path, size: int, stop: threading.Event) -> str:
    """Return the hash of a file of exactly this size. Raises `OSError` for any other size, and after `stop`."""
    digest, left = hashlib.sha256(), size
    with path.open("rb") as file:
        while left and (chunk := file.read(min(HASH_CHUNK, left))):
            if stop.is_set():
                raise OSError(errno.ECANCELED, "its attempt has ended")
            digest.update(chunk)
            left -= len(chunk)
        if left or file.read(1):
            raise OSError(errno.ESTALE, "its size has changed")
    return digest.hexdigest()


def _still(path: Path, kind: str) -> dict[str, Any] | None:
    """Return the dimensions of a picture with a cheap header and one frame; None for any other file."""
    Image.MAX_IMAGE_PIXELS = None  # upscalers write more than Pillow's limit; only the header is read here
    with path.open("rb") as file:
        if not has_light_header(file, kind):
            return None
        file.seek(0)
        # Code in the engine may change the file meanwhile, so the bytes are limited once more.
        limited = cast(BinaryIO, LimitedReads(file, each=MAX_PNG_CHUNK, total=2 * MAX_PNG_CHUNK))
        with Image.open(limited, formats=[kind]) as picture:
            if picture.format != kind or getattr(picture, "n_frames", 1) > 1:
                return None
            return {"width": picture.width, "height": picture.height, "frames": 1}


def _measured(path: Path, content_type: str, stop: threading.Event) -> dict[str, Any]:
    """Measure the file in a process of its own. Returns nothing for a file that is beyond the limits there."""
    command = comfyui_modal.command("workers.outputs.measure", str(path), content_type)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, env=probe_environment()
    ) as process:
        until = time.monotonic() + MEASURE_S
        while True:
            try:
                answer, _ = process.communicate(timeout=LOOK_S)
                break
            except subprocess.TimeoutExpired:
                if stop.is_set() or time.monotonic() > until:
                    process.kill()
                    raise
    found: dict[str, Any] = json.loads(answer) if process.returncode == 0 else {}
    return found
