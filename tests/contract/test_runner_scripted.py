"""The job runner in critical orders and with failures at critical moments, in steps that the test controls."""

import asyncio
import json
import re
import struct
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from storage.clock import SystemClock
from storage.jobs.models import InputFile
from storage.jobs.record import Status
from tests.support.scripted_comfy import Answer, Play, serving
from tests.support.stage import BrokenFiles, ForgetfulFiles, MoodyStore, Stage, paint, painted, painting, stage
from tests.support.waiting import until
from tests.support.workbench import quick_policy
from workers.comfy.engine import FileRef
from workers.comfy.files import FolderFiles
from workers.outputs.uploads import UploadPolicy

pytestmark = pytest.mark.anyio


async def test_an_output_is_listed_while_a_later_node_runs(tmp_path: Path) -> None:
    """An output is listed before a later node ends, although that node sends no further message."""
    listed = asyncio.Event()

    async def script(play: Play) -> None:
        outputs = await paint(play, tmp_path)
        await play.say("executing", node="2", display_node="2")
        await listed.wait()
        await play.succeed(outputs)

    async with stage(tmp_path, script) as on:
        claimed = await on.claimed()
        running = asyncio.create_task(on.run(claimed))
        seen = await on.until(claimed.record.job_id, lambda record: bool(record.outputs))
        await on.objects.head(seen.outputs[0].key)
        listed.set()
        ended = (await running).stored.record
    assert (seen.status, seen.progress_details.current_node) == (Status.RUNNING, "2")
    assert (ended.status, ended.outputs) == (Status.COMPLETED, seen.outputs)


async def test_pictures_from_the_socket_are_outputs_of_their_node(tmp_path: Path) -> None:
    """Pictures of SaveImageWebsocket are outputs, while pictures of other nodes are only previews."""

    def frame(node_id: str, body: bytes) -> bytes:
        metadata = json.dumps({"node_id": node_id, "image_type": "image/png"}).encode()
        return struct.pack(">II", 4, len(metadata)) + metadata + body

    async def script(play: Play) -> None:
        await play.say("execution_start")
        for node, body in (("1", b"preview"), ("2", b"one"), ("2", b"two")):
            await play.say_raw(frame(node, body))
        await play.succeed({})

    async with stage(tmp_path, script) as on:
        record = (await on.run(await on.claimed())).stored.record
        bodies = [(await on.objects.get(output.key)).body for output in record.outputs]
    assert [output.filename for output in record.outputs] == ["websocket_2_0001.png", "websocket_2_0002.png"]
    assert bodies == [b"one", b"two"]


async def test_values_wait_on_disk_for_a_slow_bucket(tmp_path: Path) -> None:
    """Pictures and texts that come in messages are in files while the bucket takes no upload, however many."""
    picture, text, number = b"picture" * 1000, "text", 2 * UploadPolicy().parallel

    async def script(play: Play) -> None:
        await play.say("execution_start")
        await play.say("executing", node="2", display_node="2")
        for _ in range(number):
            await play.say_raw(struct.pack(">II", 1, 2) + picture)
        await play.say("executed", node="1", display_node="1", output={"text": [text] * number})
        await play.succeed({"1": {"text": [text] * number}})

    async with stage(tmp_path, script) as on:
        on.objects.held["upload_file"] = asyncio.Event()
        running = asyncio.create_task(on.run(await on.claimed()))

        def written() -> list[bytes]:
            return [path.read_bytes() for path in tmp_path.rglob("inline-*")]

        await until(lambda: len(written()) == 2 * number and all(written()))
        assert sorted(written()) == sorted([picture, text.encode()] * number)
        on.objects.held["upload_file"].set()
        record = (await running).stored.record
    assert (record.status, len(record.outputs)) == (Status.COMPLETED, 2 * number)
    assert not list(tmp_path.rglob("inline-*"))


@pytest.mark.parametrize("operation", ["upload_file", "conclude"])
async def test_a_temporary_bucket_failure_fails_no_job(tmp_path: Path, operation: str) -> None:
    """A job completes although the bucket fails temporarily at an output's upload or at the job's end."""
    async with stage(tmp_path, painting(tmp_path)) as on:
        claimed = await on.claimed()
        on.objects.failures[operation] = 3
        ended = (await on.run(claimed)).stored.record
    assert (ended.status, len(ended.outputs), on.objects.failures[operation]) == (Status.COMPLETED, 1, 0)


async def test_a_worker_that_is_stopped_at_a_jobs_end_still_commits_it(tmp_path: Path) -> None:
    """A worker that is stopped while it commits a job's end completes the commit."""
    async with stage(tmp_path, painting(tmp_path)) as on:
        claimed = await on.claimed()
        on.objects.held["conclude"] = asyncio.Event()
        running = asyncio.create_task(on.run(claimed))
        await on.objects.entered.wait()
        running.cancel()
        await asyncio.sleep(0)
        on.objects.held["conclude"].set()
        await asyncio.gather(running, return_exceptions=True)
        ended = await on.record(claimed.record.job_id)
    assert ended.status is Status.COMPLETED


async def test_a_cancelled_job_does_not_wait_for_its_input_files(tmp_path: Path) -> None:
    """A job that is cancelled during the download of its input files submits nothing."""
    async with stage(tmp_path, painting(tmp_path)) as on:
        await on.objects.put("media/a.png", b"a")
        medium = InputFile(name="a.png", key="media/a.png", size_bytes=1, content_type="image/png")
        claimed = await on.claimed(input_files=(medium,))
        on.objects.held["download_file"] = asyncio.Event()
        running = asyncio.create_task(on.run(claimed))
        await on.objects.entered.wait()
        now = SystemClock().now()
        await on.jobs.evolve("default", claimed.record.job_id, lambda record: record.cancel(now=now))
        result = await running
    assert (result.stored.record.error, result.engine_suspect) == ("Cancelled by user", False)
    assert on.comfy.state.posts == []


async def test_a_cancelled_job_does_not_wait_for_look_ups_of_files(tmp_path: Path) -> None:
    """A cancel request ends a job whose engine does not say which of a node's strings name files."""
    asked = asyncio.Event()

    class SilentFiles(FolderFiles):
        async def find(self, names: Sequence[str]) -> dict[str, FileRef]:
            asked.set()
            await asyncio.Event().wait()
            return {}

    async def script(play: Play) -> None:
        await play.say("executed", node="1", display_node="1", output={"result": ["3d/a.glb"]})
        await play.say("executing", node="2", display_node="2")
        await until(lambda: bool(play.state.interrupts))
        await play.say("execution_interrupted", node_id="2", node_type="Paint", executed=[])
        await play.succeed({"1": {"result": ["3d/a.glb"]}})

    async with stage(tmp_path, script, SilentFiles) as on:
        on.policy = replace(on.policy, last_uploads_s=0.05)
        claimed = await on.claimed()
        running = asyncio.create_task(on.run(claimed))
        await asked.wait()
        now = SystemClock().now()
        await on.jobs.evolve("default", claimed.record.job_id, lambda record: record.cancel(now=now))
        record = (await running).stored.record
    assert record.error == "Cancelled by user"


async def test_an_engine_that_is_lost_with_its_files_fails_the_job(tmp_path: Path) -> None:
    """A job whose engine is lost fails, and the engine is marked for a restart."""
    async with stage(tmp_path, painting(tmp_path), ForgetfulFiles) as on:
        result = await on.run(await on.claimed())
    detail = result.stored.record.error_detail
    assert detail is not None
    assert (detail.code, result.engine_suspect) == ("engine_unavailable", True)


async def test_a_missing_output_fails_the_job_and_keeps_the_others(tmp_path: Path) -> None:
    """A job with an output file that a node never wrote fails, and its other outputs are kept."""
    missing = {"images": [{"filename": "no.png", "subfolder": "", "type": "output"}]}

    async def script(play: Play) -> None:
        outputs = await paint(play, tmp_path)
        await play.say("executed", node="2", display_node="2", output=missing)
        await play.succeed({**outputs, "2": missing})

    async with stage(tmp_path, script) as on:
        ended = (await on.run(await on.claimed())).stored.record
    assert ended.error_detail is not None
    assert (ended.status, ended.error_detail.code) == (Status.FAILED, "output_failed")
    assert [output.node_id for output in ended.outputs] == ["1"]


class ObservedClasses(set[str]):
    """The classes that a prompt's graph is searched for, with the threads that did so."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[threading.Thread] = set()

    def __contains__(self, name: object) -> bool:
        self.threads.add(threading.current_thread())
        return super().__contains__(name)


async def test_a_prompt_is_derived_in_a_thread(tmp_path: Path) -> None:
    """The worker renews the leases of its other jobs while it searches the texts of a large graph."""

    async def script(play: Play) -> None:
        await play.succeed(await paint(play, tmp_path))

    showing = ObservedClasses()
    async with stage(tmp_path, script) as on:
        on.showing = showing
        await on.run(await on.claimed())
    assert showing.threads
    assert threading.main_thread() not in showing.threads


LONG = "x" * 1_000_000


@pytest.mark.parametrize("fails", [False, True])
async def test_a_record_stays_small_despite_long_messages(tmp_path: Path, fails: bool) -> None:
    """Ids, classes and types of a megabyte in messages of a node's code, and results of such nodes, are shortened."""

    async def script(play: Play) -> None:
        outputs = await paint(play, tmp_path)
        for kind in ("executing", "progress"):
            await play.say(kind, node=LONG, display_node=LONG, value=1, max=2)
        await play.say("execution_cached", nodes=[LONG])
        await play.say("progress_state", nodes={LONG: {"state": LONG}})
        for node in (f"{LONG}{number}" for number in range(3)):
            await play.say("executed", node=node, display_node=node, output={"text": ["a"]})
            outputs[node] = {"text": ["a"]}
        await play.say("executed", node="2", display_node=LONG, output={"text": ["a"]})
        if not fails:
            await play.succeed(outputs)
            return
        error = {"node_id": "1", "node_type": LONG, "exception_type": LONG, "exception_message": LONG}
        await play.say("execution_error", **error)
        play.record(outputs, "error", [["execution_error", {"prompt_id": play.prompt_id, **error}]])

    async with stage(tmp_path, script) as on:
        bad = {"class_type": LONG, LONG: LONG, "errors": [{"type": LONG}], "dependent_outputs": [LONG]}
        answer = {"prompt_id": "p", "number": 1, "node_errors": {LONG: bad, "3": bad}}
        on.comfy.state.answers.append(Answer(200, answer, accept=True))
        ended = (await on.run(await on.claimed())).stored.record
    assert ended.status is (Status.FAILED if fails else Status.COMPLETED)
    assert len(ended.model_dump_json()) < 50_000


async def test_invalid_unicode_from_a_node_does_not_break_the_record(tmp_path: Path) -> None:
    """A record is written although a node's error and output contain half of a surrogate pair."""
    error = {
        "node_id": "1",
        "node_type": "Paint",
        "exception_type": "Odd\ud800Error",
        "exception_message": "caf\udce9.png is not there",
    }

    async def script(play: Play) -> None:
        messages = [["execution_error", {"prompt_id": play.prompt_id, **error}]]
        ui = {"text": ["a\ud800"], "\ud800": [1]}
        play.record({"1": ui}, status="error", messages=messages)
        await play.say("executing", node=None)

    async with stage(tmp_path, script) as on:
        ended = (await on.run(await on.claimed())).stored.record
    assert (ended.status, ended.error) == (Status.FAILED, "caf\ufffd.png is not there")
    assert [output.filename for output in ended.outputs] == ["text_output_1.txt", "ui_output_1_\ufffd.json"]


async def test_an_engine_fault_is_retried_while_attempts_are_left(tmp_path: Path) -> None:
    """A job with an engine fault is queued again with the fault's details, and its last attempt fails."""
    async with stage(tmp_path, painting(tmp_path), ForgetfulFiles) as on:
        on.policy = quick_policy(interval_s=0.02, max_attempts=2)
        first = (await on.run(await on.claimed())).stored.record
        assert (first.status, first.outputs, first.lease) == (Status.QUEUED, (), None)
        assert first.last_fault is not None
        assert (first.last_fault.code, first.last_fault.attempt, first.last_fault.retryable) == (
            "engine_unavailable",
            1,
            True,
        )
        again = await on.queue.claim("default", "w2")
        assert again is not None
        last = (await on.run(again)).stored.record
    assert last.error_detail is not None
    assert (last.status, last.error_detail.code, last.error_detail.attempt) == (Status.FAILED, "engine_unavailable", 2)


async def test_a_nodes_own_error_is_never_retried(tmp_path: Path) -> None:
    """An error of a node, which would occur again, fails the job at its first attempt."""

    async def script(play: Play) -> None:
        error = {"node_id": "1", "node_type": "Paint", "exception_type": "ValueError", "exception_message": "no"}
        play.record({}, status="error", messages=[["execution_error", {"prompt_id": play.prompt_id, **error}]])
        await play.say("executing", node=None)

    async with stage(tmp_path, script) as on:
        on.policy = quick_policy(interval_s=0.02, max_attempts=3)
        ended = (await on.run(await on.claimed())).stored.record
    assert ended.error_detail is not None
    assert (ended.status, ended.attempt, ended.error_detail.retryable) == (Status.FAILED, 1, False)


async def test_a_cancelled_job_is_not_retried(tmp_path: Path) -> None:
    """A job that is cancelled when its engine fails is not retried."""
    async with stage(tmp_path, painting(tmp_path), ForgetfulFiles) as on:
        on.policy = quick_policy(interval_s=5, max_attempts=3)
        claimed = await on.claimed()
        now = SystemClock().now()
        await on.jobs.evolve("default", claimed.record.job_id, lambda record: record.cancel(now=now))
        ended = (await on.run(claimed)).stored.record
    assert (ended.status, ended.error) == (Status.FAILED, "Cancelled by user")


async def test_a_defect_fails_the_job_and_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A defect's message is logged but not shown to the client, because it may contain anything."""
    async with stage(tmp_path, painting(tmp_path), BrokenFiles) as on:
        ended = (await on.run(await on.claimed())).stored.record
    assert (ended.status, ended.error) == (Status.FAILED, "internal error; the worker's log has the details")
    assert "LookupError: a defect" in caplog.text


async def test_a_defect_at_the_end_fails_the_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A job fails if its completed record cannot be written because of a defect, and the worker goes on."""

    class Unwritable(MoodyStore):
        async def replace(self, key: str, body: bytes, *, etag: str, content_type: str = "application/json") -> str:
            if b'"status":"completed"' in body:
                raise OverflowError("a defect")
            return await super().replace(key, body, etag=etag, content_type=content_type)

    async with serving(painting(tmp_path)) as comfy:
        on = Stage(tmp_path, comfy, objects=Unwritable())
        ended = (await on.run(await on.claimed())).stored.record
    assert ended.error_detail is not None
    assert (ended.status, ended.error_detail.code) == (Status.FAILED, "internal_error")
    assert ended.error == "internal error; the worker's log has the details"
    assert "OverflowError: a defect" in caplog.text


async def test_odd_progress_messages_do_not_break_the_record(tmp_path: Path) -> None:
    """A job whose node reports half of a surrogate pair as its id and a progress of -1e308 fails by its own error."""
    error = {"node_id": "1", "node_type": "Paint", "exception_type": "ValueError", "exception_message": "no"}

    async def script(play: Play) -> None:
        await play.say("executing", node="\ud800", display_node="\ud800")
        await play.say("progress", node="1", value=-1e308, max=5)
        play.record({}, status="error", messages=[["execution_error", {"prompt_id": play.prompt_id, **error}]])
        await play.say("executing", node=None)

    async with stage(tmp_path, script) as on:
        ended = (await on.run(await on.claimed())).stored.record
    assert (ended.status, ended.error, ended.progress) == (Status.FAILED, "no", 0)
    assert (ended.progress_details.current_node, ended.progress_details.step) == ("\ufffd", "0/5")


async def test_a_missing_input_file_fails_the_job(tmp_path: Path) -> None:
    """A job whose input file no longer exists fails without being submitted."""
    gone = InputFile(name="a.png", key="media/a.png", size_bytes=1, content_type="image/png")
    async with stage(tmp_path, painting(tmp_path)) as on:
        ended = (await on.run(await on.claimed(input_files=(gone,)))).stored.record
    assert (ended.status, ended.error) == (Status.FAILED, "the bytes of a.png are no longer in the bucket")
    assert on.comfy.state.posts == []


async def test_a_missing_partner_key_fails_the_job(tmp_path: Path) -> None:
    """A job whose partner key no longer exists fails without being submitted."""
    async with stage(tmp_path, painting(tmp_path)) as on:
        ended = (await on.run(await on.claimed(has_partner_key=True))).stored.record
    assert (ended.status, ended.error) == (Status.FAILED, "the partner key is no longer there")
    assert on.comfy.state.posts == []


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (UploadPolicy(max_outputs=1), "more than 1 outputs"),
        (UploadPolicy(max_output_bytes=4), "'a.txt' has 5 bytes, at most 4 are allowed"),
    ],
)
async def test_outputs_above_a_limit_fail_the_job(tmp_path: Path, limit: UploadPolicy, message: str) -> None:
    """A job whose outputs exceed a limit fails, and outputs stored before are kept."""

    async def script(play: Play) -> None:
        outputs = await paint(play, tmp_path)
        await play.succeed({**outputs, "2": painted(tmp_path, "b.txt")})

    async with stage(tmp_path, script) as on:
        on.policy = replace(on.policy, uploads=limit)
        ended = (await on.run(await on.claimed())).stored.record
    assert ended.error_detail is not None
    assert (ended.status, ended.error_detail.code, ended.error) == (Status.FAILED, "output_failed", message)
    assert len(ended.outputs) < 2


@pytest.mark.parametrize("is_reported", [True, False], ids=["while it runs", "at its end"])
async def test_a_job_whose_record_would_be_too_large_fails(tmp_path: Path, is_reported: bool) -> None:
    """A job whose outputs would make its record too large fails with an error that says so."""

    async def script(play: Play) -> None:
        outputs = {str(number): painted(tmp_path, f"{number}.txt") for number in range(40)}
        for node, ui in outputs.items():
            await play.say("executed", node=node, display_node=node, output=ui)
        await (play.until_interrupted() if is_reported else play.succeed(outputs))

    async with stage(tmp_path, script) as on:
        report = replace(on.policy.report, max_record_bytes=6_000, interval_s=0.02 if is_reported else 60)
        on.policy = replace(on.policy, report=report)
        ended = (await on.run(await on.claimed())).stored.record
    assert ended.error_detail is not None
    assert (ended.status, ended.error_detail.code) == (Status.FAILED, "output_failed")
    assert re.match(r"the job's record, .* would have \d+ bytes, at most 6000 are allowed", ended.error or "")
    assert len(ended.model_dump_json()) < 8_000


async def test_the_record_contains_a_limited_amount_of_text(tmp_path: Path) -> None:
    """The record contains a limited amount of output text, and the output files contain all of it."""

    async def script(play: Play) -> None:
        outputs = {"2": {"text": ["aaaa", "bbbb", "c", "dddddddd"]}}
        await play.say("executed", node="2", display_node="2", output=outputs["2"])
        await play.succeed(outputs)

    async with stage(tmp_path, script) as on:
        on.policy = replace(on.policy, uploads=UploadPolicy(inline_text_bytes=7, all_inline_text_bytes=6))
        ended = (await on.run(await on.claimed())).stored.record
    assert [(output.text, output.size_bytes) for output in ended.outputs] == [
        ("aaaa", 4),
        (None, 4),
        ("c", 1),
        (None, 8),
    ]


async def test_a_node_that_names_a_file_runs_for_each_job(tmp_path: Path) -> None:
    """A node that is no output but names a file is not taken from the cache, as that file was removed with its job."""
    graph = {"1": {"class_type": "Painter", "inputs": {}}, "2": {"class_type": "Save", "inputs": {"image": ["1", 0]}}}
    async with stage(tmp_path, painting(tmp_path)) as on:
        for _ in range(2):
            ended = await on.run(await on.claimed(graph=graph))
            assert ended.stored.record.status is Status.COMPLETED
    first, second = (post["prompt"] for post in on.comfy.state.posts)
    assert "_job" not in first["1"]["inputs"]
    assert second["1"]["inputs"]["_job"] == second["2"]["inputs"]["_job"] != first["2"]["inputs"]["_job"]


async def test_a_running_job_ends_at_its_deadline(tmp_path: Path) -> None:
    """A job that still runs at its deadline fails with its own code and keeps the outputs that it has."""

    async def script(play: Play) -> None:
        await paint(play, tmp_path)
        await play.say("executing", node="2", display_node="2")
        await asyncio.Event().wait()

    async with stage(tmp_path, script) as on:
        record = (await on.run(await on.claimed(deadline_s=3))).stored.record
    assert (record.status, record.error_code) == (Status.FAILED, "deadline_exceeded")
    assert record.error == "it had not ended within its deadline_s of 3 s"
