"""The client commands as typed, against a running API, and the calls of the Python client."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from app.config import ApiConfig
from comfyui_modal_client import ApiProblem, Client
from infra.cli.output import FAILED, REFUSED
from infra.cli.root import main
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.jobs.models import ErrorDetail
from tests.support.api_server import BLUE, KEY, Api, running_api, submit
from tests.support.graphs import PARTLY_GOOD, publish
from tests.support.records import OUTPUT
from workflows.library import shipped

pytestmark = pytest.mark.anyio

Typed = Callable[..., Coroutine[Any, Any, tuple[int, str]]]


@pytest.fixture
def typed(memory_api: Api, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Runs a command line and returns its exit code and output."""

    async def run(*arguments: str) -> tuple[int, str]:
        target = ("--api-url", str(memory_api.client.base_url), "--api-key", KEY)
        code = await anyio.to_thread.run_sync(lambda: main([*arguments, *target]))
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


async def test_workflows_are_listed_and_shown(typed: Typed) -> None:
    """A workflow is shown with its inputs and limits, and as JSON with its graph."""
    code, listed = await typed("workflows", "list")
    assert (code, [line.split()[0] for line in listed.splitlines()]) == (0, list(shipped()))
    as_json = json.loads((await typed("workflows", "list", "--json"))[1])
    assert [row["name"] for row in as_json] == list(shipped())
    shown = (await typed("workflows", "show", "still"))[1]
    assert shown.startswith("still: ")
    (width,) = [line for line in shown.splitlines() if line.startswith("  width ")]
    assert "integer, min 16, max 4096, default " in width
    (image,) = [line for line in shown.splitlines() if line.startswith("  image ")]
    assert "image, required" in image
    large = (await typed("workflows", "show", "wan22"))[1]
    assert "at most 111513600 for width × height × frames" in large
    assert "needs 48 GB of GPU memory\nneeds 60 GB of memory\n" in large
    assert "workflow" in json.loads((await typed("workflows", "show", "still", "--json"))[1])
    assert (await typed("workflows", "show", "nothing"))[0] == REFUSED


async def test_jobs_are_listed_page_by_page(memory_api: Api, typed: Typed, clock: ManualClock) -> None:
    """A page of jobs ends with the cursor of the next page."""
    older = (await submit(memory_api))["job_id"]
    clock.set(clock.now() + timedelta(seconds=1))
    newer = (await submit(memory_api))["job_id"]
    code, page = await typed("jobs", "list", "--limit", "1")
    assert code == 0
    assert newer in page
    assert older not in page
    cursor = page.rpartition("more: --cursor ")[2].strip()
    assert older in (await typed("jobs", "list", "--cursor", cursor))[1]
    assert len(json.loads((await typed("jobs", "list", "--status", "queued", "--json"))[1])["jobs"]) == 2


async def test_jobs_are_listed_by_filters(memory_api: Api, typed: Typed, clock: ManualClock) -> None:
    """`jobs list` shows the jobs that pass all filters, each with its error code and workflow."""
    batch = (await memory_api.client.post("/v1/batches", json={"workflow": BLUE, "input_sets": [[]]})).json()
    cancelled = (await submit(memory_api, metadata={"order": "1", "shop": "a"}))["job_id"]
    await memory_api.client.delete(f"/v1/jobs/{cancelled}")
    named = await memory_api.client.post("/v1/workflows/sdxl/jobs", json={"inputs": {"prompt": "a cat"}})
    everything = {cancelled, named.json()["job_id"], batch["jobs"][0]["job_id"]}
    for flags, found in (
        (("--metadata", "order=1", "--metadata", "shop=a"), {cancelled}),
        (("--metadata", "order=2"), set()),
        (("--error-code", "cancelled"), {cancelled}),
        (("--workflow", "sdxl"), {named.json()["job_id"]}),
        (("--batch", batch["batch_id"]), {batch["jobs"][0]["job_id"]}),
        (("--since", clock.now().isoformat()), everything),
        (("--since", (clock.now() + timedelta(minutes=1)).isoformat()), set()),
    ):
        page = json.loads((await typed("jobs", "list", *flags, "--json"))[1])
        assert {job["job_id"] for job in page["jobs"]} == found, flags
    lines = (await typed("jobs", "list"))[1].splitlines()
    assert [line.split()[-1] for line in lines if cancelled in line] == ["cancelled"]
    assert [line.split()[-1] for line in lines if named.json()["job_id"] in line] == ["sdxl"]


@pytest.mark.parametrize(
    ("flags", "explanation"),
    [
        (("--metadata", "order"), "expected KEY=VALUE"),
        (("--since", "yesterday"), "--since yesterday is neither a span"),
        (("--status", "cancelled"), "use error_code=cancelled"),
        (("--batch", "nothing"), "there is no batch with this id"),
    ],
)
async def test_a_bad_filter_is_refused(typed: Typed, flags: tuple[str, ...], explanation: str) -> None:
    """A filter that means nothing is refused, saying what to give instead."""
    code, printed = await typed("jobs", "list", *flags)
    assert code == REFUSED
    assert explanation in printed


async def test_a_list_says_that_older_jobs_were_not_searched(
    clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A filtered page that ends at the limit of one request says so, and how to go on."""
    config = ApiConfig(api_key=KEY, max_scanned_jobs=1)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        for _ in range(2):
            await submit(api)
        command = ["jobs", "list", "--workflow", "sdxl", "--api-url", str(api.client.base_url), "--api-key", KEY]
        assert await anyio.to_thread.run_sync(lambda: main(command)) == 0
        assert "older jobs have not been searched yet; more: --cursor " in capsys.readouterr().out


async def test_a_job_is_shown_cancelled_and_removed(memory_api: Api, typed: Typed) -> None:
    """A job can be shown, cancelled and removed, and a running job is not removed before its worker has stopped."""
    job_id = (await submit(memory_api))["job_id"]
    claimed = await memory_api.queue.claim("default", "w")
    assert claimed is not None
    running = (await typed("jobs", "remove", job_id))[1]
    assert "running" in running
    now = memory_api.stores.clock.now()
    await memory_api.stores.jobs.evolve(
        "default", job_id, lambda job: job.complete(attempt=1, now=now, outputs=(OUTPUT,))
    )
    other = (await submit(memory_api))["job_id"]
    assert "Cancelled by user" in (await typed("jobs", "cancel", other))[1]
    shown = (await typed("jobs", "show", other))[1]
    assert '"code": "cancelled"' in shown
    assert json.loads((await typed("jobs", "show", other, "--json"))[1])["status"] == "failed"
    assert (await typed("jobs", "remove", other))[1] == f"removed {other}\n"
    assert (await typed("jobs", "show", other))[0] == REFUSED


async def test_the_outputs_of_a_job_are_shown(memory_api: Api, typed: Typed) -> None:
    """A job is shown with the name and size of each output."""
    job_id = (await submit(memory_api))["job_id"]
    claimed = await memory_api.queue.claim("default", "w")
    assert claimed is not None
    now = memory_api.stores.clock.now()
    await memory_api.stores.jobs.evolve_from(claimed, lambda job: job.complete(attempt=1, now=now, outputs=(OUTPUT,)))
    shown = (await typed("jobs", "show", job_id))[1]
    assert f"{OUTPUT.filename}  {OUTPUT.size_bytes} bytes" in shown


@pytest.mark.parametrize(
    ("arguments", "explanation"),
    [
        (("still", "--media", "nothing=broken.json"), "nothing takes no file"),
        (("still", "--media", "image"), "expected NAME=FILE or NAME=URL"),
        (("still", "--set", "nothing=1"), "its inputs are image (image), width (integer)"),
        (("still",), "refused: --image FILE is needed"),
        (("still", "--set", "width=64"), "refused: --image FILE is needed"),
        (("broken.json",), "broken.json is not JSON"),
    ],
)
async def test_invalid_arguments_are_refused(
    typed: Typed, arguments: tuple[str, ...], explanation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invalid arguments of `run` are refused with an explanation before anything is sent."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    code, printed = await typed("run", *arguments)
    assert code == REFUSED
    assert explanation in " ".join(printed.split())


async def test_run_fails_with_its_job(memory_api: Api, typed: Typed, tmp_path: Path) -> None:
    """`run` exits with the failure code and names the error and the node."""
    workflow = tmp_path / "blue.json"
    workflow.write_text(json.dumps(BLUE))
    command = asyncio.create_task(typed("run", str(workflow), "--media", "cat.png=https://example.com/cat.png"))
    claimed = None
    async with asyncio.timeout(20):
        while claimed is None:
            await asyncio.sleep(0.05)
            claimed = await memory_api.queue.claim("default", "w")
    assert [medium.name for medium in claimed.record.input_files] == ["cat.png"]
    now = memory_api.stores.clock.now()
    detail = ErrorDetail(code="node_failed", message="it is too dark", node_id="2", class_type="SaveImage")
    await memory_api.stores.jobs.evolve_from(claimed, lambda job: job.fail(attempt=1, now=now, error=detail))
    code, printed = await command
    assert code == FAILED
    assert "failed at node 2 (SaveImage): it is too dark" in printed


async def test_outputs_that_do_not_run_cause_a_warning(memory_api: Api, typed: Typed, tmp_path: Path) -> None:
    """`run` warns when the job is accepted and when the engine reports other errors, and `--strict` refuses the job."""
    await publish(memory_api.stores)
    workflow = tmp_path / "partly.json"
    workflow.write_text(json.dumps(PARTLY_GOOD))
    code, printed = await typed("run", str(workflow), "--strict")
    assert (code, "lacks its required input images" in printed) == (REFUSED, True)
    command = asyncio.create_task(typed("run", str(workflow)))
    claimed = None
    async with asyncio.timeout(20):
        while claimed is None:
            await asyncio.sleep(0.05)
            claimed = await memory_api.queue.claim("default", "w")
    now = memory_api.stores.clock.now()
    warnings = {"9": claimed.record.warnings["9"] | {"detail": "the engine's own words"}}
    await memory_api.stores.jobs.evolve_from(
        claimed, lambda job: job.with_warnings(warnings).complete(attempt=1, now=now, outputs=())
    )
    code, printed = await command
    assert code == 0
    warned = "warning: node 9 (PreviewImage) lacks its required input images (set images, or link it); "
    assert f"{warned}so these outputs do not run: 9" in printed
    assert "warning: the engine's own words" in printed


async def test_the_client_handles_batches(memory_api: Api) -> None:
    """The client submits, reads and cancels batches, and raises an exception that explains a refusal."""

    def use() -> tuple[list[str], list[str]]:
        with Client(str(memory_api.client.base_url), KEY) as client:
            assert client.health()["status"] == "ok"
            submitted = client.submit_batch(workflow=BLUE, input_sets=[[], []])
            before = client.batch(submitted["batch_id"])
            after = client.cancel_batch(submitted["batch_id"])
            with pytest.raises(ApiProblem, match="no batch"):
                client.batch("0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10")
            return [job["status"] for job in before["jobs"]], [job["status"] for job in after["jobs"]]

    before, after = await anyio.to_thread.run_sync(use)
    assert (before, after) == (["queued"] * 2, ["failed"] * 2)
