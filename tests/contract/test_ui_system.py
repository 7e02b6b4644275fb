"""The page of the system: pools, engines, queue and checks, who sees them, and what they cost."""

import html
import re
from collections import Counter

import pytest
from pydantic import SecretStr

from infra.settings import Settings
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from storage.errors import StorageUnavailable
from storage.pools.worker_facts import AttentionChoice, WorkerFacts
from tests.support.api_server import Api, running_api, submit
from tests.support.browsers import HERE, logged_in
from tests.support.counted_bucket import CountedBucket

pytestmark = pytest.mark.anyio

INFO = {
    "CheckpointLoaderSimple": {
        "input": {"required": {"ckpt_name": [["one.safetensors", "two.ckpt"]]}},
        "output": ["MODEL", "CLIP", "VAE"],
        "python_module": "nodes",
    },
    "SaveImage": {"input": {}, "output": [], "output_node": True, "python_module": "nodes"},
    "Demo": {"input": {}, "output": [], "python_module": "custom_nodes.demo-pack"},
}
SECRET = "a-secret-of-the-bucket"


async def shown(api: Api, key: str | None = None) -> str:
    async with logged_in(api, key) if key else logged_in(api) as browser:
        return html.unescape((await browser.get("/ui/system")).text)


async def test_a_pool_shows_its_engine_and_how_busy_it_was(memory_api: Api) -> None:
    """A pool shows its last worker, how busy its engines were, and the packs and models that they published."""
    await memory_api.stores.engine_info.publish("default", INFO, comfyui_version="0.33.0")
    facts = WorkerFacts(
        worker="w-1",
        started_at=memory_api.stores.clock.now(),
        engine="comfyui",
        gpu="NVIDIA L4",
        attention=AttentionChoice(backend="sage", reason="measured"),
        isolation="landlock",
    )
    await memory_api.stores.worker_facts.publish("default", facts)
    await memory_api.stores.engine_use.publish("default", "w-1", computed_s=90, idle_s=30)
    page = await shown(memory_api)
    for words in ("w-1", "NVIDIA L4", "sage: measured", "GPU busy", "75.0 %", "landlock"):
        assert words in page, words
    assert "Nodes: 3 classes of 2 packs" in page
    assert re.findall(r"<bdi>([^<]+)</bdi> <b>(\d)</b>", page) == [("comfy-core", "2"), ("demo-pack", "1")]
    assert "Models: 2" in page
    assert re.search(r"<code>checkpoints</code></dt><dd><bdi>one.safetensors</bdi>, <bdi>two.ckpt</bdi>", page)


async def test_only_an_operator_sees_the_queue_and_the_checks(memory_api: Api) -> None:
    """Only an operator sees how many jobs of all tenants wait, and can run the checks."""
    acme = await memory_api.new_key("acme", "jobs:read", "jobs:write", "admin")
    async with await memory_api.client_of("acme") as client:
        for _ in range(2):
            (
                await client.post("/v1/jobs", json={"workflow": {"1": {"class_type": "X", "inputs": {}}}})
            ).raise_for_status()
    await submit(memory_api)
    assert "Queued jobs, all tenants</dt><dd>3</dd>" in await shown(memory_api)
    page = await shown(memory_api, acme)
    assert ("all tenants" in page, "Your queued jobs</dt><dd>2</dd>" in page) == (False, True)
    assert "/ui/system/check" not in page
    async with logged_in(memory_api, acme) as browser:
        refused = await browser.post("/ui/system/check", {"csrf": await browser.token()})
        assert (refused.status_code, "may check the deployment" in refused.text) == (403, True)


async def test_the_page_costs_a_few_requests_however_many_jobs_wait(clock: ManualClock) -> None:
    """The page reads six objects and lists of the pool, and nothing for each job."""
    bucket = CountedBucket(clock)
    async with running_api(bucket, clock) as api, logged_in(api) as browser:
        for _ in range(3):
            await submit(api)
        await api.stores.jobs.settled()
        bucket.take()
        assert (await browser.get("/ui/system")).status_code == 200
        assert bucket.take().requests <= Counter({"LIST": 5, "GET": 4, "HEAD": 1})


async def test_an_operator_checks_the_bucket(memory_api: Api) -> None:
    """The checks of `comfyui-modal doctor` run from the page, and leave no object behind."""
    async with logged_in(memory_api) as browser:
        fields = {"csrf": await browser.token()}
        page = (await browser.post("/ui/system/check", fields)).text
        assert "Conditional create" in page
        assert "a write over a stale ETag was refused" in page
        fragment = await browser.post("/ui/system/check", fields, {"origin": HERE, "hx-request": "true"})
        assert fragment.text.lstrip().startswith("<ul")
    assert not [key for key in await memory_api.keys() if key.startswith("probes/")]


class Refusing(MemoryObjectStore):
    """Refuses every probe, in words that contain a secret."""

    async def put(self, key: str, body: bytes, *, content_type: str = "application/octet-stream") -> str:
        if key.startswith("probes/"):
            raise StorageUnavailable(f"refused: https://bucket/?X-Amz-Signature=abcdef012345 {SECRET}")
        return await super().put(key, body, content_type=content_type)


async def test_a_failed_check_shows_no_secret(clock: ManualClock) -> None:
    """A check that fails says what to do, without the secrets that the text of a library may have."""
    settings = Settings(bucket="tests", s3_access_key=SecretStr("AKIAEXAMPLE"), s3_secret_key=SecretStr(SECRET))
    async with running_api(Refusing(clock), clock, settings=settings) as api, logged_in(api) as browser:
        page = (await browser.post("/ui/system/check", {"csrf": await browser.token()})).text
    assert ("Bucket reachable" in page, "What to do" in page) == (True, True)
    assert (SECRET in page, "abcdef012345" in page, "Conditional create" in page) == (False, False, False)
