"""The file formats that this project accepts and opens, recognised by their bytes. Pure.

A decoder that is not listed here never gets an untrusted file: Pillow alone has forty, one of which runs Ghostscript.
All code that opens an image or a stream passes these lists to Pillow and FFmpeg.
"""

import re
from collections.abc import Mapping

from storage.errors import FileRefused

HEAD_BYTES = 8 * 1024
"""The number of first bytes that `listed_format` needs."""
MAX_SAFETENSORS_HEADER = 100_000_000
"""Maximum header size in bytes, the same as in the format's reference reader."""

PICTURES: Mapping[str, tuple[str, ...]] = {
    "image/png": ("PNG",),
    "image/apng": ("PNG",),
    "image/jpeg": ("JPEG", "MPO"),
    "image/gif": ("GIF",),
    "image/webp": ("WEBP",),
    "image/bmp": ("BMP",),
    "image/tiff": ("TIFF",),
    "image/avif": ("AVIF",),
}
"""Image types, with Pillow's names of each."""
STREAMS = frozenset(
    {
        *("video/mp4", "video/quicktime", "video/x-m4v", "video/3gpp", "video/webm", "video/x-matroska"),
        *("video/x-msvideo", "video/x-flv", "video/mpeg", "video/x-ms-wmv"),
        *("audio/mpeg", "audio/mp4", "audio/ogg", "audio/x-flac", "audio/x-wav", "audio/aac", "audio/x-aiff"),
    }
)
"""Types of videos and sounds."""

PILLOW = ("BMP", "GIF", "JPEG", "PNG", "AVIF", "TIFF", "WEBP")
"""For `Image.open(formats=…)`. The reader of JPEG opens an MPO."""
PILLOW_LOOKALIKES = ("PCX", "IM", "IMT", "IPTC", "MPEG", "PCD", "SGI", "SPIDER", "TGA")
"""Formats whose magic number is short, late or missing: a file of a listed format can also be one of these."""
STREAM_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,matroska,avi,flv,mpeg,mpegvideo,asf,mp3,ogg,flac,wav,aac,aiff",
}
"""For `av.open(options=…)`. No listed demuxer opens a file or an address that its input names, as playlists do."""

HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
"""Major brands of HEIF files, after `ftyp` (ISO/IEC 23008-12). An AVIF may have one of the last two as well."""

_TEXT_OF_OTHERS = re.compile(rb"\s*([#<%\[{]|P[0-6fy]\s|ffconcat|v=)")
"""The first bytes of playlists, PostScript, PDF, XML, JSON, portable maps and session descriptions."""
_UNMARKED = frozenset({*PILLOW_LOOKALIKES, "PPM"})
"""Formats whose magic number is not conclusive: Pillow takes `Py` for a PPM's, though it may begin a sentence."""
_OBJ_LINE = re.compile(rb"(#([ \t].*)?|(mtllib|usemtl|v|vn|vt|vp|o|g|s|f|l|p)[ \t].+|)")


def listed_format(head: bytes, size: int, *, data: bool = False) -> str:
    """Return the content type that a file's first bytes show. `size` is the size of the whole file.

    `data` also accepts the other files of loaders: 3D models, safetensors, JSON. Raises `FileRefused`.
    """
    content_type = _media_format(head) or (_data_format(head, size) if data else None)
    if content_type is None and head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        raise FileRefused("it is a HEIC picture, which ComfyUI cannot read: convert it to JPEG or PNG")
    if content_type is None:
        others = ", 3D model, safetensors or JSON" if data else ""
        raise FileRefused(f"it is no picture, video or sound{others} of a format that this deployment takes")
    return content_type


def _media_format(head: bytes) -> str | None:
    import filetype  # a third of a probe's start, which does not need it

    kind = filetype.guess(head[:HEAD_BYTES])
    content_type = None if kind is None else str(kind.mime)
    if content_type in PICTURES or content_type in STREAMS:
        return content_type
    return "image/avif" if head[4:12] == b"ftypavis" else None  # an animation, which filetype does not know


def _data_format(head: bytes, size: int) -> str | None:
    if head[:4] == b"glTF":
        return "model/gltf-binary"
    if head[:20] == b"Kaydara FBX Binary  ":
        return "model/vnd.fbx"
    if head[:3] == b"ply" and head[3:4] in (b"\n", b"\r"):
        return "model/ply"
    if head[:6] == b"solid " or _is_binary_stl(head, size):
        return "model/stl"
    if 2 <= int.from_bytes(head[:8], "little") <= min(size - 8, MAX_SAFETENSORS_HEADER) and head[8:9] == b"{":
        return "application/safetensors"
    if head.lstrip(b" \t\r\n")[:1] in (b"{", b"["):
        return "application/json"
    return "model/obj" if _is_obj(head) else None


def _is_binary_stl(head: bytes, size: int) -> bool:
    """Whether the file has the size of a binary STL and is no other format."""
    # The format is 80 arbitrary bytes, a count, and 50 bytes per facet. A file of another format, such as PostScript,
    # can have this size, so files that another reader recognises are excluded.
    if len(head) < 84 or size != 84 + 50 * int.from_bytes(head[80:84], "little"):
        return False
    return not _TEXT_OF_OTHERS.match(head) and not _is_a_picture(head)


def _is_a_picture(head: bytes) -> bool:
    """Whether a magic number of any Pillow format matches, opened here or not. The probe measures the others."""
    from PIL import Image

    Image.init()
    marks = (accept for name, (_, accept) in Image.OPEN.items() if accept and name not in _UNMARKED)
    found = (accept(head[:16]) for accept in marks)
    return any(one and not isinstance(one, str) for one in found)  # a string is the reason why Pillow cannot open it


def _is_obj(head: bytes) -> bool:
    """Whether every complete line is valid in a Wavefront OBJ."""
    lines = [line.rstrip(b"\r") for line in head.split(b"\n")]
    whole = lines[:-1] if len(head) >= HEAD_BYTES else lines
    return any(line[:1] not in (b"", b"#") for line in whole) and all(map(_OBJ_LINE.fullmatch, whole))
