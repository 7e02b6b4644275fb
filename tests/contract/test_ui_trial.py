"""A graph is tried by the pages: checked without running, converted, and drawn."""

import html
import json
import re
from typing import Any

import pytest

from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.compare_editor.cases import OBJECT_INFO, Draft, Json
from tests.support.api_server import BLUE, KEY, PNG, Api, running_api, submit
from tests.support.browsers import HERE, Browser, logged_in
from tests.support.graphs import node, publish, saved
from workers.lite.nodes import node_classes

pytestmark = pytest.mark.anyio

CAN_RUN = "It can run here"
PHOTO = {"1": node("LoadImage", image="my cat.png"), "2": saved()}
MODEL = {"1": node("CheckpointLoaderSimple", ckpt_name="none.safetensors"), "2": node("PreviewAny", source=["1", 0])}
UNCONNECTED = node("SaveImage", filename_prefix="x")


def picture(*classes: str) -> Json:
    """Return a file of the editor with a source, a muted node and an output, and nodes of further classes."""
    draft = (
        Draft().node(1, "DemoSource").node(2, "SaveImage", ("pic",), title="Result").node(3, "DemoInt", (4,), mode=2)
    )
    for number, name in enumerate(classes, 10):
        draft.node(number, name, properties={"cnr_id": "demo-pack"})
    return draft.link(1, 1, 2, "images", "IMAGE").document()


@pytest.mark.parametrize(
    ("graph", "words", "absent"),
    [
        (BLUE, [CAN_RUN, "2 nodes", "EmptyImage"], ["Input file"]),
        ({"prompt": BLUE, "client_id": "x"}, [CAN_RUN], []),
        (PHOTO, [CAN_RUN, "Input file", "my cat.png"], ["does not bring"]),
        ({"1": node("Nothing")}, ["lacks what the graph needs", "Nothing"], [CAN_RUN]),
        (MODEL, ["lacks what the graph needs", "checkpoints/none.safetensors", "In the words of the API"], [CAN_RUN]),
        ({**BLUE, "3": UNCONNECTED}, ["Some of its outputs do not run", "images"], [CAN_RUN]),
        ({"3": UNCONNECTED}, ["What to do", "images"], [CAN_RUN]),
        ({}, ["What to do", "no nodes"], [CAN_RUN]),
        ("{", ["What to do", "line 1"], [CAN_RUN]),
    ],
)
async def test_a_graph_is_checked_before_it_runs(
    memory_api: Api, graph: Any, words: list[str], absent: list[str]
) -> None:
    """The check says in the API's words what is wrong or missing and which files to bring, and stores no job."""
    await publish(memory_api.stores)
    text = graph if isinstance(graph, str) else json.dumps(graph)
    async with logged_in(memory_api) as browser:
        fields = {"csrf": await browser.token(), "graph": text}
        answer = await browser.post("/ui/try/check", fields)
        assert answer.status_code == 200
        page = html.unescape(answer.text)
        assert [word for word in words if word not in page] == []
        assert [word for word in absent if word in page] == []
        assert f">{text}</textarea>" in page
        fragment = await browser.post("/ui/try/check", fields, {"origin": HERE, "hx-request": "true"})
        assert (fragment.status_code, "<form" in fragment.text) == (200, False)
    assert not [key for key in await memory_api.keys() if "/jobs/" in key]


async def test_a_graph_brings_the_files_that_it_loads(memory_api: Api) -> None:
    """Each file that the check names goes with the job under the name that the graph loads, whatever its own name."""
    await publish(memory_api.stores)
    async with logged_in(memory_api) as browser:
        token = await browser.token()
        upload = {"csrf": token, "size_bytes": str(len(PNG)), "content_type": "image/png", "filename": "IMG_1.png"}
        made = (await browser.post("/ui/uploads", upload)).json()
        key = f"tenants/default/uploads/{made['upload_id']}/data"
        await memory_api.objects.create(key, PNG, content_type="image/png")
        fields = {"csrf": token, "graph": json.dumps(PHOTO), "name.1": "my cat.png", "filename.1": "IMG_1.png"}
        started = await browser.post("/ui/try", fields | {"upload.1": made["upload_id"]})
        assert started.status_code == 303, started.text
        record = (await memory_api.stores.jobs.read("default", started.headers["location"].rsplit("/", 1)[-1])).record
        assert [file.name for file in record.input_files] == ["my cat.png"]
        refused = await browser.post("/ui/try", fields)
        assert (refused.status_code, "does not bring" in refused.text) == (422, True)
        checked = await browser.post("/ui/try/check", fields | {"upload.1": made["upload_id"]})
        assert "It is uploaded already" in checked.text  # a check does not lose what was uploaded before it
        await memory_api.stores.jobs.settled()
        page = (await browser.get(f"/ui/try?from={record.job_id}")).text
        kept = dict(re.findall(r'<input type="hidden" name="([a-z]+\.earlier1)" value="([^"]+)">', page))
        assert kept == {"upload.earlier1": made["upload_id"], "name.earlier1": "my cat.png"}
        again = await browser.post("/ui/try", {"csrf": token, "graph": json.dumps(PHOTO)} | kept)
        assert again.status_code == 303, again.text


async def test_a_job_is_changed_with_the_values_that_it_set(memory_api: Api) -> None:
    """What is changed and run again has the values that the job set in its graph, not those in the graph before."""
    job_id = (await submit(memory_api, inputs=[{"node": "1", "field": "width", "value": 4711}]))["job_id"]
    async with logged_in(memory_api) as browser:
        page = html.unescape((await browser.get(f"/ui/try?from={job_id}")).text)
    found = re.search(r"<textarea[^>]*>(.*?)</textarea>", page, re.DOTALL)
    assert found is not None
    assert json.loads(found[1]) == {**BLUE, "1": {**BLUE["1"], "inputs": {**BLUE["1"]["inputs"], "width": 4711}}}


async def test_a_file_of_the_editor_is_converted_drawn_and_kept(memory_api: Api) -> None:
    """A file of the editor is checked with its notes, runs, is drawn by its positions, and is downloaded unchanged."""
    await memory_api.stores.engine_info.publish("default", OBJECT_INFO, comfyui_version="0.33.0")
    file = picture()
    async with logged_in(memory_api) as browser:
        token = await browser.token()
        page = html.unescape((await browser.post("/ui/try/check", {"csrf": token, "graph": json.dumps(file)})).text)
        assert f"{CAN_RUN}.</b> 2 nodes, converted from the editor's file" in page
        assert "left out, because it is muted" in page
        lacking = (await browser.post("/ui/try/check", {"csrf": token, "graph": json.dumps(picture("PackA"))})).text
        assert ("PackA" in lacking, "demo-pack" in lacking, CAN_RUN in lacking) == (True, True, False)
        job = (await browser.post("/ui/try", {"csrf": token, "graph": json.dumps(file)})).headers["location"]
        page = html.unescape((await browser.get(job)).text)
        assert "2 nodes, as on the editor's canvas" in page
        saved_file = await browser.get(f"{job}/workflow?format=editor")
        assert saved_file.json() == file
        assert saved_file.headers["content-disposition"].startswith("attachment;")
        assert "DemoInt" in (await browser.get(f"/ui/try?from={job.rsplit('/', 1)[-1]}")).text


async def test_the_file_of_a_graph_without_one_is_a_problem(memory_api: Api) -> None:
    """A job of a graph in API format has no editor's file: the page offers none, and its address is a 404."""
    async with logged_in(memory_api) as browser:
        fields = {"csrf": await browser.token(), "graph": json.dumps(BLUE)}
        job = (await browser.post("/ui/try", fields)).headers["location"]
        assert "format=editor" not in (await browser.get(job)).text
        assert (await browser.get(f"{job}/workflow?format=editor")).status_code == 404


async def test_a_pool_is_chosen_where_there_are_several(clock: ManualClock) -> None:
    """A graph is checked against the classes of the chosen pool and runs there, and so does a workflow's form."""
    config = ApiConfig(api_key=KEY, gpu_pools=("l4",))
    async with running_api(MemoryObjectStore(clock), clock, config) as api, logged_in(api) as browser:
        await publish(api.stores)
        lite = {name: declared.object_info() for name, declared in node_classes().items()}
        await api.stores.engine_info.publish("l4", lite | OBJECT_INFO)
        fields = {"csrf": await browser.token(), "graph": json.dumps(picture())}

        async def checked(gpu: str) -> bool:
            return CAN_RUN in (await browser.post("/ui/try/check", fields | {"gpu": gpu})).text

        assert "<option>l4</option>" in (await browser.get("/ui/try")).text
        assert [await checked(gpu) for gpu in ("", "l4", "h100")] == [False, True, False]
        words = {"csrf": fields["csrf"], "input.first": "x", "gpu": "l4"}
        for path, form in (("/ui/try", fields | {"gpu": "l4"}), ("/ui/workflows/words/run", words)):
            job = (await browser.post(path, form)).headers["location"]
            assert (await api.stores.jobs.read("default", job.rsplit("/", 1)[-1])).record.pool == "l4", path
            assert (await browser.post(path, form | {"gpu": "h100"})).status_code == 422


async def test_values_of_a_graph_are_changed_by_a_form(memory_api: Api) -> None:
    """The check offers a graph's prompts, seeds and sizes as fields; a changed one is set, and an edited graph wins."""
    await publish(memory_api.stores)

    async def run(browser: Browser, **fields: str) -> list[tuple[str, str, Any]]:
        started = await browser.post("/ui/try", {"csrf": token, **fields})
        assert started.status_code == 303, started.text
        record = (await memory_api.stores.jobs.read("default", started.headers["location"].rsplit("/", 1)[-1])).record
        return [(one.node, one.field, one.value) for one in record.inputs]

    async with logged_in(memory_api) as browser:
        token, text = await browser.token(), json.dumps(BLUE)
        page = (await browser.post("/ui/try/check", {"csrf": token, "graph": text})).text
        shown = dict(re.findall(r'<input id="[^"]+" type="number" name="(input\.[^"]+)" value="([^"]*)"', page))
        digest = re.search(r'name="digest" value="([0-9a-f]+)"', page)
        assert digest is not None
        assert (shown["input.width"], shown["input.height"]) == ("8", "8")
        fields = {"graph": text, "digest": digest[1], **shown}
        assert await run(browser, **fields) == []
        assert await run(browser, **fields | {"input.width": "16"}) == [("1", "width", 16)]
        assert await run(browser, **fields | {"graph": text + " ", "input.width": "16"}) == []
        again = await browser.post("/ui/try/check", {"csrf": token, **fields, "input.width": "24"})
        assert 'name="input.width" value="24"' in again.text
        wrong = await browser.post("/ui/try", {"csrf": token, **fields, "input.width": "x"})
        assert (wrong.status_code, "not a whole number" in wrong.text) == (422, True)
