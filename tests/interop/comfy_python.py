"""Everything that `comfy-sdk`, Comfy Cloud's client for Python, does with an API: run by `tests.interop.comfy`.

It prints `cut` where the proxy behind COMFY_CUT_URL shall break its connections.
"""

import asyncio
import os
import struct
import sys
import threading
import time
import urllib.request
import uuid
import zlib
from collections.abc import Callable
from typing import Any

from comfy_low.transport import ComfyLow
from comfy_sdk import AsyncComfy, Comfy, OutputReady, Preview, Progress, StatusChange
from comfy_sdk.exceptions import (
    ComfyError,
    IdempotencyKeyReuse,
    InvalidWorkflow,
    MissingAsset,
    NotFound,
    Unauthorized,
    WorkflowFormatUi,
)

URL, KEY = os.environ["COMFY_BASE_URL"], os.environ["COMFY_API_KEY"]
MOST_QUEUED = int(os.environ["COMFY_MOST_QUEUED"])
NAME = "photo.png"
JPEG = b"\xff\xd8\xff"


def png(width: int, height: int, colour: bytes) -> bytes:
    """Return a picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + colour * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def edit(image: Any) -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "edited"}},
    }


def slow(steps: int, seconds: float) -> dict[str, Any]:
    """Return a graph that reports steps and previews as a sampler does."""
    inputs = {"image": ["1", 0], "steps": steps, "seconds_per_step": seconds, "preview": True}
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
        "2": {"class_type": "LiteSlowSteps", "inputs": inputs},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "slow"}},
    }


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def error_of(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("not refused")


def check_refused(call: Callable[[], object], kind: type[ComfyError], code: str) -> None:
    error = error_of(call)
    assert type(error) is kind, repr(error)
    assert isinstance(error, ComfyError)
    assert error.code == code, error.code
    # The SDK refuses the editor's format before it sends anything.
    assert error.request_id or kind is WorkflowFormatUi, "the answer names no request"


def assets_are_sent_once(client: Comfy) -> None:
    content = png(96, 64, os.urandom(3))
    first = client.assets.from_bytes(content, filename=NAME)
    asset_id = first.commit()
    assert first.created_new is True
    again = client.assets.from_bytes(content, filename=NAME)
    assert again.commit() == asset_id
    assert again.created_new is False
    renamed = client.assets.from_bytes(content, filename="other.png")
    assert renamed.commit() != asset_id
    assert client.assets.get(asset_id).hash == first.hash
    client.assets.delete(asset_id)
    check_refused(lambda: client.assets.get(asset_id), NotFound, "not_found")


def jobs_by_name_and_handle(client: Comfy) -> None:
    asset = client.assets.from_bytes(png(96, 64, b"red"), filename=NAME)
    asset.commit()
    for image in (NAME, asset):
        workflow = client.workflows.from_json(edit(NAME))
        workflow.set_input("1", "image", image)
        job = client.run(workflow).wait(timeout=120)
        assert job.status == "succeeded", job.error
        (output,) = job.get_outputs("3")
        content = output.to_bytes()
        assert struct.unpack(">II", content[16:24]) == (96, 64)
        assert output.to_bytes(range=(0, 7)) == content[:8]
        with urllib.request.urlopen(output.get_download_url().url, timeout=30) as answer:  # noqa: S310  of our own API
            assert answer.read() == content
        assert job.get_workflow().format == "api"
    # An output is an asset: the next job takes it without a download.
    following = client.workflows.from_json(edit(""))
    following.set_input("1", "image", client.assets.get(output.id))
    assert client.run(following).wait(timeout=120).status == "succeeded"


def events_come_in_order(client: Comfy) -> None:
    job = client.submit(client.workflows.from_json(slow(12, 0.25)))
    seen = list(job.events())
    last = seen[-1]
    assert isinstance(last, StatusChange)
    assert last.status == "succeeded"
    assert any(isinstance(event, OutputReady) for event in seen[:-1]), seen
    previews = [event for event in seen if isinstance(event, Preview)]
    assert previews, "no preview"
    assert all(event.data.startswith(JPEG) for event in previews)
    values = [event.value for event in seen if isinstance(event, Progress)]
    assert values, "no progress"
    assert values == sorted(values)
    late = list(job.events())
    assert isinstance(late[-1], StatusChange)
    assert [type(event) for event in late].index(OutputReady) < len(late) - 1


def a_stream_that_is_cut_goes_on() -> None:
    os.environ["COMFY_BASE_URL"] = os.environ["COMFY_CUT_URL"]
    try:
        with Comfy() as client:
            job = client.submit(client.workflows.from_json(slow(16, 0.25)))
            seen = []
            for event in job.events():
                seen.append(event)
                if sum(isinstance(one, Progress) for one in seen) == 2 and isinstance(event, Progress):
                    say("cut")
            assert isinstance(seen[-1], StatusChange)
            assert seen[-1].status == "succeeded"
            assert any(isinstance(event, OutputReady) for event in seen)
    finally:
        os.environ["COMFY_BASE_URL"] = URL


def jobs_are_cancelled_and_listed(client: Comfy) -> None:
    labels = {"run": uuid.uuid4().hex, "kind": "slow"}
    job = client.submit(client.workflows.from_json(slow(200, 0.1)), metadata=labels)
    assert job.metadata == labels
    assert [summary.id for summary in client.list_jobs(metadata=labels)] == [job.id]
    assert client.jobs.get(job.id).cancel().status in ("canceling", "canceled")
    assert job.wait(timeout=60).status == "canceled"
    (summary,) = client.list_jobs(metadata={"run": labels["run"]})
    assert (summary.status, summary.metadata) == ("canceled", labels)


def a_full_queue_is_waited_for(client: Comfy) -> None:
    workflow = client.workflows.from_json(slow(200, 0.1))
    running = client.submit(workflow)
    while running.refresh().status == "queued":
        time.sleep(0.1)
    waiting = [client.submit(workflow) for _ in range(MOST_QUEUED)]
    with ComfyLow(URL, KEY) as low:
        full: Any = error_of(lambda: low.post_jobs(slow(1, 0.1), idempotency_key=uuid.uuid4().hex))
        assert (full.code, full.retry_after) == ("queue_full", 5)
    # The SDK repeats the request with the same key until there is room.
    threading.Timer(1, waiting[0].cancel).start()
    waiting.append(client.submit(workflow))
    for job in (*waiting, running):
        job.cancel()
    for job in (*waiting, running):
        assert job.wait(timeout=60).status == "canceled"


def refusals_have_their_classes(client: Comfy) -> None:
    def submit(graph: dict[str, Any], **options: Any) -> Callable[[], object]:
        return lambda: client.submit(client.workflows.from_json(graph), **options)

    good, key, four = slow(1, 0.1), uuid.uuid4().hex, {str(number): "x" for number in range(4)}
    submit(good, idempotency_key=key)()
    unknown = {"__type": "core/ASSET", "info": {"id": str(uuid.uuid4())}}
    for call, kind, code in (
        (submit({"1": {"class_type": "NoSuchNode", "inputs": {}}}), InvalidWorkflow, "invalid_workflow"),
        (submit({"nodes": [], "links": []}), WorkflowFormatUi, "workflow_format_ui"),
        (submit(edit(unknown)), MissingAsset, "missing_asset"),
        (submit(good, metadata={"ä": "x"}), ComfyError, "metadata_invalid"),
        (submit(good, idempotency_key=key), IdempotencyKeyReuse, "idempotency_key_reuse"),
        (lambda: client.jobs.get(str(uuid.uuid4())), NotFound, "not_found"),
        (lambda: list(client.list_jobs(metadata=four)), ComfyError, "invalid_metadata_filter"),
        (lambda: Comfy(api_key="wrong").jobs.get(str(uuid.uuid4())), Unauthorized, "unauthorized"),
    ):
        check_refused(call, kind, code)


async def the_asynchronous_client_works() -> None:
    async with AsyncComfy() as client:
        workflow = client.workflows.from_json(edit(""))
        workflow.set_input("1", "image", client.assets.from_bytes(png(32, 32, b"tan"), filename="async.png"))
        job = await (await client.run(workflow)).wait(timeout=120)
        assert len(await job.outputs[0].to_bytes()) > 0


def main() -> None:
    with Comfy() as client:
        for step in (
            assets_are_sent_once,
            jobs_by_name_and_handle,
            events_come_in_order,
            jobs_are_cancelled_and_listed,
            a_full_queue_is_waited_for,
            refusals_have_their_classes,
        ):
            step(client)
            say(f"comfy-sdk: {step.__name__.replace('_', ' ')}")
    a_stream_that_is_cut_goes_on()
    say("comfy-sdk: a stream that is cut goes on")
    asyncio.run(the_asynchronous_client_works())
    say("comfy-sdk: the asynchronous client works")


main()
