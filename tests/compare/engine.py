"""The ComfyUI of the comparison, started like a worker's, with its own base folder and the comparison's custom node."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from tests.support.environment import clean_environment
from tests.support.plain_http import NO_TLS
from workers.comfy.http import socket_of
from workers.comfy.process import EngineProcess
from workers.comfy.spec import EngineFolders, EngineSpec
from workers.isolation import IsolationPolicy

MARK = "comfyui_modal_compare"
"""The key in extra_data that the comparison's custom node recognises."""
ENGINE_SIDE = Path(__file__).parent / "engine_side"
START_S = 900.0
"""Long enough to import hundreds of custom nodes on a busy machine."""
ANSWER_S = 300.0
BODY = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one side for a graph.

    `says` is "accepted", "refused", or "raised" if the engine failed on it. `errors` are pairs of node id and kind.
    `runs` are the outputs that would run, or None if unknown; `without` are those that a warning leaves out. `reason`
    is for people, and `code` is the type of this project's refusal.
    """

    says: str
    errors: frozenset[tuple[str, str]] = frozenset()
    runs: frozenset[str] | None = None
    reason: str = ""
    code: str = ""
    without: frozenset[str] = frozenset()


def spec(directory: Path | None, python: Path | None, base: Path, arguments: Sequence[str]) -> EngineSpec:
    """Return the lite engine's command without a directory. `base` contains the models and the engine's folders."""
    folders = EngineFolders(base / "engine")
    if directory is None:
        return EngineSpec.lite(folders=folders, environment=clean_environment())
    (base / "models").mkdir(parents=True, exist_ok=True)
    (base / "custom_nodes").mkdir(exist_ok=True)
    paths = base / "compare.yaml"
    packs = {
        "compare": {"base_path": str(ENGINE_SIDE.parent), "custom_nodes": ENGINE_SIDE.name},
        "installed": {"base_path": str(directory.absolute()), "custom_nodes": "custom_nodes"},
    }
    paths.write_text(json.dumps(packs))  # JSON is valid YAML
    made = EngineSpec.comfyui(
        directory, python=python, folders=folders, cpu=True, environment=clean_environment(), start_timeout_s=START_S
    )
    own = [f"--base-directory={base.absolute()}", "--extra-model-paths-config", str(paths.absolute())]
    # Without isolation, as users start it: its models lie in `base`, and packs write next to their code.
    return replace(made, command=[*made.command, *own, *arguments], isolation=IsolationPolicy("off"))


class RealEngine:
    """POST /prompt of this engine. Without the comparison's custom node the prompt also runs."""

    def __init__(self, host: EngineProcess) -> None:
        self._host = host
        self._url = ""
        self._http = httpx.AsyncClient(verify=NO_TLS)

    async def _client(self) -> httpx.AsyncClient:
        """Return a client for the current URL, which changes when the engine restarts."""
        if self._url != self._host.url:
            await self._http.aclose()
            self._url = self._host.url
            socket = socket_of(self._url)
            self._http = httpx.AsyncClient(
                base_url=self._url if socket is None else "http://localhost",
                transport=None if socket is None else httpx.AsyncHTTPTransport(uds=socket, verify=NO_TLS),
                timeout=ANSWER_S,
                trust_env=False,
                verify=NO_TLS,
            )
        return self._http

    async def check(self, document: Mapping[str, Any]) -> CheckResult:
        prompt_id = str(uuid.uuid4())
        body = {"prompt": document, "prompt_id": prompt_id, "extra_data": {MARK: True}}
        response = await (await self._client()).post("/prompt", content=json.dumps(body).encode(), headers=BODY)
        if response.status_code not in (200, 400):
            return CheckResult("raised", reason=f"{response.status_code}: {response.text[:200]}")
        answer = response.json()
        errors = errors_of(answer.get("node_errors"))
        if response.status_code == 200:
            return CheckResult("accepted", errors, await self._outputs(prompt_id), words(answer))
        return CheckResult("refused", errors, frozenset(), words(answer))

    async def run(self, document: Mapping[str, Any], prompt_id: str) -> bool:
        """Return whether the prompt was queued."""
        body = json.dumps({"prompt": document, "prompt_id": prompt_id}).encode()
        return (await (await self._client()).post("/prompt", content=body, headers=BODY)).status_code == 200

    async def _outputs(self, prompt_id: str) -> frozenset[str] | None:
        response = await (await self._client()).get(f"/comfyui-modal/compare/outputs/{prompt_id}")
        outputs = response.json()["outputs"] if response.status_code == 200 else None
        return None if outputs is None else frozenset(outputs)

    async def model_folders(self) -> dict[str, tuple[list[str], list[str]]]:
        """Return paths and suffixes by folder name, or nothing without the comparison's custom node."""
        response = await (await self._client()).get("/comfyui-modal/compare/model-folders")
        return dict(response.json()) if response.status_code == 200 else {}

    async def close(self) -> None:
        await self._http.aclose()


_EXCEPTION = "exception_during_validation"


def errors_of(node_errors: Any) -> frozenset[tuple[str, str]]:
    """Return pairs of node id and kind of error.

    A node whose validation raises is reported again by the node after it as an inner error, which is counted once.
    ComfyUI then reports no other error of the node, because it checks inputs in arbitrary order.
    """
    found: set[tuple[str, str]] = set()
    for node_id, about in node_errors.items() if isinstance(node_errors, dict) else ():
        kinds = {str(error.get("type")).replace("_inner_", "_") for error in about["errors"]}
        found |= {(node_id, kind) for kind in ({_EXCEPTION} if _EXCEPTION in kinds else kinds)}
    return frozenset(found)


def words(answer: Mapping[str, Any]) -> str:
    """Return the first of ComfyUI's node errors, or its general error."""
    for node_id, about in (answer.get("node_errors") or {}).items():
        for error in about["errors"]:
            return f"{node_id} {about.get('class_type')}: {error.get('message')}: {error.get('details')}"
    error = answer.get("error")
    if isinstance(error, dict):
        return f"{error.get('message')}: {error.get('details')}"
    return str(error or "")
