"""What is shown of an engine: its classes and models, and no file that a job may have brought."""

from typing import Any

import pytest

from workflows.catalogue import Catalogue
from workflows.inventory import LONGEST_SHOWN, MOST_LOADERS, Loader, Model, models_of, shown_choices, shown_default

CUSTOM: dict[str, Any] = {"python_module": "custom_nodes.Pack"}


def node(name: str, kind: Any, options: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"input": {"required": {name: [kind, options or {}]}}, "output": [], **fields}


def choices(described: dict[str, Any]) -> list[Any] | None:
    about = Catalogue({"X": described}).declaration("X")
    (declared,) = about.inputs.values()
    return shown_choices(about, declared)


@pytest.mark.parametrize(
    ("described", "shown"),
    [
        (node("sampler_name", ["euler", "ddim"]), ["euler", "ddim"]),
        (node("sampler_name", "COMBO", {"options": ["euler", 2, 1.5, True]}), ["euler", 2, 1.5, True]),
        (node("ckpt_name", []), []),
        (node("ipadapter_file", ["a.safetensors"]), ["a.safetensors"]),
        (node("vae_name", ["pixel_space", "a.safetensors", "secret.png"]), ["pixel_space", "a.safetensors"]),
        (node("operator", ["+", "/", "//"]), ["+", "/", "//"]),
        (node("steps", "INT"), None),
        (node("image", ["secret"], {"image_upload": True}), None),
        (node("image", [], {"image_upload": True}), None),
        (node("clip", ["secret.png", "secret.mp4"]), None),
        (node("clip", ["none", "secret.png"]), None),
        (node("directory", ["customer-42"], **CUSTOM), None),
        (node("input_folder", ["customer-42"], **CUSTOM), None),
        (node("folder_name", ["customer-42"]), None),
        (node("clip", ["/srv/customer-42/x"]), None),
        (node("clip", ["C:\\customer-42\\x"]), None),
        (node("clip", ["x" * (LONGEST_SHOWN + 1)]), None),
        (node("clip", ["customer-42"], checked_files={"clip": {"is": "file", "below": "input"}}), None),
        (node("clip", ["customer-42"], {"remote": {"route": "/internal/files"}}), ["customer-42"]),
        (node("clip", "COMBO", {"remote": {"route": "/internal/files"}, "options": ["customer-42"]}), None),
    ],
)
def test_choices_that_may_be_input_files_are_left_out(described: dict[str, Any], shown: list[Any] | None) -> None:
    """Choices are shown unless an upload, a check, their extensions or the input's name say that they may be files."""
    assert choices(described) == shown


@pytest.mark.parametrize(
    ("kind", "options", "shown"),
    [
        ("INT", {"default": 20}, 20),
        ("STRING", {"default": "a cat"}, "a cat"),
        ("STRING", {"default": "/root/ComfyUI/input"}, None),
        ("STRING", {"default": "secret.png"}, None),
        ("STRING", {"default": {"a": 1}}, None),
        (["euler", "ddim"], {"default": "ddim"}, "ddim"),
        (["secret"], {"default": "secret", "image_upload": True}, None),
    ],
)
def test_a_default_that_may_be_a_file_is_left_out(kind: Any, options: dict[str, Any], shown: Any) -> None:
    """A default is shown if it is a number or a text that names no file."""
    about = Catalogue({"X": node("value", kind, options)}).declaration("X")
    assert shown_default(about, about.inputs["value"]) == shown


def test_models_are_listed_by_folder() -> None:
    """Models are listed by ComfyUI's folders, with the loaders that take them; other files of loaders are not."""
    catalogue = Catalogue(
        {
            "CLIPVisionLoader": node("clip_name", ["v.safetensors"]),
            "CheckpointLoaderSimple": node("ckpt_name", ["b.safetensors", "a.ckpt", "secret.png"]),
            "DualCLIPLoader": node("clip_name2", ["t.safetensors"]),
            "VAELoader": node("vae_name", ["pixel_space", "v.safetensors"]),
            "Mine": node("ckpt_name", ["a.ckpt", "own.pth"], **CUSTOM),
            "LoadImage": node("image", ["secret.pt"], {"image_upload": True}),
        }
    )
    assert models_of(catalogue) == (
        Model(None, "own.pth", (Loader("Mine", "ckpt_name"),)),
        Model("checkpoints", "a.ckpt", (Loader("CheckpointLoaderSimple", "ckpt_name"), Loader("Mine", "ckpt_name"))),
        Model("checkpoints", "b.safetensors", (Loader("CheckpointLoaderSimple", "ckpt_name"),)),
        Model("clip_vision", "v.safetensors", (Loader("CLIPVisionLoader", "clip_name"),)),
        Model("text_encoders", "t.safetensors", (Loader("DualCLIPLoader", "clip_name2"),)),
        Model("vae", "v.safetensors", (Loader("VAELoader", "vae_name"),)),
    )


def test_the_loaders_of_a_model_are_bounded() -> None:
    """A model that very many loaders take names the first of them."""
    catalogue = Catalogue({f"L{number:03}": node("lora_name", ["a.pt"]) for number in range(100)})
    (model,) = models_of(catalogue)
    assert len(model.loaders) == MOST_LOADERS


def test_an_unknown_engine_has_nothing() -> None:
    """Without object_info no models are listed."""
    assert models_of(Catalogue.absent()) == ()
