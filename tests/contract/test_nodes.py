"""GET /v1/nodes, /v1/nodes/{class_type} and /v1/models: what the pool's engine has published."""

import json
from datetime import timedelta
from typing import Any

import pytest

from app.config import ApiConfig
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.pools.engine_info import CACHE_LIFE, FILES_LIFE
from tests.support.api_server import KEY, Api, running_api

pytestmark = pytest.mark.anyio

Json = dict[str, Any]
SECRET = "customer-42"
INFO: Json = {
    "KSampler": {
        "input": {
            "required": {
                "model": ["MODEL", {"tooltip": "the model"}],
                "steps": ["INT", {"default": 20, "min": 1, "max": 10000}],
                "sampler_name": [["euler", "ddim"]],
            },
            "optional": {"note": ["STRING", {"default": "", "max": "x"}]},
        },
        "output": ["LATENT"],
        "output_name": ["latent"],
        "display_name": "K Sampler",
        "description": "Denoises.",
        "category": "sampling",
        "python_module": "nodes",
        "output_node": False,
    },
    "LoadImage": {
        "input": {"required": {"image": [[f"{SECRET}.png", SECRET], {"image_upload": True, "default": SECRET}]}},
        "output": ["IMAGE", "MASK"],
        "python_module": "nodes",
    },
    "VHS_LoadImages": {
        "input": {"required": {"directory": [[SECRET]], "clip": [["none", f"{SECRET}.mp4"]]}},
        "output": [["a", "b"]],
        "python_module": "custom_nodes.ComfyUI-VideoHelperSuite",
        "output_node": True,
    },
    "LoraLoader": {"input": {"required": {"lora_name": [["b.safetensors", "a.safetensors"]]}}, "output": ["MODEL"]},
    "VAELoader": {"input": {"required": {"vae_name": [["v.pt", "pixel_space", f"{SECRET}.png"]]}}, "output": ["VAE"]},
    "Load Text //Pack": {"input": {"required": {}}, "output": [], "python_module": "custom_nodes.Pack.nodes"},
    "Broken": None,
    "RunPython": {"input": {}, "output": [], "python_module": "custom_nodes.Bad"},
}


async def get(api: Api, path: str, **params: Any) -> Json:
    answer = await api.client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    assert SECRET not in answer.text
    shown: Json = answer.json()
    return shown


@pytest.fixture
async def published(memory_api: Api) -> Api:
    await memory_api.stores.engine_info.publish("default", INFO, comfyui_version="0.33.0")
    return memory_api


async def test_node_classes_are_listed_in_short(published: Api) -> None:
    """Classes are listed by name, each with its inputs, outputs, pack, and whether the key may use it."""
    shown = await get(published, "/v1/nodes")
    assert (shown["pool"], shown["comfyui_version"], shown["next_cursor"]) == ("default", "0.33.0", None)
    assert shown["published_at"] == published.stores.clock.now().isoformat(timespec="microseconds")
    rows = {row["class_type"]: row for row in shown["nodes"]}
    assert list(rows) == sorted(INFO)
    assert rows["KSampler"] == {
        "class_type": "KSampler",
        "title": "K Sampler",
        "category": "sampling",
        "pack": None,
        "is_output": False,
        "allowed": True,
        "inputs": {"model": "MODEL", "steps": "INT", "sampler_name": "COMBO", "note": "STRING"},
        "required": ["model", "steps", "sampler_name"],
        "outputs": ["LATENT"],
    }
    assert (rows["VHS_LoadImages"]["pack"], rows["VHS_LoadImages"]["outputs"]) == (
        "ComfyUI-VideoHelperSuite",
        ["COMBO"],
    )
    assert (rows["Broken"]["inputs"], rows["RunPython"]["allowed"]) == ({}, False)


async def test_a_node_class_is_shown_in_detail(published: Api) -> None:
    """A class is shown with its inputs' types, defaults, ranges and choices; a name may have slashes."""
    shown = await get(published, "/v1/nodes/KSampler")
    inputs = {one["name"]: one for one in shown["inputs"]}
    assert (shown["description"], shown["outputs"]) == ("Denoises.", [{"name": "latent", "type": "LATENT"}])
    assert inputs["steps"] == {
        "name": "steps",
        "type": "INT",
        "required": True,
        "default": 20,
        "min": 1,
        "max": 10000,
        "choices": None,
        "tooltip": None,
    }
    assert (inputs["sampler_name"]["choices"], inputs["model"]["tooltip"]) == (["euler", "ddim"], "the model")
    assert (inputs["note"]["required"], inputs["note"]["max"]) == (False, None)
    assert (await get(published, "/v1/nodes/Load%20Text%20%2F%2FPack"))["pack"] == "Pack"
    assert "runs code" in (await get(published, "/v1/nodes/RunPython"))["objection"]


async def test_no_input_file_is_shown(published: Api) -> None:
    """No class shows the files or folders of the input folder, as a choice or a default."""
    for class_type in INFO:
        await get(published, f"/v1/nodes/{class_type.replace('/', '%2F')}")
    (image,) = (await get(published, "/v1/nodes/LoadImage"))["inputs"]
    assert (image["type"], image["choices"], image["default"]) == ("COMBO", None, None)
    (vae,) = (await get(published, "/v1/nodes/VAELoader"))["inputs"]
    assert vae["choices"] == ["v.pt", "pixel_space"]


async def test_models_are_listed_by_folder(published: Api) -> None:
    """Models are listed by folder and name, with their loaders, and are filtered by folder."""
    shown = await get(published, "/v1/models")
    assert [(row["folder"], row["name"]) for row in shown["models"]] == [
        ("loras", "a.safetensors"),
        ("loras", "b.safetensors"),
        ("vae", "v.pt"),
    ]
    assert shown["models"][0]["loaders"] == [{"class_type": "LoraLoader", "input": "lora_name"}]
    assert (shown["is_current"], shown["next_cursor"]) == (True, None)
    assert len((await get(published, "/v1/models", folder="vae"))["models"]) == 1


@pytest.mark.parametrize(("path", "rows"), [("/v1/nodes", "nodes"), ("/v1/models", "models")])
async def test_pages_are_bounded_and_complete(published: Api, path: str, rows: str) -> None:
    """Following the cursor shows each class and model once."""
    whole = (await get(published, path))[rows]
    found, params = [], {"limit": "2"}
    while True:
        page = await get(published, path, **params)
        assert len(page[rows]) <= 2
        found += page[rows]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert found == whole


async def test_an_etag_spares_the_answer(published: Api, clock: ManualClock) -> None:
    """Each answer has an ETag, and is 304 until the engine publishes something else."""
    for path in ("/v1/nodes", "/v1/nodes/KSampler", "/v1/models", "/v1/models?folder=vae"):
        first = await published.client.get(path)
        known = {"if-none-match": first.headers["etag"]}
        again = await published.client.get(path, headers=known)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        await published.stores.engine_info.publish("default", INFO | {path: INFO["KSampler"]})
        clock.set(clock.now() + CACHE_LIFE)
        assert (await published.client.get(path, headers=known)).status_code == 200


async def test_models_of_an_hour_ago_may_be_outdated(published: Api, clock: ManualClock) -> None:
    """Models that were published an hour ago, or before models were added, are shown as not current."""
    etag = (await published.client.get("/v1/models")).headers["etag"]
    clock.set(clock.now() + FILES_LIFE + timedelta(seconds=1))
    answer = await published.client.get("/v1/models", headers={"if-none-match": etag})
    assert (answer.status_code, answer.json()["is_current"], len(answer.json()["models"])) == (200, False, 3)


async def test_an_answer_costs_at_most_one_request_a_minute(published: Api, clock: ManualClock) -> None:
    """The published information is read once, and then checked by one HEAD a minute, for all tenants."""
    objects = published.objects
    assert isinstance(objects, MemoryObjectStore)
    async with await published.client_of("other", "jobs:read") as other:
        await other.get("/v1/limits")
        objects.requests.clear()
        for client in (published.client, other):
            for path in ("/v1/nodes", "/v1/nodes/KSampler", "/v1/models"):
                assert (await client.get(path)).status_code == 200
        assert dict(objects.requests) == {"GET": 1}
        clock.set(clock.now() + timedelta(seconds=61))
        objects.requests.clear()
        await published.client.get("/v1/nodes")
        await published.client.get("/v1/models")
        assert objects.requests["HEAD"] + objects.requests["GET"] == 1


async def test_each_pool_has_its_own_nodes(clock: ManualClock) -> None:
    """`pool` chooses the pool; an unknown one is refused, and one whose workers published nothing is empty."""
    config = ApiConfig(api_key=KEY, gpu_pools=("h100", "l4"))
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        await api.stores.engine_info.publish("h100", {"KSampler": INFO["KSampler"]})
        assert len((await get(api, "/v1/nodes", pool="h100"))["nodes"]) == 1
        for path, rows in (("/v1/nodes", "nodes"), ("/v1/models", "models")):
            empty = await get(api, path, pool="l4")
            assert (empty[rows], empty["published_at"], empty["next_cursor"]) == ([], None, None)
            refused = await api.client.get(path, params={"pool": "a100"})
            assert (refused.status_code, refused.json()["type"]) == (422, "/problems/unknown-gpu")
            assert "this deployment has default, h100, l4" in refused.json()["detail"]
        unpublished = await api.client.get("/v1/nodes/KSampler?pool=l4")
        assert (unpublished.status_code, unpublished.json()["type"]) == (404, "/problems/unknown-node")
        assert "has published its nodes yet" in unpublished.json()["detail"]


async def test_an_unknown_class_gets_a_suggestion(published: Api) -> None:
    """A class that the engine lacks is refused with the names that are most like it."""
    refused = await published.client.get("/v1/nodes/Ksampler")
    assert (refused.status_code, refused.json()["type"]) == (404, "/problems/unknown-node")
    assert refused.json()["hint"] == "did you mean KSampler?"


@pytest.mark.parametrize("query", ["limit=0", "limit=201", f"cursor={'x' * 257}"])
async def test_a_bad_page_is_refused(published: Api, query: str) -> None:
    """A page size or cursor out of bounds is refused."""
    for path in ("/v1/nodes", "/v1/models"):
        refused = await published.client.get(f"{path}?{query}")
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-parameter")


async def test_strangers_keys_see_what_they_may_use(published: Api) -> None:
    """`allowed` is that of the key's own level of trust, and so is the ETag."""
    path = "/v1/nodes/VHS_LoadImagesPath"
    await published.stores.engine_info.publish("default", {"VHS_LoadImagesPath": INFO["VHS_LoadImages"]})
    shown = await published.client.get(path)
    async with await published.client_of("default", graphs="strangers") as stranger:
        theirs = await stranger.get(path, headers={"if-none-match": shown.headers["etag"]})
    assert (shown.json()["allowed"], theirs.json()["allowed"]) == (True, False)


async def test_the_scope_to_read_is_needed(published: Api) -> None:
    """Nodes and models need the scope `jobs:read`."""
    async with await published.client_of("default", "jobs:write") as writer:
        for path in ("/v1/nodes", "/v1/nodes/KSampler", "/v1/models"):
            assert (await writer.get(path)).status_code == 403


async def test_an_answer_is_json_whatever_nodes_declare(memory_api: Api) -> None:
    """Odd declarations, such as infinite limits and names that are no text, still make an answer of valid JSON."""
    odd = {
        "input": {
            "required": {"x": ["FLOAT", {"max": float("inf"), "min": float("nan"), "default": 1e400}], "y": [[]]}
        },
        "output": [None, 3, {}],
        "output_name": [1, 2, 3],
        "display_name": 7,
        "python_module": "custom_nodes",
    }
    await memory_api.stores.engine_info.publish("default", {"Odd": odd, "Odder": {"input": [], "output": 1}})
    for path in ("/v1/nodes", "/v1/nodes/Odd", "/v1/nodes/Odder", "/v1/models"):
        answer = await memory_api.client.get(path)
        assert answer.status_code == 200
        json.loads(answer.text, parse_constant=pytest.fail)
