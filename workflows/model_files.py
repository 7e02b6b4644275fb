"""Classifies combos that list files, and model files among them, by file extension: object_info does not say it.

Files change during a deployment, unlike choices that a node's code defines. A model file comes to the models folder by
`comfyui-modal models sync`; any other file is in the input folder and comes with the job.
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
    """What a combo lists."""

    CHOICES = auto()
    MODELS = auto()
    OTHER_FILES = auto()


def listing(declared: InputDeclaration, value: Any) -> Listing:
    """Classify a combo by its choices, and by `value`, an unlisted value that a job sets."""
    if declared.uploads:
        return Listing.OTHER_FILES
    # `value` decides for an empty list. One model file among the choices is enough, because loaders list other words
    # among the files (`pixel_space` among the VAEs).
    if extension_of(value) in MODEL_EXTENSIONS or declared.extensions & MODEL_EXTENSIONS:
        return Listing.MODELS
    if declared.extensions <= _FILE_EXTENSIONS:
        return Listing.OTHER_FILES
    return Listing.CHOICES


def is_file(name: Any) -> bool:
    return extension_of(name) in _MEDIA
