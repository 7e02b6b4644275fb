"""The events of a job, in both Python clients and on the command line."""

import asyncio
import base64
import io

import pytest
from PIL import Image

from app.config import ApiConfig
from comfyui_modal_client import ClientError, Conflict, NotFound
from infra.cli.watching import picture, picture_protocol
from storage.bucket.memory import MemoryObjectStore
from storage.clock import ManualClock
from tests.support.api_server import KEY, Api, running_api, submit, work
from tests.support.clients import OpenClient, followed
from tests.support.records import OUTPUT
from tests.support.scripted_http import Answer, scripted_http

pytestmark = pytest.mark.anyio

UNKNOWN = "0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10"


async def test_events_are_followed_to_the_end(memory_api: Api, open_client: OpenClient) -> None:
    """The events of a job end with its terminal status, after its outputs; an unknown job raises."""
    job_id = (await submit(memory_api))["job_id"]
    async with open_client(str(memory_api.client.base_url), KEY) as client:
        following = asyncio.create_task(followed(client, job_id))
        await asyncio.sleep(0.2)
        await work(memory_api, OUTPUT)
        events = await following
        with pytest.raises(NotFound):
            await followed(client, UNKNOWN)
    assert [event.name for event in events][-2:] == ["output", "status"]
    assert events[-1].data["status"] == "completed"


async def test_a_stream_that_ends_is_continued(clock: ManualClock, open_client: OpenClient) -> None:
    """Events go on over connections that end, and none is repeated."""
    config = ApiConfig(api_key=KEY, max_stream_s=0.1)
    async with running_api(MemoryObjectStore(clock), clock, config) as api:
        job_id = (await submit(api))["job_id"]
        async with open_client(str(api.client.base_url), KEY) as client:
            following = asyncio.create_task(followed(client, job_id))
            await asyncio.sleep(1.5)
            await work(api, OUTPUT)
            events = await following
    names = [event.data.get("status", event.name) for event in events]
    # On a busy machine streams may begin between the claim and the end, and each has the progress of that moment.
    assert [name for name in names if name not in ("running", "progress")] == ["queued", "output", "completed"]
    assert names.count("running") <= 1


@pytest.mark.parametrize(
    "data", ["", "data: null\n", "data: [1]\n", f"data: {'[' * 30_000}{']' * 30_000}\n", f"data: {'9' * 5_000}\n"]
)
async def test_an_event_without_an_object_is_a_client_error(open_client: OpenClient, data: str) -> None:
    """An event whose data are missing, or are no JSON object, raises a `ClientError`."""
    with scripted_http(Answer(200, f"event: status\n{data}\n".encode())) as server:
        async with open_client(server.url) as client:
            with pytest.raises(ClientError, match="is no event"):
                await followed(client, UNKNOWN)


async def test_a_job_is_retried(memory_api: Api, open_client: OpenClient) -> None:
    """A job that has ended is submitted again; one that has not is refused."""
    old = (await submit(memory_api))["job_id"]
    async with open_client(str(memory_api.client.base_url), KEY) as client:
        with pytest.raises(Conflict):
            await client.retry(old)
        await work(memory_api)
        new = await client.retry(old)
        assert (await client.job(new["job_id"]))["retry_of"] == old


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color"}, None),
        ({}, None),
    ],
)
def test_pictures_are_shown_where_a_terminal_can(environment: dict[str, str], protocol: str | None) -> None:
    """Only terminals that are known to show pictures are sent any."""
    assert picture_protocol(environment) == protocol


def test_a_picture_is_sent_in_the_form_of_the_terminal() -> None:
    """iTerm2 gets the JPEG, and kitty a PNG in pieces of at most 4096 characters."""
    file = io.BytesIO()
    Image.effect_noise((128, 128), 90).save(file, "JPEG")
    text = base64.b64encode(file.getvalue()).decode()
    assert picture("iterm2", text).endswith(f":{text}\x07\n")
    pieces = [piece.partition(";")[2] for piece in picture("kitty", text).split("\x1b\\")[:-1]]
    assert max(map(len, pieces)) <= 4096
    shown = Image.open(io.BytesIO(base64.b64decode("".join(pieces))))
    assert (shown.format, shown.size) == ("PNG", (128, 128))
