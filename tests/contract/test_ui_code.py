"""The code that the page of a job offers: each text runs the job again as it is shown."""

import asyncio
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from storage.jobs.record import JobRecord
from tests.support.api_server import BLUE, KEY, PNG, Api, work
from tests.support.browsers import logged_in
from tests.support.graphs import node, saved

pytestmark = pytest.mark.anyio

NEEDED = {"curl": ("bash", "curl", "jq"), "Python": (), "TypeScript": ("node",)}
GRAPH = {"1": node("LoadImage", image="it's a cat.png", choice=1), "2": saved(prefix='"$HOME"')}


async def new_job(api: Api, kind: str) -> str:
    """Submit a job of this kind, finish it, and return its id."""
    fields: dict[str, Any] = {"workflow": BLUE}
    path = "/v1/jobs"
    if kind == "graph":
        created = (await api.client.post("/v1/uploads", json={"size_bytes": len(PNG)})).json()
        key = f"tenants/default/uploads/{created['upload_id']}/data"
        await api.objects.create(key, PNG, content_type="image/png")
        fields = {"workflow": GRAPH, "media": [{"name": "it's a cat.png", "upload_id": created["upload_id"]}]}
        fields["inputs"] = [{"node": "1", "field": "choice", "value": 16}]
    elif kind == "named":
        path, fields = "/v1/workflows/words/jobs", {"inputs": {"first": 'it\'s "a" $HOME\nline é'}}
    elif kind == "long":
        fields["inputs"] = [{"node": "2", "field": "filename_prefix", "value": "x" * 20_000}]
    answer = await api.client.post(path, json=fields | {"metadata": {"order": "it's \\ 7"}})
    assert answer.status_code == 202, answer.text
    await work(api)
    job_id: str = answer.json()["job_id"]
    return job_id


async def codes(api: Api, job_id: str) -> dict[str, str]:
    async with logged_in(api) as browser:
        page = (await browser.get(f"/ui/jobs/{job_id}")).text
    found = re.findall(r"<summary>(curl|Python|TypeScript)</summary>.*?<code>(.*?)</code>", page, re.DOTALL)
    return {title: html.unescape(code) for title, code in found}


async def repeated(api: Api, first: str) -> JobRecord:
    """Wait for a second job, finish it, and return it."""
    async with asyncio.timeout(30):
        while True:
            listed = (await api.client.get("/v1/jobs")).json()["jobs"]
            if len(listed) == 2:
                break
            await asyncio.sleep(0.02)
    await work(api)
    job_id = next(row["job_id"] for row in listed if row["job_id"] != first)
    return (await api.stores.jobs.read("default", job_id)).record


@pytest.mark.parametrize(
    ("kind", "title"),
    [*((kind, title) for kind in ("graph", "named") for title in NEEDED), ("long", "curl"), ("long", "Python")],
)
async def test_the_code_of_a_job_runs_it_again(
    memory_api: Api, kind: str, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pasted into a shell or a file, the code submits a job with the same graph, values, files and metadata."""
    if missing := [name for name in NEEDED[title] if shutil.which(name) is None]:
        pytest.skip(f"there is no {missing[0]} here")
    monkeypatch.setenv("COMFYUI_MODAL_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    first = await new_job(memory_api, kind)
    document = await memory_api.stores.jobs.workflow("default", first)
    (tmp_path / f"workflow-{first[:8]}.json").write_bytes(document)  # the download that the page offers
    code = (await codes(memory_api, first))[title]
    assert KEY not in code
    running = asyncio.create_task(run(title, code))
    again = await repeated(memory_api, first)
    await running
    record = (await memory_api.stores.jobs.read("default", first)).record
    assert await memory_api.stores.jobs.workflow("default", again.job_id) == document
    assert await memory_api.stores.jobs.inputs(again) == await memory_api.stores.jobs.inputs(record)
    assert [(file.name, file.key) for file in again.input_files] == [(one.name, one.key) for one in record.input_files]
    assert (again.metadata, again.workflow_name) == (record.metadata, record.workflow_name)


async def run(title: str, code: str) -> None:
    """Run the code as a reader does; Python in a thread of this process, which is quicker."""
    if title == "Python":
        await asyncio.to_thread(exec, compile(code, "snippet", "exec"), {})
        return
    command = ("bash", "-c", code) if title == "curl" else ("node", "--input-type=module", "--eval", code)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    if title == "curl":
        assert json.loads(output)["status"] == "queued"
