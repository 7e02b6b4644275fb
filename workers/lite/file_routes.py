"""The routes of files: /upload/image and /view."""

import io
import mimetypes
from pathlib import Path

from aiohttp import web
from PIL import Image

from storage.formats import PILLOW
from workers.lite.folders import Folders, inside

_PREVIEW_FORMATS = ("webp", "jpeg")
_PREVIEW_QUALITY = 90


class FileRoutes:
    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def under(self, prefix: str) -> list[web.RouteDef]:
        return [web.post(f"{prefix}/upload/image", self.upload_image), web.get(f"{prefix}/view", self.view)]

    async def upload_image(self, request: web.Request) -> web.Response:
        """Store a file of any type. Different content under an existing name gets `name (1)` without `overwrite`.

        An unknown type and an empty name are a 500, as in ComfyUI.
        """
        form = await request.post()
        image = form.get("image")
        if image is None:
            return web.Response(status=400)
        kind, subfolder = str(form.get("type", "input")), str(form.get("subfolder", ""))
        folder = self._folders.of(kind)
        if folder is None or not isinstance(image, web.FileField):
            raise ValueError(f"no file that has a name, or no folder called {kind!r}")
        path = inside(folder, f"{subfolder}/{image.filename}" if subfolder else image.filename)
        if path is None:
            return web.Response(status=400)
        content = image.file.read()
        if form.get("overwrite") not in ("true", "1"):
            path = _free_name(path, content)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return web.json_response({"name": path.name, "subfolder": subfolder, "type": kind})

    async def view(self, request: web.Request) -> web.StreamResponse:
        """Return a file. `preview` re-encodes an image as WebP or JPEG, `channel` keeps its colours or its opacity."""
        name, kind = self._folders.split_annotation(request.query.get("filename", ""))
        if not name:
            return web.Response(status=404)
        if name.startswith("/") or ".." in name:
            return web.Response(status=400)
        folder = self._folders.of(kind or request.query.get("type", "output"))
        if folder is None:
            return web.Response(status=400)
        subfolder = request.query.get("subfolder", "")
        if subfolder and inside(folder, f"{subfolder}/x") is None:
            return web.Response(status=403)
        path = inside(folder, f"{subfolder}/{Path(name).name}" if subfolder else Path(name).name)
        if path is None or not path.is_file():
            return web.Response(status=404)
        return _answer(path, request.query.get("preview"), request.query.get("channel"))


def _answer(path: Path, preview: str | None, channel: str | None) -> web.StreamResponse:
    headers = {"Content-Disposition": f'filename="{path.name}"'}
    if preview is not None:
        kind, _, quality = preview.partition(";")
        kind = kind if kind in _PREVIEW_FORMATS else "webp"
        body = _reencoded(path, kind, int(quality) if quality.isdigit() else _PREVIEW_QUALITY)
        return web.Response(body=body, content_type=f"image/{kind}", headers=headers)
    if channel in ("rgb", "a"):
        return web.Response(body=_channel(path, channel), content_type="image/png", headers=headers)
    headers["Content-Type"] = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return web.FileResponse(path, headers=headers)


def _reencoded(path: Path, kind: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    with Image.open(path, formats=PILLOW) as image:
        image.convert("RGB" if kind == "jpeg" else image.mode).save(buffer, kind, quality=quality)
    return buffer.getvalue()


def _channel(path: Path, channel: str) -> bytes:
    """Return the colours alone, or black with the image's opacity."""
    buffer = io.BytesIO()
    with Image.open(path, formats=PILLOW) as image:
        if channel == "rgb":
            kept = image.convert("RGB")
        else:
            kept = Image.new("RGBA", image.size)
            kept.putalpha(image.convert("RGBA").getchannel("A"))
        kept.save(buffer, "PNG")
    return buffer.getvalue()


def _free_name(path: Path, content: bytes) -> Path:
    candidate, number = path, 1
    while candidate.exists() and candidate.read_bytes() != content:
        candidate = path.with_name(f"{path.stem} ({number}){path.suffix}")
        number += 1
    return candidate
