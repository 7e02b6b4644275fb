"""Assets of Comfy API v2: uploads, deduplication, graphs that name them, and outputs as inputs."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from blake3 import blake3

from app.comfy_v2.asset_view import MAX_FILE_PATH, MAX_TAG, MAX_TAGS
from app.comfy_v2.multipart import MAX_PARTS, MAX_TEXT_BYTES
from app.config import ApiConfig
from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.jobs.record import JobRecord
from tests.contract.comfy_v2.shapes import refused, shaped
from tests.support.api_server import KEY, PNG, Api, running_api, submit, work
from tests.support.records import OUTPUT

pytestmark = pytest.mark.anyio

ASSETS, JOBS = "/api/v2/assets", "/api/v2/jobs"
HASH = f"blake3:{blake3(PNG).hexdigest()}"
LOADER = {
    "LoadImage": {
        "input": {"required": {"image": [["listed.png"], {"image_upload": True}]}},
        "output": ["IMAGE", "MASK"],
        "python_module": "nodes",
    },
    "CheckpointLoaderSimple": {
        "input": {"required": {"ckpt_name": [["model.safetensors"]]}},
        "output": ["MODEL"],
        "python_module": "nodes",
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "x"}]}},
        "output": [],
        "output_node": True,
        "python_module": "nodes",
    },
}


def parts(file: bytes = PNG, **fields: Any) -> dict[str, Any]:
    return {"data": {"content_type": "image/png", "file_path": "cat.png"} | fields, "files": {"file": file}}


def loads(image: Any) -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }


def handle(asset_id: Any) -> dict[str, Any]:
    return {"__type": "core/ASSET", "info": {"id": asset_id}}


async def uploaded(api: Api, status: int = 201, file: bytes = PNG, **fields: Any) -> dict[str, Any]:
    return shaped(await api.client.post(ASSETS, **parts(file, **fields)), status, "asset")


async def job_of(api: Api, workflow: Any) -> JobRecord:
    job = shaped(await api.client.post(JOBS, json={"workflow": workflow}), 201, "job")
    return (await api.stores.jobs.read("default", job["id"])).record


async def graph_of(api: Api, record: JobRecord) -> dict[str, Any]:
    graph: dict[str, Any] = json.loads(await api.stores.jobs.workflow("default", record.job_id))
    return graph


async def with_engine(api: Api) -> None:
    await api.stores.engine_info.publish("default", LOADER)


@pytest.mark.real_bucket("bytes that a client fetches by a presigned URL")
async def test_an_upload_is_an_asset(api: Api) -> None:
    """An uploaded file is found by its hash, shown by its id, and fetched from the bucket, in ranges too."""
    assert (await api.client.head(f"{ASSETS}/by-hash/{HASH}")).status_code == 404
    asset = await uploaded(api, tags=["a", "b"], expected_hash=HASH, expires_in="3600")
    assert (asset["hash"], asset["size_bytes"], asset["content_type"]) == (HASH, len(PNG), "image/png")
    assert (asset["file_path"], asset["tags"], asset["created_new"]) == ("cat.png", ["a", "b"], True)
    for path in (HASH, HASH.replace(":", "%3A")):
        found = await api.client.head(f"{ASSETS}/by-hash/{path}")
        assert (found.status_code, found.content) == (200, b"")
    assert (await api.client.head(f"{ASSETS}/by-hash/nonsense")).status_code == 404
    shown = shaped(await api.client.get(f"{ASSETS}/{asset['id']}"), 200, "asset")
    assert shown["id"] == asset["id"]
    content = await api.client.get(f"{ASSETS}/{asset['id']}/content")
    assert content.status_code == 302
    if content.headers["location"].startswith("http"):
        async with httpx.AsyncClient() as anyone:
            assert (await anyone.get(content.headers["location"])).content == PNG
            part = await anyone.get(shown["url"], headers={"range": "bytes=1-3"})
            assert (part.status_code, part.content) == (206, b"PNG")


async def test_the_same_file_is_the_same_asset(memory_api: Api) -> None:
    """A second upload, or a reference by hash, of the same bytes and name is answered 200 with the same asset."""
    api = memory_api
    first = await uploaded(api)
    assert (await uploaded(api, 200))["id"] == first["id"]
    by_hash = {"hash": HASH, "file_path": "cat.png", "expires_in": 60}
    again = shaped(await api.client.post(f"{ASSETS}/from-hash", json=by_hash), 200, "asset")
    assert (again["id"], again["created_new"], again["expires_at"]) == (first["id"], False, first["expires_at"])
    other = shaped(await api.client.post(f"{ASSETS}/from-hash", json=by_hash | {"file_path": "b.png"}), 201, "asset")
    assert other["id"] != first["id"]
    assert len([key for key in await api.keys() if key.endswith("/data")]) == 1
    missing = by_hash | {"hash": f"blake3:{'0' * 64}"}
    refused(await api.client.post(f"{ASSETS}/from-hash", json=missing), 404, "blob_not_found")


async def test_an_asset_is_deleted(memory_api: Api) -> None:
    """A deleted asset is unknown at once; one that a job uses, and an output, cannot be deleted."""
    api = memory_api
    await with_engine(api)
    asset = await uploaded(api)
    record = await job_of(api, loads(handle(asset["id"])))
    refused(await api.client.delete(f"{ASSETS}/{asset['id']}"), 409, "asset_in_use")
    await api.client.post(f"{JOBS}/{record.job_id}/cancel")
    assert (await api.client.delete(f"{ASSETS}/{asset['id']}")).status_code == 204
    refused(await api.client.delete(f"{ASSETS}/{asset['id']}"), 404, "not_found")
    refused(await api.client.get(f"{ASSETS}/{asset['id']}/content"), 404, "not_found")
    assert (await api.client.head(f"{ASSETS}/by-hash/{HASH}")).status_code == 404


async def test_another_tenant_has_none_of_it(memory_api: Api) -> None:
    """A tenant neither finds, uses nor deletes the assets of another, and learns nothing of their bytes."""
    api = memory_api
    await with_engine(api)
    asset = await uploaded(api)
    async with await api.client_of("other") as other:
        assert (await other.head(f"{ASSETS}/by-hash/{HASH}")).status_code == 404
        refused(await other.post(f"{ASSETS}/from-hash", json={"hash": HASH}), 404, "blob_not_found")
        for answer in (
            await other.get(f"{ASSETS}/{asset['id']}"),
            await other.get(f"{ASSETS}/{asset['id']}/content"),
            await other.delete(f"{ASSETS}/{asset['id']}"),
        ):
            refused(answer, 404, "not_found")
        for image in (handle(asset["id"]), "cat.png"):
            refused(await other.post(JOBS, json={"workflow": loads(image)}), 422, "missing_asset")
        assert shaped(await other.post(ASSETS, **parts()), 201, "asset")["created_new"]


async def test_a_graph_names_assets(memory_api: Api) -> None:
    """A handle at any depth, or a file path where a node takes a file, becomes an input file of the job."""
    api = memory_api
    await with_engine(api)
    asset = await uploaded(api)
    for image in (handle(asset["id"]), "cat.png"):
        record = await job_of(api, loads(image))
        assert [file.name for file in record.input_files] == ["cat.png"]
        assert (await api.objects.get(record.input_files[0].key)).body == PNG
        assert (await graph_of(api, record))["1"]["inputs"]["image"] == "cat.png"
    deep = loads("cat.png")
    deep["1"]["inputs"]["extra"] = {"list": [[handle(asset["id"])]]}
    assert (await graph_of(api, await job_of(api, deep)))["1"]["inputs"]["extra"] == {"list": [["cat.png"]]}


async def test_a_file_path_that_no_file_can_have_is_staged_under_another(memory_api: Api) -> None:
    """Assets whose paths are unsafe or equal are staged under names of their own, which the graph gets."""
    api = memory_api
    await with_engine(api)
    climbing = await uploaded(api, file_path="../../etc/x y [output].png")
    same = [await uploaded(api, file=PNG + bytes([number]), file_path="a/b.png") for number in range(2)]
    graph = loads(handle(climbing["id"])) | {
        str(number + 3): {"class_type": "LoadImage", "inputs": {"image": handle(one["id"])}}
        for number, one in enumerate(same)
    }
    record = await job_of(api, graph)
    names = [file.name for file in record.input_files]
    assert names == ["asset_0_x_y__output_.png", "a/b.png", "asset_2_b.png"]
    stored = await graph_of(api, record)
    assert [stored[node]["inputs"]["image"] for node in "134"] == names


async def test_the_name_of_a_model_is_no_asset(memory_api: Api) -> None:
    """An asset that is called like a model, or like any text of a graph, is not looked up."""
    api = memory_api
    await with_engine(api)
    for name in ("model.safetensors", "x"):
        await uploaded(api, file_path=name)
    graph = {
        **loads("listed.png"),
        "3": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "model.safetensors"}},
    }
    record = await job_of(api, graph)
    assert record.input_files == ()


async def test_names_are_resolved_before_an_engine_has_started(memory_api: Api) -> None:
    """Before the engine's declarations are known, the files of loaders are found by their names."""
    await uploaded(memory_api)
    assert len((await job_of(memory_api, loads("cat.png"))).input_files) == 1


@pytest.mark.parametrize(
    "info", [{}, {"info": None}, {"info": {"id": 5}}, {"info": {"id": "unknown"}}, {"info": {"id": "../x"}}]
)
async def test_a_missing_asset_is_named(memory_api: Api, info: Any) -> None:
    """A handle that is malformed or names nothing is refused with the ids that are missing, and no job is made."""
    await with_engine(memory_api)
    workflow = loads({"__type": "core/ASSET"} | info)
    error = refused(await memory_api.client.post(JOBS, json={"workflow": workflow}), 422, "missing_asset")
    named = (info.get("info") or {}).get("id", "")
    assert error["details"]["missing_ids"] == [named if isinstance(named, str) else ""]
    assert await memory_api.keys() == ("engines/default/engine.json.gz",)


async def test_an_expired_asset_is_missing(memory_api: Api, clock: ManualClock) -> None:
    """After its lifetime an asset is unknown to graphs and by id, and can be uploaded again."""
    api = memory_api
    await with_engine(api)
    asset = await uploaded(api, expires_in=60)
    clock.set(clock.now() + timedelta(seconds=60))
    refused(await api.client.post(JOBS, json={"workflow": loads(handle(asset["id"]))}), 422, "missing_asset")
    refused(await api.client.get(f"{ASSETS}/{asset['id']}"), 404, "not_found")
    assert (await uploaded(api))["id"] != asset["id"]


@pytest.mark.real_bucket("an object that the bucket copies")
async def test_an_output_is_the_input_of_the_next_job(api: Api) -> None:
    """An output is copied within the bucket, on both surfaces, so that its job may be removed before the next runs."""
    await with_engine(api)
    first = await submit(api, workflow=BLUE_OF_LOADER)
    output = OUTPUT.model_copy(update={"key": keys.output("default", first["job_id"], 1, 0, "x.png"), "size_bytes": 3})
    await api.objects.put(output.key, b"abc")
    await work(api, output)
    shown = (await api.client.get(f"/v1/jobs/{first['job_id']}")).json()["outputs"][0]
    asset = shaped(await api.client.get(f"{ASSETS}/{shown['asset_id']}"), 200, "asset")
    assert (asset["job_id"], asset["hash"], asset["file_path"]) == (first["job_id"], None, output.filename)
    refused(await api.client.delete(f"{ASSETS}/{asset['id']}"), 409, "asset_in_use")
    second = await job_of(api, loads(handle(asset["id"])))
    media = [{"name": "in.png", "asset_id": shown["asset_id"]}]
    third = (
        await api.stores.jobs.read("default", (await submit(api, workflow=loads("in.png"), media=media))["job_id"])
    ).record
    assert (await api.client.delete(f"/v1/jobs/{first['job_id']}?purge=true")).status_code == 204
    for record in (second, third):
        assert record.input_files[0].key == keys.input_file("default", record.job_id, 0)
        assert (await api.objects.get(record.input_files[0].key)).body == b"abc"
    refused(await api.client.post(JOBS, json={"workflow": loads(handle(asset["id"]))}), 422, "missing_asset")


BLUE_OF_LOADER = loads("listed.png")


async def test_an_upload_of_v1_is_an_asset_on_both_surfaces(memory_api: Api) -> None:
    """A presigned upload is an asset by its id once its bytes are there, and an asset is a medium of /v1."""
    api = memory_api
    await with_engine(api)
    wanted = {"size_bytes": len(PNG), "content_type": "image/png", "filename": "big.png"}
    upload = (await api.client.post("/v1/uploads", json=wanted)).json()
    refused(await api.client.get(f"{ASSETS}/{upload['asset_id']}"), 404, "not_found")
    refused(await api.client.post(JOBS, json={"workflow": loads(handle(upload["asset_id"]))}), 422, "missing_asset")
    key = keys.upload_data("default", upload["upload_id"])
    await api.objects.put(key, PNG)
    shaped(await api.client.get(f"{ASSETS}/{upload['asset_id']}"), 200, "asset")
    assert (await job_of(api, loads(handle(upload["asset_id"])))).input_files[0].key == key
    refused(await api.client.delete(f"{ASSETS}/{upload['asset_id']}"), 409, "asset_in_use")
    asset = await uploaded(api)
    for asset_id in (asset["id"], upload["asset_id"]):
        await submit(api, workflow=loads("in.png"), media=[{"name": "in.png", "asset_id": asset_id}])
    media = [{"name": "in.png", "asset_id": "unknown"}]
    answer = await api.client.post("/v1/jobs", json={"workflow": loads("in.png"), "media": media})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/unknown-asset")
    assert answer.json()["pointer"] == "/media/0/asset_id"
    batch = {
        "workflow": loads("in.png"),
        "input_sets": [[], []],
        "media": [{"name": "in.png", "asset_id": asset["id"]}],
    }
    assert (await api.client.post("/v1/batches", json=batch)).status_code == 202


async def test_bytes_with_another_hash_are_not_stored(memory_api: Api) -> None:
    """An upload whose bytes do not have the expected hash is refused, and nothing is stored or charged."""
    answer = await memory_api.client.post(ASSETS, **parts(expected_hash=f"blake3:{'0' * 64}"))
    assert HASH in refused(answer, 409, "hash_mismatch")["message"]
    assert await memory_api.keys() == ()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"file_path": ""}, "file_path"),
        ({"file_path": "x" * (MAX_FILE_PATH + 1)}, str(MAX_FILE_PATH)),
        ({"file_path": "a\x00b"}, "unprintable"),
        ({"expires_in": "59"}, "60"),
        ({"expires_in": "604801"}, "604800"),
        ({"expires_in": "soon"}, "expires_in"),
        ({"tags": ["x"] * (MAX_TAGS + 1)}, str(MAX_TAGS)),
        ({"tags": ["x" * (MAX_TAG + 1)]}, str(MAX_TAG)),
        ({"expected_hash": "sha256:00"}, "blake3"),
        ({"content_type": ["image/png", "image/png"]}, "once"),
        ({"content_type": "video/mp4"}, "video/mp4"),
        ({"colour": "red"}, "colour"),
        ({"tags": "x" * (MAX_TEXT_BYTES + 1)}, str(MAX_TEXT_BYTES)),
        ({"tags": ["x"] * MAX_PARTS}, str(MAX_PARTS)),
    ],
)
async def test_an_upload_that_is_described_wrongly_is_refused(memory_api: Api, fields: Any, says: str) -> None:
    """A part that is missing, too long or wrong is named, and nothing is stored."""
    error = refused(await memory_api.client.post(ASSETS, **parts(**fields)), 422, "invalid_request")
    assert says in error["message"]
    assert await memory_api.keys() == ()


def body(*pieces: tuple[str, bytes], end: bytes = b"--B--\r\n") -> bytes:
    return (
        b"".join(
            b'--B\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), data)
            for name, data in pieces
        )
        + end
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (body(("content_type", b"image/png"), ("file_path", b"a.png")), "no part 'file'"),
        (body(("file", PNG), ("file_path", b"a.png")), "follows the file"),
        (body(("file_path", b"\xff"), ("file", PNG)), "not UTF-8"),
        (body(("file_path", b"a.png"), ("file", PNG), end=b""), "ends before"),
        (b"nonsense", "multipart/form-data"),
        (b"--B\r\n\r\nx\r\n--B--\r\n", "no name"),
        (b"", "ends before"),
    ],
)
async def test_a_malformed_multipart_body_is_refused(memory_api: Api, content: bytes, says: str) -> None:
    """A body that is not text parts followed by one file is refused with what is wrong."""
    headers = {"content-type": "multipart/form-data; boundary=B"}
    answer = await memory_api.client.post(ASSETS, content=content, headers=headers)
    assert says in refused(answer, 422, "invalid_request")["message"]
    json_type = {"content-type": "application/json"}
    refused(await memory_api.client.post(ASSETS, content=content, headers=json_type), 415, "invalid_request")


async def test_a_file_that_is_no_medium_is_refused(memory_api: Api) -> None:
    """A file of no listed format is refused before it is stored."""
    answer = await memory_api.client.post(ASSETS, **parts(b"%!PS-Adobe"))
    assert refused(answer, 422, "invalid_request")["details"]["problem"] == "bad-medium"
    assert await memory_api.keys() == ()


async def test_bytes_of_assets_count_for_the_daily_quota(clock: ManualClock) -> None:
    """The bytes of an upload count for the tenant's day, and a reference by hash costs nothing."""
    config = ApiConfig(api_key=KEY, max_upload_bytes_a_day=len(PNG) + 5)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        await uploaded(api)
        by_hash = {"hash": HASH, "file_path": "b.png"}
        shaped(await api.client.post(f"{ASSETS}/from-hash", json=by_hash), 201, "asset")
        refused(await api.client.post(ASSETS, **parts(file_path="c.png")), 429, "rate_limited")


async def test_keys_need_a_scope_for_assets(memory_api: Api) -> None:
    """A key that may only read can fetch assets, and neither upload nor delete them."""
    asset = await uploaded(memory_api)
    async with await memory_api.client_of("default", "jobs:read") as reader:
        assert (await reader.head(f"{ASSETS}/by-hash/{HASH}")).status_code == 200
        shaped(await reader.get(f"{ASSETS}/{asset['id']}"), 200, "asset")
        refused(await reader.post(ASSETS, **parts()), 403, "forbidden")
        refused(await reader.post(f"{ASSETS}/from-hash", json={"hash": HASH}), 403, "forbidden")
        refused(await reader.delete(f"{ASSETS}/{asset['id']}"), 403, "forbidden")


async def test_too_many_assets_of_a_graph_are_refused_unread(clock: ManualClock) -> None:
    """A graph with more assets than a job may have media is refused before any of them is read."""
    objects = MemoryObjectStore(clock)
    async with running_api(objects, clock, ApiConfig(api_key=KEY, max_media=2)) as api:
        graph = {str(n): {"class_type": "LoadImage", "inputs": {"image": handle(str(n))}} for n in range(3)}
        error = refused(await api.client.post(JOBS, json={"workflow": graph}), 422, "invalid_request")
        assert error["details"]["problem"] == "too-many-media"


async def test_a_large_upload_stays_out_of_memory(memory_api: Api) -> None:
    """A body arrives in pieces of any size, and two of them at once do not mix."""

    async def slowly(name: str) -> Any:
        content = body(("content_type", b"image/png"), ("file_path", name.encode()), ("file", PNG + name.encode()))
        for start in range(0, len(content), 7):
            yield content[start : start + 7]

    headers = {"content-type": "multipart/form-data; boundary=B"}
    answers = await asyncio.gather(
        *(memory_api.client.post(ASSETS, content=slowly(name), headers=headers) for name in ("a.png", "b.png"))
    )
    for name, answer in zip(("a.png", "b.png"), answers, strict=True):
        asset = shaped(answer, 201, "asset")
        assert asset["hash"] == f"blake3:{blake3(PNG + name.encode()).hexdigest()}"


async def test_the_requests_of_assets_are_few(clock: ManualClock) -> None:
    """Uploads, hits and uses of assets take the requests that docs/explanation/performance.md names."""
    objects = MemoryObjectStore(clock)
    async with running_api(objects, clock) as api:
        await with_engine(api)
        plain = loads("listed.png")
        await job_of(api, plain)  # the caches are warm from here on

        async def cost(call: Awaitable[Any]) -> Counter[str]:
            await api.stores.jobs.settled()
            objects.requests.clear()
            await call
            return +objects.requests

        base = await cost(api.client.post(JOBS, json={"workflow": plain})) - Counter(LIST=1)  # the name is looked up
        assert await cost(uploaded(api)) == Counter(LIST=2, PUT=7)
        assert await cost(uploaded(api, 200)) == Counter(LIST=1, GET=1)
        assert await cost(api.client.head(f"{ASSETS}/by-hash/{HASH}")) == Counter(LIST=1, GET=1)
        asset = await uploaded(api, 200)
        for image, extra in ((handle(asset["id"]), Counter(GET=1, PUT=1)), ("cat.png", Counter(LIST=1, GET=1, PUT=1))):
            assert await cost(api.client.post(JOBS, json={"workflow": loads(image)})) == base + extra
