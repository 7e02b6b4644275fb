"""Which combos list files, and which of these are models: object_info does not say so, their names do.

Files come and go while a deployment stands, unlike the choices that a node's code offers. A model's file comes to the
models folder by `comfyui-modal models sync`; any other file lies in the input folder, and comes with the job.
"""

from enum import Enum, auto
from typing import Any

from workflows.declarations import InputDeclaration, extension_of

MODEL_EXTENSIONS = frozenset(
    (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".gguf", ".onnx", ".pkl", ".engine")
)
_PICTURES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".exr",
    ".hdr",
    ".svg",
    ".avif",
    ".heic",
)
_FILMS = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v")
_SOUNDS = (".mp3", ".wav", ".flac", ".ogg", ".opus", ".m4a", ".aac")
_SHAPES = (".glb", ".gltf", ".obj", ".stl", ".fbx", ".usdz", ".ply", ".splat", ".spz", ".ksplat")
_OTHERS = (".latent", ".txt", ".csv", ".json", ".yaml", ".yml")
OTHER_EXTENSIONS = frozenset((*_PICTURES, *_FILMS, *_SOUNDS, *_SHAPES, *_OTHERS))
_MEDIA = frozenset((*_PICTURES, *_FILMS, *_SOUNDS, *_SHAPES, ".latent"))
_FILE_EXTENSIONS = MODEL_EXTENSIONS | OTHER_EXTENSIONS


class Listing(Enum):
    CHOICES = auto()
    MODELS = auto()
    OTHER_FILES = auto()


def listing(declared: InputDeclaration, value: Any) -> Listing:
    """What this combo lists. An empty one tells nothing by itself: then `value`, not listed there, is asked.

    Loaders put words among the files (`pixel_space` among the VAEs), so one model's file among the choices is enough.
    """
    if declared.uploads:
        return Listing.OTHER_FILES
    if extension_of(value) in MODEL_EXTENSIONS or declared.extensions & MODEL_EXTENSIONS:
        return Listing.MODELS
    if declared.extensions <= _FILE_EXTENSIONS:
        return Listing.OTHER_FILES
    return Listing.CHOICES


def is_medium(name: Any) -> bool:
    return extension_of(name) in _MEDIA
