"""The engines that a contract is checked on: the lite engine always, and a real ComfyUI if one is configured."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from infra.settings import EngineSettings
from tests.support.environment import MEASURED
from tests.support.plain_http import NO_TLS
from workers.comfy.host import RunningEngine
from workers.comfy.http import socket_of
from workers.comfy.process import EngineProcess
from workers.comfy.spec import EngineFolders, EngineSpec

ENVIRONMENT = {"PATH": os.defpath} | MEASURED
"""The whole environment of an engine under test."""

Graph = dict[str, Any]

Host = EngineProcess | RunningEngine


@dataclass(frozen=True)
class EngineChoice:
    """An engine to test; one with a URL runs already and has no `spec`."""

    name: str
    settings: EngineSettings

    def spec(self, parent: Path) -> EngineSpec:
        folders = EngineFolders(parent)
        if self.settings.comfyui_dir is None:
            return EngineSpec.lite(folders=folders, fault_nodes=True, environment=ENVIRONMENT)
        return EngineSpec.comfyui(
            self.settings.comfyui_dir,
            python=self.settings.comfyui_python,
            folders=folders,
            cpu=True,
            environment=ENVIRONMENT,
        )

    def host(self, parent: Path) -> Host:
        if self.settings.comfyui_url is not None:
            return RunningEngine(self.settings.comfyui_url)
        return EngineProcess(self.spec(parent))


LITE = EngineChoice("lite", EngineSettings(comfyui_dir=None, comfyui_url=None))


def engine_choices() -> list[EngineChoice]:
    configured = EngineSettings()
    if configured.comfyui_url is None and configured.comfyui_dir is None:
        return [LITE]
    return [LITE, EngineChoice("comfyui", configured)]


def engine_client(url: str) -> httpx.Client:
    """Return a client for plain requests to an engine, wherever it listens."""
    path = socket_of(url)
    transport = None if path is None else httpx.HTTPTransport(uds=path, verify=NO_TLS)
    base_url = url if path is None else "http://localhost"
    return httpx.Client(base_url=base_url, transport=transport, timeout=60, trust_env=False, verify=NO_TLS)


def blank(*, width: int = 16, height: int = 16, color: int = 0) -> Graph:
    return {
        "class_type": "EmptyImage",
        "inputs": {"width": width, "height": height, "batch_size": 1, "color": color},
    }


def save(source: str, prefix: str) -> Graph:
    return {"class_type": "SaveImage", "inputs": {"images": [source, 0], "filename_prefix": prefix}}


def saved(prefix: str, *, color: int = 0) -> Graph:
    """Return a graph of EmptyImage and SaveImage."""
    return {"1": blank(color=color), "2": save("1", prefix)}


def slow(info: dict[str, Any], prefix: str, *, steps: int, color: int = 0) -> Graph:
    """Return a graph with interruptible steps of tenths of a second, made of a stepping node or of many nodes."""
    stepping = next((name for name in ("LiteSlowSteps", "WireSlowSteps") if name in info), None)
    if stepping is not None:
        inputs = {"image": ["1", 0], "steps": steps, "seconds_per_step": 0.1, "preview": True}
        return {
            "1": blank(width=64, height=64, color=color),
            "2": {"class_type": stepping, "inputs": inputs},
            "9999": save("2", prefix),
        }
    graph: Graph = {"1": blank(width=1024, height=1024, color=color)}
    for number in range(2, steps + 2):
        inputs = {"image": [str(number - 1), 0], "blur_radius": 15, "sigma": 1.0}
        graph[str(number)] = {"class_type": "ImageBlur", "inputs": inputs}
    return graph | {"9999": save(str(steps + 1), prefix)}
