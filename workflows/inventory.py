"""What an engine has, for people to read: its node classes, and the model files that their loaders list.

A combo's choices may be files of the input folder, and an engine that runs elsewhere may list those of other users. So
choices are left out wherever they may name such files: upload widgets, inputs that are checked to be a file, inputs
named like one, and file names that are not a model's.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workflows.catalogue import Catalogue
from workflows.declarations import InputDeclaration, NodeDeclaration, extension_of
from workflows.model_files import MODEL_EXTENSIONS, OTHER_EXTENSIONS, Listing, listing

MOST_CHOICES = 1_000
"""Choices of one input that are shown."""
MOST_LOADERS = 20
"""Loaders of one model that are shown."""
LONGEST_SHOWN = 500
"""Characters of a text or name that are shown. An engine's custom nodes may report texts of any length."""

_FILE_WORDS = frozenset(
    (
        *("audio", "dir", "directory", "file", "filename", "folder", "image", "images"),
        *("latent", "mask", "mesh", "path", "video"),
    )
)
_PATH = re.compile(r"/[^/]+/|[A-Za-z]:[\\/]|\\\\\w")
"""An absolute path, which names a folder of the engine's machine."""

_FOLDERS: Mapping[str, str] = {
    "audio_encoder_name": "audio_encoders",
    "bg_removal_name": "background_removal",
    "ckpt_name": "checkpoints",
    "clip_name": "text_encoders",
    "control_net_name": "controlnet",
    "gligen_name": "gligen",
    "hypernetwork_name": "hypernetworks",
    "lora_name": "loras",
    "style_model_name": "style_models",
    "text_encoder": "text_encoders",
    "unet_name": "diffusion_models",
    "vae_name": "vae",
    "CLIPVisionLoader.clip_name": "clip_vision",
    "FrameInterpolationModelLoader.model_name": "frame_interpolation",
    "LatentUpscaleModelLoader.model_name": "latent_upscale_models",
    "LoadMoGeModel.model_name": "geometry_estimation",
    "ModelPatchLoader.name": "model_patches",
    "OpticalFlowLoader.model_name": "optical_flow",
    "PhotoMakerLoader.photomaker_model_name": "photomaker",
    "UpscaleModelLoader.model_name": "upscale_models",
}
"""The models folder that ComfyUI's own loaders list, by input or class and input; object_info does not say it."""


@dataclass(frozen=True, slots=True)
class Loader:
    class_type: str
    input: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model file. `folder` is ComfyUI's name for its kind; None for a file that only custom loaders list."""

    folder: str | None
    name: str
    loaders: tuple[Loader, ...]

    @property
    def place(self) -> tuple[str, str]:
        """Its place in the list of models."""
        return self.folder or "", self.name


def kind_of(declared: InputDeclaration) -> str:
    """Return an input's type; COMBO for a list of choices."""
    return "COMBO" if declared.is_combo else str(declared.kind)[:LONGEST_SHOWN]


def shown_choices(about: NodeDeclaration, declared: InputDeclaration) -> list[Any] | None:
    """Return an input's choices; None for an input without any, or whose choices may be input files."""
    choices, found = declared.choices, listing(declared, None)
    if choices is None or declared.uploads or declared.name in about.files:
        return None
    # An empty list, as of a loader without models, has no extensions that could tell what it lists.
    if choices and found is not Listing.MODELS and (found is Listing.OTHER_FILES or _names_a_file(declared.name)):
        return None
    shown = [choice for choice in choices if _is_plain(choice)]
    # One input file among other words is enough for the words to be input files, or their folders, as well.
    return None if found is Listing.CHOICES and len(shown) < len(choices) else shown


def shown_default(about: NodeDeclaration, declared: InputDeclaration) -> str | float | None:
    """Return an input's default if it is a number or a short text, and a choice that is shown where there are some."""
    default = declared.options.get("default")
    if not _is_plain(default) or declared.uploads or declared.name in about.files:
        return None
    if declared.is_combo and default not in (shown_choices(about, declared) or ()):
        return None
    return default


def models_of(catalogue: Catalogue) -> tuple[Model, ...]:
    """Return the model files that the engine's loaders list, by folder and name."""
    listed: dict[tuple[str | None, str], list[Loader]] = {}
    custom: list[tuple[str, Loader]] = []
    for class_type in catalogue.class_types():
        about = catalogue.declaration(class_type)
        for name, loader in _listed_models(class_type, about):
            if about.is_custom:
                custom.append((name, loader))
            else:
                listed.setdefault((folder_of_loader(loader.class_type, loader.input), name), []).append(loader)
    folders: dict[str, list[tuple[str | None, str]]] = {}
    for place in listed:
        folders.setdefault(place[1], []).append(place)
    for name, loader in custom:
        for place in folders.get(name, [(None, name)]):
            listed.setdefault(place, []).append(loader)
    found = (Model(folder, name, tuple(loaders[:MOST_LOADERS])) for (folder, name), loaders in listed.items())
    return tuple(sorted(found, key=lambda model: model.place))


def _listed_models(class_type: str, about: NodeDeclaration) -> Iterator[tuple[str, Loader]]:
    for declared in about.inputs.values():
        if declared.is_combo and listing(declared, None) is Listing.MODELS:
            for choice in shown_choices(about, declared) or ():
                # Loaders list other words among the files, `pixel_space` among the VAEs.
                if extension_of(choice) in MODEL_EXTENSIONS:
                    yield choice, Loader(class_type, declared.name)


def folder_of_loader(class_type: str, name: str) -> str | None:
    """Return the models folder that an input of one of ComfyUI's own loaders lists, or None if it is no such input."""
    plain = name.rstrip("0123456789")  # clip_name1 of DualCLIPLoader
    return _FOLDERS.get(f"{class_type}.{name}") or _FOLDERS.get(plain)


def _names_a_file(name: str) -> bool:
    """Whether an input's name ends in a word for a file or folder, as `directory` and `input_folder` do."""
    last = name.lower().removesuffix("_name").rsplit("_", 1)[-1]
    return last in _FILE_WORDS


def _is_plain(choice: Any) -> bool:
    """Whether a choice is a number or a short text that names no file but a model's."""
    if not isinstance(choice, str):
        return isinstance(choice, int | float)
    return len(choice) <= LONGEST_SHOWN and extension_of(choice) not in OTHER_EXTENSIONS and not _PATH.match(choice)
