"""The pages without a browser: what they show, what their forms do, and what they cost."""

import asyncio
import html
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from app.config import ApiConfig
from app.ui.routing import MOST_PAGES
from storage import keys
from storage.access.key_store import KeyScope
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import BLUE, KEY, PNG, Api, running_api, submit, work
from tests.support.browsers import browser_of, logged_in
from tests.support.counted_bucket import CountedBucket
from tests.support.records import OUTPUT
from tests.support.waiting import until

pytestmark = pytest.mark.anyio


async def test_every_empty_page_says_what_to_do(memory_api: Api) -> None:
    """Without any job, key or receiver, each page says so and what to do."""
    async with logged_in(memory_api) as browser:
        for name, words in (
            ("jobs", "Run a first workflow"),
            ("batches", "POST /v1/batches"),
            ("webhooks", "webhook_url"),
            ("usage", "Run a workflow"),
            ("keys", "COMFYUI_MODAL_API_KEY"),
            ("system", "The first job starts one"),
        ):
            page = await browser.get(f"/ui/{name}")
            assert page.status_code == 200
            assert words in page.text, name


async def test_the_list_has_the_filters_of_the_api(memory_api: Api) -> None:
    """Each filter of the form selects what the filter of the API selects, and a wrong one is refused in its words."""
    mine = (await submit(memory_api, metadata={"order": "4711"}))["job_id"]
    other = (await submit(memory_api))["job_id"]
    async with logged_in(memory_api) as browser:

        async def listed(query: str) -> set[str]:
            page = await browser.get(f"/ui/jobs?{query}")
            assert page.status_code == 200, query
            return set(re.findall(r'id="job-([0-9a-f-]{36})"', page.text))

        assert await listed("") == {mine, other}
        assert await listed("status=queued&workflow=&error_code=&created_after=") == {mine, other}
        assert await listed("metadata_name=order&metadata_value=4711") == {mine}
        assert await listed("status=completed") == set()
        assert await listed("error_code=cancelled") == set()
        assert await listed("created_before=2020-01-01T10:00") == set()
        assert await listed("created_after=2020-01-01T10:00:05") == {mine, other}
        refused = await browser.get("/ui/jobs?status=cancelled")
        assert refused.status_code == 422
        assert "error_code=cancelled" in refused.text
        fragment = await browser.client.get("/ui/jobs", headers={"hx-request": "true"})
        assert fragment.text.lstrip().startswith('<section id="jobs"')


async def test_a_job_is_cancelled_and_removed(memory_api: Api) -> None:
    """The forms of the list cancel a job and remove it with its files."""
    job_id = (await submit(memory_api))["job_id"]
    async with logged_in(memory_api) as browser:
        await browser.submit("/ui/jobs", f"/ui/jobs/{job_id}/cancel")
        assert "Cancelled by user" in (await browser.get(f"/ui/jobs/{job_id}")).text
        gone = await browser.submit("/ui/jobs", f"/ui/jobs/{job_id}/remove")
        assert gone.headers["location"] == "/ui/jobs"
        after = await browser.get(f"/ui/jobs/{job_id}")
        assert after.status_code == 410
        assert "was removed" in after.text


async def test_only_safe_types_are_shown_in_place(memory_api: Api) -> None:
    """HTML, SVG and unknown outputs are offered to be saved; pictures, videos, sounds and texts are shown."""
    job_id = (await submit(memory_api))["job_id"]
    shown = {"image/png": "<img", "video/mp4": "<video", "audio/flac": "<audio", "image/svg+xml": "", "text/html": ""}
    shown |= {"application/octet-stream": "", "model/gltf-binary": ""}
    outputs = [
        OUTPUT.model_copy(
            update={"content_type": kind, "key": keys.output("default", job_id, 1, n, f"f{n}"), "filename": f"f{n}"}
        )
        for n, kind in enumerate(shown)
    ]
    await work(memory_api, *outputs)
    async with logged_in(memory_api) as browser:
        page = (await browser.get(f"/ui/jobs/{job_id}")).text
        figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
        assert len(figures) == len(shown)
        for figure, (kind, tag) in zip(figures, shown.items(), strict=True):
            present = re.findall(r"<(?:img|video|audio|iframe|object|embed|pre)\b", figure)
            assert present == ([tag] if tag else []), kind


async def test_the_graph_is_saved_and_never_shown_as_a_document(memory_api: Api) -> None:
    """The graph comes as a download of JSON, so that none of its texts is a document of our origin."""
    job_id = (await submit(memory_api))["job_id"]
    async with logged_in(memory_api) as browser:
        answer = await browser.get(f"/ui/jobs/{job_id}/workflow")
    assert answer.json() == BLUE
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-disposition"] == f'attachment; filename="workflow-{job_id[:8]}.json"'


async def test_a_form_runs_a_workflow_with_its_types(memory_api: Api) -> None:
    """The form's texts become the types of the inputs, a picture comes by upload, and the job has the same values."""
    async with logged_in(memory_api) as browser:
        token = await browser.token()
        made = await browser.post(
            "/ui/uploads",
            {"csrf": token, "size_bytes": str(len(PNG)), "content_type": "image/png", "filename": "a.png"},
        )
        assert made.status_code == 201
        objects, upload = memory_api.objects, made.json()
        assert isinstance(objects, MemoryObjectStore)
        await objects.create(f"tenants/default/uploads/{upload['upload_id']}/data", PNG, content_type="image/png")
        fields = {"csrf": token, "upload.image": upload["upload_id"], "filename.image": "a b.png", "input.width": "64"}
        started = await browser.post("/ui/workflows/still/run", fields)
        assert started.status_code == 303, started.text
        job_id = started.headers["location"].rsplit("/", 1)[-1]
        record = (await memory_api.stores.jobs.read("default", job_id)).record
        assert {(one.node, one.field): one.value for one in record.inputs} == {
            ("1", "image"): "a b.png",
            ("2", "width"): 64,
        }
        again = (await browser.get(f"/ui/workflows/still?from={job_id}")).text
        assert 'name="input.width" value="64"' in again
        assert f'name="upload.image" value="{upload["upload_id"]}"' in again
        assert 'name="filename.image" value="a b.png"' in again
        assert not re.search(r"data-file[^>]* required", again)
        fresh = (await browser.get("/ui/workflows/still")).text
        assert re.search(r"data-file[^>]* required", fresh)
        assert 'name="upload.image" value=""' in fresh
        code = html.unescape((await browser.get(f"/ui/jobs/{job_id}")).text)
        medium = {"filename": "a b.png", "upload_id": upload["upload_id"]}
        values = " ".join(code.partition("client.submit_named('still', ")[2].split())
        assert values.startswith(repr({"image": medium, "width": 64}))
        assert KEY not in code


async def test_a_finished_job_runs_once_more(memory_api: Api) -> None:
    """A finished job is submitted again by its page, which leads to the new job."""
    job_id = (await submit(memory_api))["job_id"]
    await work(memory_api)
    async with logged_in(memory_api) as browser:
        answer = await browser.submit(f"/ui/jobs/{job_id}", f"/ui/jobs/{job_id}/retry")
        new_id = answer.headers["location"].rsplit("/", 1)[-1]
        assert new_id != job_id
        assert (await memory_api.stores.jobs.read("default", new_id)).record.retry_of == job_id


async def test_a_graph_can_be_tried(memory_api: Api) -> None:
    """A pasted graph runs as one that is sent to the API, and a wrong one is refused in the API's words."""
    async with logged_in(memory_api) as browser:
        token = await browser.token()
        started = await browser.post("/ui/try", {"csrf": token, "graph": json.dumps(BLUE)})
        assert started.status_code == 303, started.text
        job_id = started.headers["location"].rsplit("/", 1)[-1]
        assert "EmptyImage" in (await browser.get(f"/ui/try?from={job_id}")).text
        for graph, words in (
            ("", "the body is empty"),
            ("{", "line 1, column 2"),
            ('{"1": NaN}', "NaN is not JSON"),
            ('{"1": 1e999}', "beyond a double"),
            ("[" * 70 + "]" * 70, "What to do"),
            ("[" * 100_000, "What to do"),
            ("{}", "What to do"),
            (json.dumps({"1": {"class_type": "SaveImage", "inputs": {"images": ["9", 0]}}}), "What to do"),
        ):
            refused = await browser.post("/ui/try", {"csrf": token, "graph": graph})
            assert refused.status_code in (400, 422), graph[:20]
            assert words in refused.text


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("still", {"input.width": "64"}, "image"),
        ("silence", {"input.seconds": "abc"}, "not a number"),
        ("silence", {"input.seconds": "9999"}, "600"),
        ("silence", {"input.seconds": "nan"}, "NaN is not JSON"),
        ("silence", {"input.seconds": "inf"}, "Infinity is not JSON"),
        ("words", {"input.first": "x" * 1_100_000}, "A text is too long"),
        ("nothing", {}, "no workflow of this name"),
    ],
)
async def test_a_wrong_form_is_refused_as_the_api_words_it(
    memory_api: Api, name: str, fields: dict[str, str], words: str
) -> None:
    """A wrong value is refused with the problem of the API: a page, or the text of a notice for a script."""
    async with logged_in(memory_api) as browser:
        token = await browser.token()
        page = await browser.post(f"/ui/workflows/{name}/run", {"csrf": token, **fields})
        assert page.status_code in (400, 404, 422)
        assert words in page.text
        assert "What to do" in page.text
        assert await memory_api.keys() == tuple(key for key in await memory_api.keys() if "/jobs/" not in key)


async def test_an_admin_of_a_tenant_has_its_keys_alone(memory_api: Api) -> None:
    """A key with the scope admin manages keys of its tenant; those of others look like keys that do not exist."""
    admin, foreign = await memory_api.new_key("acme", "admin"), await memory_api.new_key("globex")
    kid = foreign.split("_")[2]
    async with logged_in(memory_api, admin) as browser:
        page = await browser.get("/ui/keys")
        assert (kid in page.text, admin.split("_")[2] in page.text) == (False, True)
        token = await browser.token()
        for unknown in (kid, "aaaaaaaa"):
            refused = await browser.post(f"/ui/keys/{unknown}/revoke", {"csrf": token})
            assert (refused.status_code, "no key with this id" in refused.text) == (404, True)
        made = await browser.post("/ui/keys", {"csrf": token, "tenant": "globex", "scope.jobs:read": "on"})
        assert made.status_code == 403
        odd = await browser.post("/ui/keys", {"csrf": token, "scope.jobs:read": "on", "life": "30 day"})
        assert (odd.status_code, "choose one of never, 30 days" in odd.text) == (422, True)
        mine = await browser.post("/ui/keys", {"csrf": token, "scope.jobs:read": "on", "life": "30 days", "name": "x"})
        found = re.search(r'id="new-key">([^<]+)<', mine.text)
        assert found is not None
        record = await memory_api.stores.api_keys.authenticate(found[1])
        assert record is not None
        assert (record.tenant, record.scopes, record.name) == ("acme", ("jobs:read",), "x")
        assert record.expires_at == record.created_at + timedelta(days=30)
    async with logged_in(memory_api, await memory_api.new_key("acme")) as plain:
        assert (await plain.get("/ui/keys")).status_code == 403
        assert 'href="/ui/keys"' not in (await plain.get("/ui/jobs")).text


async def test_a_batch_is_shown_and_cancelled(memory_api: Api) -> None:
    """The page of batches shows how far each is, and cancels one."""
    body = {"workflow": BLUE, "input_sets": [[], []]}
    batch_id = (await memory_api.client.post("/v1/batches", json=body)).json()["batch_id"]
    async with logged_in(memory_api) as browser:
        assert "2 queued" in (await browser.get("/ui/batches")).text
        await browser.submit("/ui/batches", f"/ui/batches/{batch_id}/cancel")
        assert "2 failed" in (await browser.get("/ui/batches")).text


async def test_the_list_of_jobs_costs_one_page_however_many_there_are(clock: ManualClock) -> None:
    """The page of jobs costs five LISTs and one GET for each shown job, with few jobs and with many."""
    bucket = CountedBucket(clock)
    async with running_api(bucket, clock) as api, logged_in(api) as browser:
        for count in (30, 60):
            for _ in range(30):
                await submit(api)
                clock.set(clock.now() + timedelta(seconds=1))
            await api.stores.jobs.settled()
            bucket.take()
            page = await browser.get("/ui/jobs")
            assert page.text.count('<li id="job-') == 25, count
            assert bucket.take().requests == Counter({"LIST": 5, "GET": 25})


async def test_a_key_sees_only_what_it_may_do(memory_api: Api) -> None:
    """A page has no form or link for an action that the key's scopes do not allow, except the logout."""
    acme = await memory_api.client_of("acme")
    async with acme:
        ended = (await acme.post("/v1/jobs", json={"workflow": BLUE})).json()["job_id"]
        await acme.delete(f"/v1/jobs/{ended}")
        batch = (await acme.post("/v1/batches", json={"workflow": BLUE, "input_sets": [[]]})).json()
        queued = (await acme.get(f"/v1/batches/{batch['batch_id']}")).json()["jobs"][0]["job_id"]
    paths = ("jobs", f"jobs/{ended}", f"jobs/{queued}", "batches", "webhooks", "usage", "system", "workflows")
    actions = {}
    for scope in ("jobs:read", "jobs:write"):
        scopes: tuple[KeyScope, ...] = ("jobs:read", "jobs:write") if scope == "jobs:write" else ("jobs:read",)
        async with logged_in(memory_api, await memory_api.new_key("acme", *scopes)) as browser:
            pages = [(await browser.get(f"/ui/{path}")).text for path in paths]
            actions[scope] = set(re.findall(r'method="post" action="([^"]+)"', "".join(pages)))
            form = (await browser.get("/ui/workflows/still")).text
            assert ('<button class="primary">Run</button>' in form) == (scope == "jobs:write")
            assert ("Change and run" in pages[1]) == (scope == "jobs:write")
    assert actions["jobs:read"] == {"/ui/logout"}
    assert actions["jobs:write"] >= {
        f"/ui/jobs/{ended}/retry",
        f"/ui/jobs/{ended}/remove",
        f"/ui/jobs/{queued}/cancel",
        f"/ui/batches/{batch['batch_id']}/cancel",
        "/ui/webhooks/test",
    }
    assert not any("/keys" in path or "/tenant" in path for path in actions["jobs:write"])


async def test_a_form_names_a_receiver(memory_api: Api) -> None:
    """The receiver of a workflow's form is that of its job, and a wrong one is refused as the API words it."""
    async with logged_in(memory_api) as browser:
        fields = {"csrf": await browser.token(), "input.first": "x", "webhook_url": " https://example.com/hook "}
        started = await browser.post("/ui/workflows/words/run", fields)
        record = (await memory_api.stores.jobs.read("default", started.headers["location"].rsplit("/", 1)[-1])).record
        assert record.webhook_url == "https://example.com/hook"
        refused = await browser.post("/ui/workflows/words/run", {**fields, "webhook_url": "ftp://example.com"})
        assert (refused.status_code, "webhook_url" in refused.text) == (422, True)


async def test_pages_with_documents_wait_for_a_place(clock: ManualClock) -> None:
    """The pages of a job, whose record, graph and log may be large, wait for a place; the list of jobs does not."""
    async with running_api(MemoryObjectStore(clock), clock, ApiConfig(api_key=KEY)) as api, logged_in(api) as browser:
        job_id = (await submit(api))["job_id"]
        places = api.app.state.context.pages
        held = [await places.enter("default") for _ in range(MOST_PAGES // 2)]
        of_job = [f"/ui/jobs/{job_id}{part}" for part in ("", "/live", "/logs", "/workflow")]
        for path in (*of_job, "/ui/try", "/ui/workflows/still"):
            page = asyncio.create_task(browser.get(path))
            assert (await browser.get("/ui/jobs")).status_code == 200
            await asyncio.wait({page}, timeout=0.05)
            assert not page.done(), path
            held.pop()()
            assert (await page).status_code == 200
            held.append(await places.enter("default"))


async def test_stalled_forms_without_a_session_do_not_keep_others_out(clock: ManualClock) -> None:
    """Unfinished logins are limited in number, all together, and the oldest one ends when a new one begins."""
    config = ApiConfig(api_key=KEY, max_unfinished_requests=1)
    begun, gate = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"key="
        begun.set()
        await gate.wait()

    async with running_api(MemoryObjectStore(clock), clock, config) as api, browser_of(api) as browser:
        origin = str(browser.client.base_url).rstrip("/")
        headers = {"origin": origin, "sec-fetch-site": "same-origin"}
        form = {**headers, "content-type": "application/x-www-form-urlencoded"}
        stalled = asyncio.create_task(browser.client.post("/ui/login", content=slow(), headers=form))
        await begun.wait()
        await until(lambda: bool(api.app.state.context.logins._open))
        assert (await browser.post("/ui/login", {"key": KEY})).status_code == 303
        gate.set()
        assert (await stalled).status_code == 408
