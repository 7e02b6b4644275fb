"""Files of ComfyUI's editor: POST /v1/workflows/convert, and submitted as jobs."""

import asyncio
import gc
import threading
import tracemalloc
from typing import Any

import pytest

from app.config import ApiConfig
from app.heavy import off_loop
from storage.bucket.budget import on_behalf_of
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.compare_editor.cases import OBJECT_INFO, Draft, definition, seal
from tests.support.api_server import KEY, Api, running_api
from tests.support.waiting import until
from workers.lite.nodes import node_classes
from workflows.graph import Graph

pytestmark = pytest.mark.anyio

Json = dict[str, Any]


def picture(**members: Any) -> Json:
    """Return a file of the editor with a source, a muted node and an output."""
    draft = (
        Draft().node(1, "DemoSource").node(2, "SaveImage", ("pic",), title="Result").node(3, "DemoInt", (4,), mode=2)
    )
    return draft.link(1, 1, 2, "images", "IMAGE").document(**members)


GRAPH = {
    "1": {"inputs": {}, "class_type": "DemoSource", "_meta": {"title": "DemoSource (display)"}},
    "2": {
        "inputs": {"filename_prefix": "pic", "images": ["1", 1]},
        "class_type": "SaveImage",
        "_meta": {"title": "Result"},
    },
}


def repeated(title: str, instances: int) -> Json:
    """Return a small file whose graph has the title once for each instance of a subgraph."""
    inputs = [{"name": "images", "type": "IMAGE", "link": 1}]
    inside = [{"id": 1, "type": "DemoSource"}, {"id": 2, "type": "SaveImage", "inputs": inputs, "title": title}]
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    link = dict(zip(names, (1, 1, 1, 2, 0, "IMAGE"), strict=True))
    part = {"id": "part", "nodes": inside, "links": [link]}
    nodes = [{"id": number, "type": "part"} for number in range(instances)]
    return {"nodes": nodes, "links": [], "definitions": {"subgraphs": [part]}}


@pytest.fixture
async def published(memory_api: Api) -> Api:
    await memory_api.stores.engine_info.publish("default", OBJECT_INFO, comfyui_version="0.33.0")
    return memory_api


async def post(api: Api, path: str, document: Any, status: int) -> Json:
    answer = await api.client.post(path, json=document)
    assert answer.status_code == status, answer.text
    shown: Json = answer.json()
    return shown


@pytest.mark.parametrize("is_bare", [True, False])
async def test_a_file_is_converted(published: Api, is_bare: bool) -> None:
    """The answer has the graph, what was left out, and the inputs that the author chose, also for a bare file."""
    document = picture(extra={"linearData": {"inputs": [[2, "filename_prefix"], [9, "x"]], "outputs": [2]}})
    shown = await post(published, "/v1/workflows/convert", document if is_bare else {"workflow": document}, 200)
    assert shown == {
        "workflow": GRAPH,
        "notes": [{"node": "3", "title": "DemoInt", "message": "left out, because it is muted"}],
        "unknown_classes": [],
        "inputs": [{"node": "2", "field": "filename_prefix", "title": "Result", "value": "pic"}],
    }


async def test_a_graph_is_returned_as_it_is(published: Api) -> None:
    """A workflow in API format needs no conversion."""
    shown = await post(published, "/v1/workflows/convert", {"workflow": GRAPH}, 200)
    assert (shown["workflow"], shown["notes"]) == (GRAPH, [])
    plain = {"1": {"class_type": "A", "inputs": {"x": 1}}, "extra": {"linearData": {"inputs": [["1", "x"]]}}}
    shown = await post(published, "/v1/workflows/convert", {"workflow": plain}, 200)
    assert (shown["workflow"], shown["inputs"]) == (plain, [])


async def test_all_unknown_classes_are_named_at_once(published: Api) -> None:
    """Without its classes there is no graph, but a list of what to install."""
    document = Draft().node(1, "PackA").node(2, "PackB").node(3, "PackC", mode=2).node(4, "Note").document()
    shown = await post(published, "/v1/workflows/convert", {"workflow": document}, 200)
    assert (shown["workflow"], shown["unknown_classes"]) == (None, ["PackA", "PackB"])
    assert [(note["node"], note["message"]) for note in shown["notes"]] == [
        ("1", "is of the class 'PackA', which is not installed"),
        ("2", "is of the class 'PackB', which is not installed"),
    ]


async def test_what_cannot_be_converted_is_a_problem(published: Api) -> None:
    """A refusal names the node, its place in the file, and what to do."""
    document = Draft().node(1, "Scene", ("",), title="My film").document()
    scene = {**OBJECT_INFO["DemoInt"], "name": "Scene", "input": {"required": {"scene": ["LOAD_3D", {}]}}}
    engine_info = published.stores.engine_info
    await engine_info.publish("default", {**OBJECT_INFO, "Scene": scene}, comfyui_version="0.33.0")
    shown = await post(published, "/v1/workflows/convert", {"workflow": document}, 422)
    assert (shown["type"].rsplit("/", 1)[-1], shown["pointer"]) == ("not-convertible", "/workflow/nodes/0")
    assert "node 1 “My film” (Scene)" in shown["detail"]
    assert shown["hint"]
    shown = await post(published, "/v1/workflows/convert", {"workflow": {"nodes": [1]}}, 422)
    assert (shown["type"].rsplit("/", 1)[-1], shown["pointer"]) == ("bad-editor-file", "/workflow/nodes/0")


@pytest.mark.parametrize("path", ["/v1/workflows/convert", "/v1/jobs"])
async def test_a_small_file_that_asks_for_much_is_refused(published: Api, path: str) -> None:
    """Subgraphs that repeat inputs or texts take from limits that GET /v1/limits shows."""
    limits = (await published.client.get("/v1/limits")).json()
    slots = 1_000
    instances = limits["max_conversion_steps"] // slots + 1
    part = {"id": "part", "nodes": [], "links": [], "inputs": [{}] * slots}
    nodes = [{"id": number, "type": "part"} for number in range(instances)]
    shown = await post(published, path, {"workflow": {"nodes": nodes, "definitions": {"subgraphs": [part]}}}, 422)
    assert shown["type"].endswith("not-convertible")
    assert "max_conversion_steps" in shown["detail"]
    part = {"id": "part", "nodes": [{"id": 1, "type": "DemoSource", "title": "x" * 60_000}], "links": []}
    nodes = nodes[: limits["max_conversion_bytes"] // 60_000 + 1]
    shown = await post(published, path, {"workflow": {"nodes": nodes, "definitions": {"subgraphs": [part]}}}, 422)
    assert "max_conversion_bytes" in shown["detail"]


@pytest.mark.parametrize(
    "limit", [{"max_batch_graph_bytes": 500_000}, {"max_batch_conversion_steps": 700}], ids=["bytes", "steps"]
)
async def test_the_conversions_of_a_batch_are_limited_together(clock: ManualClock, limit: dict[str, int]) -> None:
    """Jobs whose files are small, and their graphs large, take from one limit of bytes and one of steps."""
    config = ApiConfig(api_key=KEY, **limit)
    job = {"workflow": repeated("x" * 9_000, 20)}
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        await api.stores.engine_info.publish("default", OBJECT_INFO, comfyui_version="0.33.0")
        await post(api, "/v1/batches", {"jobs": [job] * 2}, 202)
        shown = await post(api, "/v1/batches", {"jobs": [job] * 4}, 422)
    assert (shown["type"].rsplit("/", 1)[-1], shown["pointer"]) == ("too-many-jobs", "/jobs/2")
    assert f"at most {next(iter(limit.values()))} are allowed" in shown["detail"]


async def test_a_batch_holds_the_converted_graphs_in_files(published: Api) -> None:
    """The graphs that a batch's small files make are not in memory together."""
    jobs = [{"workflow": repeated("x" * 30_000, 30)}] * 30
    tracemalloc.start()
    try:
        await post(published, "/v1/batches", {"jobs": [*jobs, {"workflow": {"1": {"class_type": "?"}}}]}, 422)
        assert tracemalloc.get_traced_memory()[1] < 15_000_000  # of 27 MB of graphs as text
    finally:
        tracemalloc.stop()


async def test_a_request_that_waits_for_its_place_holds_no_converted_graph(published: Api) -> None:
    """A small file that makes a large graph waits for a place in memory before the graph is kept."""
    places = published.app.state.context.large_bodies
    held = [await places.enter("default") for _ in range(2)]
    document = {"workflow": repeated("x" * 30_000, 30)}
    waiting = [asyncio.create_task(published.client.post("/v1/jobs", json=document)) for _ in range(4)]
    await until(lambda: len(places._of_tenant["default"]._waiters or ()) == len(waiting))
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Graph) and len(one.nodes) == 60]
    for leave in held:
        leave()
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {202}


@pytest.mark.parametrize("path", ["/v1/workflows/convert", "/v1/workflows/inspect", "/v1/jobs"])
async def test_a_small_file_is_converted_off_the_event_loop(published: Api, path: str) -> None:
    """A conversion waits for its tenant's thread of heavy work, however small the file is."""
    is_free = threading.Event()
    with on_behalf_of("default"):
        busy = asyncio.create_task(off_loop(is_free.wait))
    try:
        answer = asyncio.create_task(published.client.post(path, json={"workflow": picture()}))
        assert (await asyncio.wait([answer], timeout=0.3))[0] == set()
    finally:
        is_free.set()
    assert (await answer).is_success
    await busy


async def test_a_problem_of_the_graph_points_into_the_file(published: Api) -> None:
    """A value that the graph's checks refuse is found in the editor's file, in a subgraph too."""
    found, inside = definition(1, {"model": "MODEL"}, {"IMAGE": "IMAGE"})
    inside.node(5, "DemoSample", (7, "fixed", 30, "unknown", "normal", 2.5, False), title="Mine")
    part = seal(found, inside.link(-10, 0, 5, "model", "MODEL").link(5, 1, -20, "IMAGE", "IMAGE"))
    draft = Draft().node(1, "DemoSource").node(2, part["id"], (), outputs=["IMAGE"]).node(3, "SaveImage", ("p",))
    document = draft.link(1, 0, 2, "model", "MODEL").link(2, 0, 3, "images", "IMAGE").document(part)
    shown = await post(published, "/v1/jobs", {"workflow": document}, 422)
    assert shown["type"].endswith("value-not-in-list")
    assert shown["pointer"] == shown["errors"][0]["pointer"] == "/workflow/definitions/subgraphs/0/nodes/0"
    assert "in the editor: node 5 “Mine” in the subgraph “Part 1”" in shown["detail"]
    assert "2:5" in shown["node_errors"]


async def test_a_problem_of_an_input_points_at_the_input(published: Api) -> None:
    """A wrong value that `inputs` sets is not looked for in the editor's file."""
    draft = Draft().node(1, "DemoSource").node(2, "DemoSample", (7, "fixed")).node(3, "SaveImage", ("p",))
    document = draft.link(1, 0, 2, "model", "MODEL").link(2, 1, 3, "images", "IMAGE").document()
    body = {"workflow": document, "inputs": [{"node": "2", "field": "sampler", "value": "unknown"}]}
    shown = await post(published, "/v1/jobs", body, 422)
    assert shown["errors"][0]["pointer"] == "/inputs/0/value"


async def test_without_node_classes_an_export_is_asked_for(memory_api: Api) -> None:
    """Before an engine has published its classes, nothing can be converted."""
    shown = await post(memory_api, "/v1/workflows/convert", {"workflow": picture()}, 422)
    assert shown["type"].endswith("ui-format-workflow")
    assert "Export (API)" in shown["hint"]
    shown = await post(memory_api, "/v1/jobs", {"workflow": picture()}, 422)
    assert shown["type"].endswith("ui-format-workflow")


async def test_a_job_takes_the_file_and_keeps_it(published: Api) -> None:
    """A submitted file runs as the graph that is made of it, and both can be had again."""
    document = picture()
    shown = await post(published, "/v1/jobs", {"workflow": document}, 202)
    assert shown["workflow_format"] == "editor"
    path = f"/v1/jobs/{shown['job_id']}"
    assert (await published.client.get(path)).json()["workflow_format"] == "editor"
    assert (await published.client.get(f"{path}/workflow")).json() == GRAPH
    assert (await published.client.get(f"{path}/workflow?format=editor")).json() == document
    refused = await published.client.get(f"{path}/workflow?format=png")
    assert refused.json()["type"].endswith("invalid-parameter")


async def test_a_job_in_api_format_has_no_file(published: Api) -> None:
    """For a graph there is nothing that the editor saved."""
    shown = await post(published, "/v1/jobs", {"workflow": GRAPH}, 202)
    assert shown["workflow_format"] == "api"
    answer = await published.client.get(f"/v1/jobs/{shown['job_id']}/workflow?format=editor")
    assert (answer.status_code, answer.json()["type"].rsplit("/", 1)[-1]) == (404, "no-editor-file")


async def test_a_job_names_all_classes_that_are_missing(memory_api: Api) -> None:
    """A file with unknown classes is refused once for all of them, with what to do on this engine."""
    lite = {name: about.object_info() for name, about in node_classes().items()}
    await memory_api.stores.engine_info.publish("default", lite, comfyui_version="0.33.0")
    document = Draft().node(1, "KSampler", title="Mine").node(2, "VAEDecode").node(3, "PreviewAny").document()
    shown = await post(memory_api, "/v1/jobs", {"workflow": document}, 422)
    assert (shown["type"].rsplit("/", 1)[-1], shown["pointer"]) == ("not-convertible", "/workflow/nodes/0")
    assert shown["detail"].startswith("this deployment lacks the node classes KSampler, VAEDecode: node 1 “Mine”")
    assert "lite engine runs no models" in shown["hint"]


async def test_inputs_are_set_in_the_converted_graph(published: Api) -> None:
    """`inputs` name nodes by the ids in the converted graph; a wrong one is refused."""
    values = [{"node": "2", "field": "filename_prefix", "value": "other"}]
    await post(published, "/v1/jobs", {"workflow": picture(), "inputs": values}, 202)
    shown = await post(published, "/v1/jobs", {"workflow": picture(), "inputs": [{**values[0], "node": "3"}]}, 422)
    assert shown["type"].endswith("unknown-input-node")


async def test_batches_take_the_file(published: Api) -> None:
    """Each job of a batch keeps the file, whether the batch has one workflow or many."""
    values = [[{"node": "2", "field": "filename_prefix", "value": name}] for name in ("a", "b")]
    for body in (
        {"workflow": picture(), "input_sets": values},
        {"jobs": [{"workflow": picture()}, {"workflow": GRAPH}]},
    ):
        shown = await post(published, "/v1/batches", body, 202)
        jobs = (await published.client.get("/v1/jobs", params={"batch_id": shown["batch_id"]})).json()["jobs"]
        kept = [await published.client.get(f"/v1/jobs/{job['job_id']}/workflow?format=editor") for job in jobs]
        assert sorted(one.status_code for one in kept) == ([200, 200] if "workflow" in body else [200, 404])


async def test_a_workflow_is_inspected(published: Api) -> None:
    """The answer has the packs, the outputs and the proposed inputs of a file or a graph, and what is missing."""
    document = picture(extra={"linearData": {"inputs": [[2, "filename_prefix"]]}})
    shown = await post(published, "/v1/workflows/inspect", document, 200)
    assert (shown["format"], shown["missing_classes"], shown["refusal"]) == ("editor", [], None)
    (only,) = shown["inputs"]
    assert (only["name"], only["type"], only["places"], only["source"]) == (
        "filename_prefix",
        "string",
        ["2.filename_prefix"],
        "app",
    )
    assert shown["outputs"] == [{"node": "2", "class_type": "SaveImage", "title": "Result"}]
    shown = await post(published, "/v1/workflows/inspect", {"workflow": GRAPH}, 200)
    assert (shown["format"], shown["packs"][0]["registry_id"]) == ("api", "comfy-core")


async def test_inspection_names_models_and_their_sources(published: Api) -> None:
    """A model has the URL that the file names, and is missing if no loader of the deployment lists it."""
    noted = {"name": "a.safetensors", "directory": "loras", "url": "https://huggingface.co/a/b/resolve/main/a"}
    document = Draft().node(1, "DemoWord", ("a.safetensors", 1), properties={"models": [noted]}).document()
    shown = await post(published, "/v1/workflows/inspect", document, 200)
    assert shown["models"] == [
        {
            "folder": "loras",
            "file": "a.safetensors",
            "url": noted["url"],
            "sha256": None,
            "classes": ["DemoWord"],
            "is_present": False,
        }
    ]
    assert shown["missing_models"] == ["loras/a.safetensors"]


async def test_what_cannot_be_inspected_is_a_problem(memory_api: Api) -> None:
    """Without an engine the packs are listed, with the reason why there are no inputs; other JSON is refused."""
    shown = await post(memory_api, "/v1/workflows/inspect", picture(), 200)
    assert (shown["packs"][0]["missing"], shown["inputs"]) == (None, [])
    assert "not known yet" in shown["refusal"]["detail"]
    for document, kind in (({"workflow": {"nodes": [1]}}, "bad-editor-file"), ({"workflow": 3}, "not-a-workflow")):
        shown = await post(memory_api, "/v1/workflows/inspect", document, 422)
        assert shown["type"].endswith(kind)
    shown = await post(memory_api, "/v1/workflows/inspect", {"workflow": GRAPH, "gpu": "none"}, 422)
    assert shown["type"].endswith("unknown-gpu")


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/workflows/convert", "/v1/workflows/inspect"])
async def test_the_nodes_of_subgraphs_are_counted_before_they_are_placed(published: Api, path: str) -> None:
    """A small file that becomes 15,625 nodes is refused by their number."""
    inner, outer = (
        {"id": name, "inputs": [], "outputs": [], "nodes": [{"id": n, "type": kind} for n in range(25)], "links": []}
        for name, kind in (("inner", "DemoInt"), ("outer", "inner"))
    )
    nodes = [{"id": n, "type": "outer"} for n in range(25)]
    document = {"nodes": nodes, "links": [], "definitions": {"subgraphs": [inner, outer]}}
    shown = await post(published, path, {"workflow": document}, 422)
    assert (shown["type"].rsplit("/", 1)[-1], shown["pointer"]) == ("too-many-nodes", "/workflow")
    assert shown["detail"].startswith("15625 nodes")


async def test_comfy_api_v2_keeps_its_refusal(published: Api) -> None:
    """The official API's contract refuses the editor's format by its own code."""
    answer = await published.client.post("/api/v2/jobs", json={"workflow": picture()})
    assert answer.status_code == 422
    assert "workflow_format_ui" in answer.text
