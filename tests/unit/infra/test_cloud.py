"""How the operator's commands report a cloud that is unavailable or incomplete."""

import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from rich.console import Console

from app import __version__
from app.findings import Finding
from infra.cli.cloud import check_change, rescale
from infra.cli.output import Refused, Terminal
from infra.cli.status import Status, read_status, show_status
from infra.cloud.checks import CloudChecks
from infra.cloud.port import (
    BadToken,
    CloudError,
    CloudUnreachable,
    NotDeployed,
    OnModel,
    PoolLoad,
    PoolScale,
    ScaleChange,
)
from infra.findings import Check, examine, show
from infra.on_modal import PARTS
from infra.settings import DeploymentSettings
from storage.keys import DEFAULT_POOL

pytestmark = pytest.mark.anyio

FULL = frozenset(
    f"COMFYUI_MODAL_{name}" for name in ("BUCKET", "API_KEY", "S3_ACCESS_KEY", "S3_SECRET_KEY", "WEBHOOK_SECRET")
)


@dataclass
class FakeCloud:
    """A deployment described by its fields. Every call raises `trouble` if it is set."""

    variables: frozenset[str] = FULL
    parts: Sequence[str] = PARTS
    volumes: Sequence[str] = ("comfyui-modal-models",)
    api_url: str | None = None
    ticket_says: int | Exception = 0
    image_lacks: Sequence[str] = ()
    models_are: str = "present"
    trouble: Exception | None = None
    now: PoolScale = field(default_factory=lambda: PoolScale(0, 4, 0, 100))
    asked: list[float] = field(default_factory=list)

    async def hello(self) -> None:
        self._meet()

    async def secret_has(self, name: str, variables: Sequence[str]) -> bool:
        self._meet()
        return bool(self.variables) and set(variables) <= self.variables

    async def volume_exists(self, name: str) -> bool:
        self._meet()
        return name in self.volumes

    async def has_function(self, name: str) -> bool:
        self._meet()
        return name in self.parts

    async def url(self, name: str) -> str:
        self._meet()
        if self.api_url is None:
            raise NotDeployed("no api")
        return self.api_url

    async def load(self, pool: str) -> PoolLoad:
        self._meet()
        return PoolLoad(3, 1, 2)

    async def scale(self, pool: str) -> PoolScale:
        self._meet()
        return self.now

    async def rescale(self, pool: str, change: ScaleChange) -> PoolScale:
        self.now = PoolScale(
            self.now.min_containers if change.min_containers is None else change.min_containers,
            self.now.max_containers if change.max_containers is None else change.max_containers,
            self.now.buffer_containers if change.buffer_containers is None else change.buffer_containers,
            self.now.idle_s,
        )
        return self.now

    async def check_image(self) -> list[str]:
        self._meet()
        return list(self.image_lacks)

    async def manage_models(
        self, command: str, wanted: list[dict[str, Any]], on_progress: OnModel = lambda *_: None
    ) -> list[dict[str, Any]]:
        self._meet()
        return [{"name": model["file"], "state": self.models_are} for model in wanted]

    async def ticket(self, pool: str, timeout_s: float) -> int:
        self.asked.append(timeout_s)
        if isinstance(self.ticket_says, Exception):
            raise self.ticket_says
        return self.ticket_says

    def _meet(self) -> None:
        if self.trouble is not None:
            raise self.trouble


def checks_of(cloud: FakeCloud, key: str | None = "ck") -> CloudChecks:
    return CloudChecks(cloud, DeploymentSettings(), api_key=key)


async def found(checks: dict[str, Check]) -> dict[str, Finding]:
    return {finding.check: finding async for finding in examine(checks)}


@asynccontextmanager
async def api_answering(version: str, status: int = 200) -> AsyncIterator[str]:
    """Serve the same answer to every request."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": version}, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("trouble", "advice"),
    [
        (BadToken("Token missing"), "modal token new"),
        (CloudUnreachable("gone"), "the network"),
        (CloudError("busy"), "status.modal.com"),
    ],
)
async def test_an_unreachable_cloud_fails_the_gate(trouble: Exception, advice: str) -> None:
    """The gate reports why the cloud cannot be reached and advises what to do."""
    finding = (await found(checks_of(FakeCloud(trouble=trouble)).gate()))["Modal token"]
    assert (finding.holds, finding.detail) == (False, str(trouble))
    assert advice in finding.advice


@pytest.mark.parametrize("trouble", [CloudUnreachable("no route"), CloudError("ServiceError: 500")])
async def test_a_cloud_error_is_a_finding_of_each_check(trouble: Exception) -> None:
    """A cloud error becomes a finding with advice in every check that calls the cloud."""
    checks = checks_of(FakeCloud(trouble=trouble))
    asked = checks.preflight() | checks.deployed(pool=None)
    asked = {name: check for name, check in asked.items() if name not in checks.local()}
    findings = await found(asked)
    assert all(not finding.holds and finding.detail == str(trouble) and finding.advice for finding in findings.values())


@pytest.mark.parametrize(
    ("deployment", "said", "is_note"),
    [
        ({}, "packages, for 8 packs", False),
        ({"node_packs": "rgthree-comfy, ComfyUI-GGUF"}, "packages, for 2 packs", False),
        ({"image": "lite"}, "lite engine", False),
        ({"comfyui_version": "0.34.0"}, "was not made for ComfyUI 0.34.0", True),
    ],
)
async def test_a_lock_for_another_image_is_reported(deployment: dict[str, Any], said: str, is_note: bool) -> None:
    """A lock made for another image is reported before the build with the command that renews it; a choice of packs
    needs no new lock."""
    checks = CloudChecks(FakeCloud(), DeploymentSettings(**deployment))
    finding = (await found({"image lock": checks.image_lock}))["image lock"]
    assert said in finding.detail
    assert ("make image-lock" in finding.advice) == is_note


@pytest.mark.parametrize(
    ("deployment", "check", "said"),
    [
        ({"node_packs": "rgthree"}, "image lock", "has no pack rgthree: did you mean rgthree-comfy?"),
        ({"nodes": "nowhere.toml"}, "image lock", "nowhere.toml"),
        ({"models": "nowhere.toml"}, "models", "nowhere.toml"),
    ],
)
async def test_an_unreadable_manifest_is_a_finding(deployment: dict[str, Any], check: str, said: str) -> None:
    """A manifest that is missing or invalid is reported with its fault before anything is built."""
    checks = CloudChecks(FakeCloud(), DeploymentSettings(**deployment))
    finding = (await found(checks.preflight() | {"models": checks.models}))[check]
    assert not finding.holds
    assert said in finding.detail
    assert "docs/explanation/modal.md" in finding.advice


@pytest.mark.parametrize(
    ("deployment", "said", "is_note"),
    [
        ({}, "a worker has 64 GB; the shipped workflows need no more", False),
        ({"gpu_pools": {"cheap": "T4"}}, "T4 has 16 GB of GPU memory: wan21 needs 32, wan21-t2v needs 32, wan22", True),
        ({"gpu": "L40S,L4"}, "L4 has 24 GB of GPU memory: wan21 needs 32", True),
        ({"worker_memory_mib": 32 * 1024}, "a worker has 32 GB of memory: wan22 needs 60, wan22-core needs 48", True),
        ({"gpu": "H100!", "gpu_pools": {"odd": "X1"}}, "no more than the pools have", False),
        ({"gpu": ""}, "on CPUs", False),
    ],
)
async def test_a_deploy_reports_where_memory_is_short(deployment: dict[str, Any], said: str, is_note: bool) -> None:
    """The memory check compares GPUs and workers with the requirements of the shipped workflows."""
    finding = (await found({"memory": CloudChecks(FakeCloud(), DeploymentSettings(**deployment)).memory}))["memory"]
    assert finding.holds
    assert said in finding.detail
    assert bool(finding.advice) == is_note


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ({"COMFYUI_MODAL_API_KEY"}, "lacks COMFYUI_MODAL_API_KEY"),
        ({"COMFYUI_MODAL_S3_SECRET_KEY"}, "lacks COMFYUI_MODAL_S3_ACCESS_KEY, COMFYUI_MODAL_S3_SECRET_KEY"),
        (FULL, "there is no secret"),
    ],
)
async def test_a_secret_without_a_variable_is_reported(lacking: set[str], said: str) -> None:
    """The finding names the variables that the secret lacks."""
    finding = (await found(checks_of(FakeCloud(FULL - lacking)).preflight()))["secret"]
    assert not finding.holds
    assert said in finding.detail
    assert "modal secret create" in finding.advice


async def test_aws_credentials_are_accepted() -> None:
    """A secret may hold AWS_* credentials, which boto3 reads by itself."""
    variables = {"COMFYUI_MODAL_BUCKET", "COMFYUI_MODAL_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert (await found(checks_of(FakeCloud(frozenset(variables))).preflight()))["secret"].holds


async def test_optional_parts_are_notes() -> None:
    """A missing webhook secret or model volume gives advice and does not stop the deploy."""
    cloud = FakeCloud(FULL - {"COMFYUI_MODAL_WEBHOOK_SECRET"}, volumes=())
    findings = await found(checks_of(cloud).preflight())
    assert all(finding.holds for finding in findings.values())
    assert [name for name, finding in findings.items() if finding.advice] == ["webhook secret", "model volume"]


async def test_an_api_of_another_version_fails_its_check() -> None:
    """An API of another version fails the check, which names both versions."""
    async with api_answering("0.0.1") as url:
        finding = (await found(checks_of(FakeCloud(api_url=url)).deployed(pool=None)))["API alive"]
    assert (finding.holds, "0.0.1" in finding.detail, __version__ in finding.detail) == (False, True, True)


async def test_a_failing_api_is_reported() -> None:
    """Each check that calls a failing API reports the HTTP status."""
    async with api_answering(__version__, status=503) as url:
        findings = await found(checks_of(FakeCloud(api_url=url)).deployed(pool=None))
    for name in ("API alive", "API ready", "API key"):
        assert (findings[name].holds, "503" in findings[name].detail) == (False, True)


@pytest.mark.parametrize(
    ("gpu", "pools", "said"),
    [
        ("L40S,A100-40GB", {"fast": "H100!", "many": "l4:2"}, "L40S, A100-40GB, H100!, l4:2"),
        ("", {}, "none: workers run on CPUs"),
        ("L40", {"fast": "H100"}, "L40 is not a GPU that this version knows"),
    ],
)
async def test_an_unknown_gpu_is_a_note(gpu: str, pools: dict[str, str], said: str) -> None:
    """An unknown GPU gives a note and no failure, because Modal may offer newer ones."""
    checks = CloudChecks(FakeCloud(), DeploymentSettings(gpu=gpu, gpu_pools=pools))
    finding = (await found(checks.preflight()))["GPUs"]
    assert (finding.holds, finding.detail) == (True, said)


@pytest.mark.parametrize(
    ("state", "parts", "said"),
    [
        ("present", PARTS, " are there"),
        ("missing", PARTS, " are missing: Wan2_2-I2V"),
        ("present", (), "nothing is deployed yet"),
    ],
)
async def test_missing_models_are_a_note(state: str, parts: Sequence[str], said: str) -> None:
    """Missing models do not stop the deploy, because only the jobs that need them are refused."""
    finding = (await found({"models": checks_of(FakeCloud(models_are=state, parts=parts)).models}))["models"]
    assert finding.holds
    assert said in finding.detail
    assert bool(finding.advice) == (said != " are there")


async def test_an_incomplete_image_is_reported() -> None:
    """The finding names everything that the image lacks."""
    cloud = FakeCloud(image_lacks=("custom node X does not import", "workflow y needs the node Z"))
    finding = (await found({"image": checks_of(cloud).image}))["image"]
    assert (finding.holds, finding.detail) == (False, "custom node X does not import; workflow y needs the node Z")


async def test_a_missing_function_is_reported() -> None:
    """The finding names the missing functions and advises `deploy`."""
    finding = (await found(checks_of(FakeCloud(parts=PARTS[:2])).deployed(pool=None)))["functions"]
    assert (finding.holds, ", ".join(PARTS[2:]) in finding.detail) == (False, True)
    assert "comfyui-modal deploy" in finding.advice


@pytest.mark.parametrize(
    ("says", "holds", "said"),
    [
        (0, True, "found no job"),
        (1, True, "ran a job"),
        (TimeoutError(), True, "no answer within 660 s"),
        (CloudError("the worker failed: RuntimeError: no engine"), False, "no engine"),
    ],
)
async def test_the_result_of_a_ticket_is_reported(says: int | Exception, holds: bool, said: str) -> None:
    """A late ticket gives a note, because waiting for a GPU is no fault of the deployment; a failed worker is a
    failure."""
    cloud = FakeCloud(ticket_says=says)
    finding = (await found(checks_of(cloud).deployed(pool=DEFAULT_POOL)))["ticket of pool default"]
    assert (finding.holds, said in finding.detail) == (holds, True)
    assert cloud.asked == [660.0]


async def test_findings_are_printed_one_per_line() -> None:
    """Each finding is printed on one line as plain text, and a check that raises is not hidden."""

    async def fails() -> str:
        raise TimeoutError

    async def well() -> str:
        return "[bold] is text"

    output = io.StringIO()
    assert await show({"first": well}, Console(file=output)) == 0
    assert output.getvalue() == "ok   first: [bold] is text\n"
    with pytest.raises(TimeoutError):  # a defect in a check is not reported as a finding
        await show({"second": fails}, Console(file=output))


async def test_rescaling_shows_both_scales() -> None:
    """Rescaling prints the new and the previous scale, and refuses an impossible scale before it calls the cloud."""
    cloud, output = FakeCloud(now=PoolScale(0, None, 0, None)), io.StringIO()
    await rescale(cloud, "default", ScaleChange(min_containers=2), Terminal(file=output))
    assert "min 2, no limit, buffer 0 (was: min 0, no limit, buffer 0)" in output.getvalue()
    with pytest.raises(Refused, match="pool default cannot keep 2 containers and have at most 1"):
        await rescale(cloud, "default", ScaleChange(max_containers=1), Terminal(file=output))
    assert cloud.now == PoolScale(2, None, 0, None)
    assert str(PoolScale(1, 4, 2, 100)) == "min 1, max 4, buffer 2, idle for 100 s"
    check_change(ScaleChange(min_containers=0, max_containers=1))
    for wrong in (ScaleChange(max_containers=0), ScaleChange(min_containers=-1), ScaleChange(buffer_containers=-1)):
        with pytest.raises(Refused, match="must"):
            check_change(wrong)


async def test_status_without_an_api_shows_the_pools(capsys: pytest.CaptureFixture[str]) -> None:
    """The status of a deployment with an unreachable API shows the pools and exits with 1."""
    status = await read_status(FakeCloud(), (DEFAULT_POOL,), "http://127.0.0.1:9", "ck")
    assert show_status(status, as_json=False) == 1
    said = capsys.readouterr().out
    assert "3 tickets wait, 1 run, 2 containers" in said
    assert "http://127.0.0.1:9 cannot be reached" in said


async def test_status_without_a_key_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    """Without an API key the status leaves out the jobs and succeeds."""
    async with api_answering(__version__) as url:
        status = await read_status(FakeCloud(api_url=url), (), None, None)
    assert show_status(status, as_json=True) == 0
    assert status.api == {"url": url, "version": __version__}


def test_status_reports_an_engine_that_cannot_start(capsys: pytest.CaptureFixture[str]) -> None:
    """An engine that cannot start is reported with its reason, and the command fails."""
    failed = {"failures": 3, "message": "the engine ended", "log_tail": [], "paused_until": "2026-11-27T12:05:00+00:00"}
    pool = {"name": "h100", "worker": None, "failed_starts": failed}
    api = {"url": "https://api.example", "version": __version__, "system": {"pools": [pool]}}
    assert show_status(Status((), api, {}), as_json=False) == 1
    assert "problem of h100" in (said := capsys.readouterr().out)
    assert "none is tried before 2026-11-27T12:05:00: the engine ended" in said
