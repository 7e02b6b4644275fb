"""Refuses to build a wheel: this application runs from a checkout or an image. `pip install --editable .` works.

A wheel would put packages with common names (`app`, `storage`, …) into the site folder of somebody's environment.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

EDITABLE = "editable"
REASON = (
    "comfyui-modal-api is an application: it runs from a checkout (`make setup`) or an image (Dockerfile), and is not "
    "installed as a package. The package for your own code is comfyui-modal-client: `make client`"
)


class OnlyEditable(BuildHookInterface):  # type: ignore[type-arg]  # of any configuration
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != EDITABLE:
            raise SystemExit(REASON)
