"""Hostile contents in a real Chromium: whatever a stored text contains, no page runs it or loads anything for it."""

import itertools
import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from playwright.async_api import Browser, Page

from storage import keys
from storage.access.key_store import new_record
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.jobs.live import PreviewFrame
from storage.jobs.models import ErrorDetail, Input, InputFile, ProgressDetails
from storage.jobs.record import JobRecord
from tests.support.api_server import KEY, Api, running_api, submit
from tests.support.chromium import needs_chromium, visiting
from tests.support.records import OUTPUT, a_job

pytestmark = [pytest.mark.anyio, needs_chromium]

RUN = "window.hacked=1"
PAYLOADS = (
    f"<script>{RUN}</script>",
    f"</title><script>{RUN}</script>",
    f"</pre><script>{RUN}</script>",
    f"</textarea><script>{RUN}</script>",
    f"</svg><script>{RUN}</script>",
    f"--><script>{RUN}</script>",
    f"]]><script>{RUN}</script>",
    f"<ScRiPt\n>{RUN}</sCrIpT\t>",
    f"<img src=x onerror={RUN}>",
    f"<img src=x onerror='{RUN}'//",
    f'"><img src=x onerror={RUN}>',
    f"'><img src=x onerror={RUN}>",
    f"`><img src=x onerror={RUN}>",
    f'" autofocus onfocus="{RUN}',
    f"' onmouseover='{RUN}",
    f'" onload="{RUN}" x="',
    f"<svg onload={RUN}>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<svg><script>{RUN}</script></svg>",
    f"<math><mtext><mglyph><style><img src=x onerror={RUN}>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f'<iframe src="javascript:parent.{RUN}"></iframe>',
    f'<object data="javascript:{RUN}">',
    f'<embed src="javascript:{RUN}">',
    f'<a href="javascript:{RUN}">x</a>',
    f"javascript:{RUN}",
    f"data:text/html,<script>{RUN}</script>",
    f'<form action="javascript:{RUN}"><button autofocus>x</button></form>',
    f"<details open ontoggle={RUN}>",
    f"<video><source onerror={RUN}></video>",
    f"<body onload={RUN}>",
    f"<input autofocus onfocus={RUN}>",
    '<base href="http://evil.example/">',
    '<meta http-equiv=refresh content="0;url=http://evil.example/">',
    "<link rel=stylesheet href=http://evil.example/x.css>",
    "<style>@import 'http://evil.example/x.css';</style>",
    f'<div hx-on:load="{RUN}" hx-get=/ui/logout hx-trigger=load>',
    f"<div hx-get=\"http://evil.example/\" hx-trigger=load hx-vals='js:{RUN}'>",
    f"{{{{ ''.__class__ }}}}{{% if 1 %}}<script>{RUN}</script>{{% endif %}}${{{RUN}}}",
    "\u202egnp.txt\u2066<b>x</b>",
    f'<noscript><p title="</noscript><img src=x onerror={RUN}>">',
    f"<template shadowrootmode=open><script>{RUN}</script></template>",
)
GROUP = 14
"""Texts of one job."""
ACTIVE = ", ".join(
    (
        *("script:not([src])", "iframe", "object", "embed", "base", "link[rel=stylesheet]:not([href^='/ui/static/'])"),
        *("[onerror]", "[onload]", "[onfocus]", "[ontoggle]", "[srcdoc]", "[hx-get^='http']"),
        *("a[href^='javascript:']", "form[action^='javascript:']"),
    )
)
"""What would be there if a text had become a part of the page."""


async def test_no_stored_text_becomes_a_part_of_a_page(browser: Browser, clock: ManualClock) -> None:
    """Forty texts that would run elsewhere, in every place that a client or an engine fills, run on no page."""
    assert len(PAYLOADS) >= 40
    async with running_api(MemoryObjectStore(clock), clock) as api:
        job_ids = [await _hostile_job(api, PAYLOADS[n : n + GROUP]) for n in range(0, len(PAYLOADS), GROUP)]
        await _hostile_keys(api)
        await _hostile_engine(api)
        batch_id = await _hostile_batch(api)
        async with visiting(browser) as visit:
            url = str(api.client.base_url).rstrip("/")
            await visit.log_in(url, KEY)
            page = visit.page
            lists = ("/ui/jobs", "/ui/batches", "/ui/webhooks", "/ui/usage", "/ui/keys", "/ui/system", "/ui/workflows")
            for path in (*lists, f"/ui/batches/{batch_id}", *(f"/ui/jobs/{job_id}" for job_id in job_ids)):
                await page.goto(url + path)
                if path.startswith("/ui/jobs/"):
                    await page.wait_for_selector("pre.log")  # the fragments have come
                assert page.url == url + path
                await _check_harmless(page)
            for text in (PAYLOADS[0], PAYLOADS[10], PAYLOADS[13]):  # a link of ours that a stranger made
                await page.goto(f"{url}/ui/jobs?{urlencode({'workflow': text})}")
                assert await page.input_value("#workflow") == text
                await _check_harmless(page)
            await page.goto(f"{url}/ui/try")
            for graph in _hostile_graphs():
                await page.fill("#graph", json.dumps(graph))
                await page.click("text=Check >> nth=-1")
                await page.wait_for_selector("#checked > *")
                assert PAYLOADS[0] in await page.inner_text("#checked")
                await _check_harmless(page)
                await page.reload()
            assert visit.faults == []
            assert visit.hosts == {url}


async def test_no_event_of_a_running_job_becomes_a_part_of_its_page(browser: Browser, clock: ManualClock) -> None:
    """Nodes, steps and previews that the stream of a page sends are shown as text or as a picture, or left out."""
    every = " ".join(PAYLOADS)[:2_000]
    async with running_api(MemoryObjectStore(clock), clock) as api, visiting(browser) as visit:
        job_id = (await submit(api))["job_id"]
        assert await api.queue.claim("default", "w") is not None
        url = str(api.client.base_url).rstrip("/")
        await visit.log_in(url, KEY)
        await visit.page.goto(f"{url}/ui/jobs/{job_id}")
        picture = PreviewFrame(number=1, node_id=every, content_type="text/html", data_base64=every)
        await api.stores.live.put("default", job_id, 1, picture)
        for percent, node in enumerate((every, "2"), start=1):
            await _report(api, job_id, percent, ProgressDetails(current_node=node, nodes_total=2, step=every))
            await visit.until(f"document.querySelector('#live progress')?.value === {percent}")
        assert "<script>" in await visit.page.inner_text("[data-live=text]")
        assert await visit.page.locator("[data-live=nodes] tbody tr").count() == 2
        assert await visit.page.get_attribute(".live-preview", "src") is None
        await _check_harmless(visit.page)
        assert visit.faults == []
        assert visit.hosts == {url}


async def _check_harmless(page: Page) -> None:
    """Check that no text has run, and that none has become a part of the page."""
    assert await page.evaluate("window.hacked") is None, page.url
    assert await page.locator(ACTIVE).count() == 0, page.url


async def _hostile_job(api: Api, texts: Sequence[str]) -> str:
    """Store a finished job that has each of the texts wherever there can be several, and all in one elsewhere."""
    now, job_id, every = api.stores.clock.now(), str(uuid.uuid4()), " ".join(texts)
    saves = {"class_type": "SaveImage", "inputs": {"images": ["0", 0], "filename_prefix": every}}
    graph = {
        **{
            str(n): {"class_type": text, "inputs": {"text": text}, "_meta": {"title": text}}
            for n, text in enumerate(texts)
        },
        **dict.fromkeys(texts, saves),
    }
    record = a_job(
        job_id=job_id,
        created_at=now,
        metadata={text[:64]: text for text in texts},
        workflow_name=every,
        inputs=(
            *(Input(node=text, field=text, value=text) for text in texts),
            Input(node="0", field="x", value=[every]),
        ),
        input_files=tuple(InputFile(name=text, key="k", size_bytes=1, content_type="text/plain") for text in texts),
        webhook_url=f"https://example.com/{every}",
        webhook_events=("completed",),
    ).initial()
    kinds = (("text/html", None), ("image/svg+xml", None), ("text/html", True), ("text/plain", True))
    outputs = tuple(
        OUTPUT.model_copy(
            update={
                "filename": text,
                "node_id": text,
                "content_type": kind,
                "text": shown and text,
                "key": keys.output("default", job_id, 1, number, "x"),
            }
        )
        for number, (text, (kind, shown)) in enumerate(itertools.product(texts, kinds))
    )
    error = ErrorDetail(
        code=every, message=every, node_id=every, class_type=every, exception_type=every, log_tail=tuple(texts)
    )
    warned = {"dependent_outputs": list(texts), "errors": []}
    warnings = {text: {**warned, "class_type": text, "detail": text, "hint": text} for text in texts}
    stored = await api.stores.jobs.create(record, workflow=json.dumps(graph).encode())
    claimed = await api.stores.jobs.evolve_from(stored, lambda job: job.claim(worker=every, now=now, lease_s=60))
    await api.stores.jobs.evolve_from(
        claimed,
        lambda job: job.fail(attempt=1, now=now + timedelta(seconds=1), error=error, outputs=outputs).model_copy(
            update={"warnings": warnings, "last_fault": error}
        ),
    )
    await api.stores.logs.write("default", job_id, 1, texts)
    return job_id


async def _report(api: Api, job_id: str, percent: int, details: ProgressDetails) -> None:
    def change(job: JobRecord) -> JobRecord:
        now = api.stores.clock.now()
        return job.report(attempt=1, now=now, lease_s=60, progress=percent, details=details, outputs=())

    await api.stores.jobs.evolve_from(await api.stores.jobs.read("default", job_id), change)


async def _hostile_engine(api: Api) -> None:
    """Publish classes, packs and models with hostile names."""
    loads = {"required": {"ckpt_name": [[f"{text}.safetensors" for text in PAYLOADS]]}}
    classes = {
        text: {"input": loads, "output": [], "output_node": True, "python_module": f"custom_nodes.{text}"}
        for text in PAYLOADS[::2]
    }
    await api.stores.engine_info.publish("default", classes, comfyui_version=PAYLOADS[0])


async def _hostile_batch(api: Api) -> str:
    metadata = {text[:64]: text[:500] for text in PAYLOADS[:8]}
    graph = {"1": {"class_type": PAYLOADS[0], "inputs": {"ckpt_name": f"{PAYLOADS[0]}.safetensors"}}}
    answer = await api.client.post("/v1/batches", json={"workflow": graph, "input_sets": [[]], "metadata": metadata})
    assert answer.status_code == 202, answer.text
    batch_id: str = answer.json()["batch_id"]
    return batch_id


def _hostile_graphs() -> Iterator[object]:
    """Yield what has hostile texts in each part of a check: notes, missing packs and models, files, and a drawing."""
    named = {"cnr_id": PAYLOADS[0], "aux_id": PAYLOADS[1], "models": [{"name": text, "url": text} for text in PAYLOADS]}
    nodes = [
        # Every other one is muted, of which there is a note.
        {"id": text, "type": text, "title": text, "mode": n % 2 * 2, "pos": [n, n], "properties": named}
        for n, text in enumerate(PAYLOADS[::2])
    ]
    yield {"nodes": nodes, "links": []}
    yield {"nodes": [*nodes, {"id": "x", "type": f"{PAYLOADS[0]} is missing", "properties": named}], "links": []}
    yield {text: {"class_type": text, "inputs": {"ckpt_name": text}, "_meta": {"title": text}} for text in PAYLOADS}


async def _hostile_keys(api: Api) -> None:
    for text in PAYLOADS:
        _, record = new_record("acme", now=api.stores.clock.now(), name=text[:100])
        await api.stores.api_keys.add(record)
