"""Declarations of nodes reduced to facts: types, defaults, ranges and choices, without display texts. Pure."""

from collections.abc import Mapping
from typing import Any

_FACTS = ("default", "min", "max")
_UPLOADS = ("image_upload", "audio_upload")


def declared(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return one node of /object_info. Combos of files, whose choices depend on the server, have no choices here."""
    groups = {name: node["input"].get(name, {}) for name in ("required", "optional")}
    return {
        **{name: {key: _input(config) for key, config in group.items()} for name, group in groups.items()},
        "output": list(node["output"]),
        "output_node": node["output_node"],
    }


def _input(config: list[Any]) -> dict[str, Any]:
    options = config[1] if len(config) > 1 else {}
    kind, choices = _kind(config[0], options)
    facts = {key: options[key] for key in _FACTS if key in options}
    files = any(options.get(upload) for upload in _UPLOADS)
    return {"type": kind, **facts, **({"choices": sorted(choices)} if kind == "COMBO" and not files else {})}


def _kind(kind: Any, options: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the type and choices of a combo in any of its three notations: a list, COMBO, or choices that add
    inputs."""
    if isinstance(kind, list):
        return "COMBO", kind
    if kind in ("COMBO", "COMFY_DYNAMICCOMBO_V3"):
        return "COMBO", [_key(choice) for choice in options["options"]]
    return str(kind), []


def _key(choice: Any) -> str:
    return str(choice["key"] if isinstance(choice, dict) else choice)
