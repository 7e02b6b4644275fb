"""Claimed jobs on a real engine process: the execution of their graphs, and their results in the bucket."""

import asyncio
import hashlib
import io
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from storage import keys
from storage.bucket.memory import MemoryObjectStore
from storage.bucket.objects import ObjectStore
from storage.bucket.s3 import S3ObjectStore
from storage.clock import ManualClock, SystemClock
from storage.jobs.models import Input
from storage.jobs.record import Status
from storage.pools.engine_info import EngineInfo
from tests.support.graphs import EMPTY, example, node, saved, slow
from tests.support.workbench import Bench, quick_policy, workbench
from workers.attempt import AttemptPolicy
from workers.reporter import ReportPolicy
from workflows.policy import GraphTrust

pytestmark = pytest.mark.anyio


def png(size: tuple[int, int] = (64, 48)) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """One worker for the whole file, so each test also shows that the worker survived the previous job."""
    async with workbench(tmp_path_factory.mktemp("engine")) as bench:
        yield bench


async def test_a_graph_transforms_its_picture(bench: Bench) -> None:
    """LoadImage → ImageScale → ImageInvert → SaveImage transform a staged picture as requested."""
    picture = png()
    record = await bench.run(
        example("still"),
        input_files=(await bench.input_file("photo.png", picture),),
        inputs=(Input(node="2", field="width", value=32),),
    )
    assert (record.status, record.progress, record.error) == (Status.COMPLETED, 100, None)
    assert (record.progress_details.nodes_completed, record.progress_details.nodes_total) == (4, 4)
    (output,) = record.outputs
    assert (output.filename, output.type, output.content_type) == ("still_00001_.png", "image", "image/png")
    assert (output.width, output.height, output.frames) == (32, 24, 1)
    body = (await bench.objects.get(output.key)).body
    assert (output.size_bytes, output.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    got = np.asarray(Image.open(io.BytesIO(body)), dtype=np.int16)
    source = np.asarray(Image.open(io.BytesIO(picture)), dtype=np.int16)
    expected = 255 - (source[0::2, 0::2] + source[1::2, 0::2] + source[0::2, 1::2] + source[1::2, 1::2]) / 4
    assert np.abs(got - expected).max() <= 1.5


@pytest.mark.parametrize(
    "hostile",
    [
        {"1": node("LoadImage", image=["3", 0]), "3": node("PrimitiveString", value="../x.png")},
        {"1": node("LoadImage", image='"../secret.png" [input]')},
    ],
)
async def test_a_worker_checks_graphs_against_its_engine(bench: Bench, hostile: dict[str, Any]) -> None:
    """A worker refuses a graph that was accepted when no engine's nodes were known."""
    record = await bench.run(hostile | {"2": saved()}, graphs="strangers")
    assert (record.status, record.error_detail and record.error_detail.code) == (Status.FAILED, "prompt_refused")
    assert record.error is not None
    assert "image of node 1" in record.error


async def test_a_node_gets_undeclared_inputs_as_in_comfyui(bench: Bench) -> None:
    """A node gets every link, literals if it has open inputs, and no cache marker, and runs again for the next job."""
    graph = {
        "1": node("PrimitiveString", value="glow"),
        "2": node("LiteOpenInputs", trigger_words=["1", 0], words="neon", rows={"__value__": []}),
        "3": node("PrimitiveString", value="x") | {"inputs": {"value": "x", "undeclared_literal": "y"}},
        "4": node("PreviewAny", source=["3", 0]),
    }
    for _ in range(2):
        record = await bench.run(graph, graphs="own")
        assert record.status is Status.COMPLETED, record.error
        texts = {output.node_id: output.text for output in record.outputs}
        assert json.loads(texts["2"] or "") == {"trigger_words": "glow", "words": "neon", "rows": {"__value__": []}}


async def test_an_undeclared_link_may_fail_its_node(bench: Bench) -> None:
    """An undeclared link is passed to the node, whose function fails if it does not accept it."""
    stray = {**EMPTY, "inputs": {**EMPTY["inputs"], "stray": ["4", 0]}}
    record = await bench.run({"1": stray, "2": saved(), "4": node("PrimitiveString", value="x")}, graphs="own")
    assert record.error_detail is not None
    assert (record.error_detail.code, record.error_detail.node_id) == ("node_error", "1")
    assert "unexpected keyword argument 'stray'" in record.error_detail.message


async def test_a_video_is_described(bench: Bench) -> None:
    """A video output has its size, duration and number of frames."""
    record = await bench.run(example("clip"), input_files=(await bench.input_file("photo.png", png((640, 428))),))
    (output,) = record.outputs
    assert (output.type, output.content_type, output.width, output.height) == ("video", "video/mp4", 320, 214)
    assert (output.frames, output.duration_s) == (24, 2.0)


async def test_every_kind_of_output_is_stored(bench: Bench) -> None:
    """Previews, animations, sounds, texts and unknown payloads are stored as outputs."""
    payload = {
        "gifs": [{"filename": "no.gif"}],
        "odd": [1, {"a": None}],
        "text": ["one", "two"],
        "flag": True,
        "weird": float("nan"),
    }
    graph = {
        "1": {**EMPTY, "inputs": {**EMPTY["inputs"], "batch_size": 3}},
        "2": node("PreviewImage", images=["1", 0]),
        "3": node(
            "SaveAnimatedWEBP",
            images=["12", 0],
            filename_prefix="anim",
            fps=6.0,
            lossless=True,
            quality=80,
            method="default",
        ),
        "4": node("SaveAnimatedPNG", images=["12", 0], filename_prefix="apng", fps=6.0, compress_level=4),
        "11": node("ImageInvert", image=["1", 0]),
        "12": node("ImageBatch", image1=["1", 0], image2=["11", 0]),
        "5": node("EmptyAudio", duration=0.5, sample_rate=44100, channels=2),
        "6": node("SaveAudio", audio=["5", 0], filename_prefix="flac"),
        "7": node("SaveAudioMP3", audio=["5", 0], filename_prefix="mp3", quality="V0"),
        "8": node("PrimitiveString", value="hello"),
        "9": node("PreviewAny", source=["8", 0]),
        "10": node("LiteEmit", ui=json.dumps({key: payload[key] for key in ("odd", "text", "flag", "weird")})),
    }
    record = await bench.run(graph)
    assert record.status is Status.COMPLETED, record.error_detail
    found = {(output.node_id, output.filename): output for output in record.outputs}
    assert len([key for key in found if key[0] == "2"]) == 3
    animated = found["3", "anim_00001_.webp"]
    assert (animated.content_type, animated.frames) == ("image/webp", 2)  # encoders merge identical frames
    assert found["4", "apng_00001_.png"].type == "image"
    sound = found["6", "flac_00001.flac"]
    assert (sound.type, sound.content_type, sound.duration_s) == ("audio", "audio/x-flac", 0.5)
    assert found["7", "mp3_00001.mp3"].type == "audio"
    assert found["9", "text_output_9.txt"].text == "hello"
    assert (found["10", "text_output_10_1.txt"].text, found["10", "text_output_10_2.txt"].text) == ("one", "two")
    odd = found["10", "ui_output_10_odd.json"]
    assert (odd.type, odd.content_type) == ("text", "application/json")
    assert json.loads((await bench.objects.get(odd.key)).body) == [1, {"a": None}]
    assert json.loads((await bench.objects.get(found["10", "ui_output_10_weird.json"].key)).body) == [None]


async def test_pictures_from_the_socket_are_outputs(bench: Bench) -> None:
    """SaveImageWebsocket's pictures, which are in neither a file nor history, are outputs of each job."""
    graph = {
        "1": {**EMPTY, "inputs": {**EMPTY["inputs"], "batch_size": 2}},
        "2": node("SaveImageWebsocket", images=["1", 0]),
    }
    for record in (await bench.run(graph), await bench.run(graph)):
        assert [output.filename for output in record.outputs] == ["websocket_2_0001.png", "websocket_2_0002.png"]
        assert {(output.content_type, output.width, output.height) for output in record.outputs} == {
            ("image/png", 32, 16)
        }


async def test_a_second_identical_job_gets_its_own_files(bench: Bench) -> None:
    """The engine's cache never supplies an old file to a second identical job."""
    graph = {"1": EMPTY, "2": saved(), "3": node("PreviewImage", images=["1", 0])}
    first, second = await bench.run(graph), await bench.run(graph)
    assert len(second.outputs) == len(first.outputs) == 2
    for earlier, later in zip(first.outputs, second.outputs, strict=True):
        assert earlier.key != later.key
        await bench.objects.head(later.key)


async def test_identical_save_nodes_are_all_listed(bench: Bench) -> None:
    """Identical save nodes are all listed as outputs."""
    record = await bench.run({"1": EMPTY, "2": saved(), "3": saved()})
    assert {output.node_id for output in record.outputs} == {"2", "3"}


async def test_a_failed_node_is_named_and_earlier_outputs_are_kept(bench: Bench) -> None:
    """Outputs that were finished before a node's failure are kept, and the error names the node."""
    graph = {"1": EMPTY, "2": saved(), "3": node("LiteRaise", image=["1", 0], kind="runtime"), "4": saved("3")}
    record = await bench.run(graph)
    detail = record.error_detail
    assert record.status is Status.FAILED
    assert detail is not None
    assert (detail.code, detail.node_id, detail.class_type, detail.exception_type) == (
        "node_error",
        "3",
        "LiteRaise",
        "RuntimeError",
    )
    assert [output.node_id for output in record.outputs] == ["2"]
    assert (record.progress_details.current_node, record.progress_details.nodes_completed) == ("3", 2)


async def test_out_of_memory_has_its_own_code(bench: Bench) -> None:
    """A node that runs out of memory has its own error code, and the engine is replaced afterwards."""
    before = bench.host.pid
    record = await bench.run({"1": EMPTY, "2": node("LiteRaise", image=["1", 0], kind="oom"), "3": saved("2")})
    assert record.error_detail is not None
    assert record.error_detail.code == "out_of_memory"
    assert bench.host.pid != before
    assert (await bench.run({"1": EMPTY, "2": saved()})).status is Status.COMPLETED


async def test_a_refusal_by_the_engine_is_reported(bench: Bench) -> None:
    """A refused graph gives the engine's message and node_errors."""
    record = await bench.run({"1": {**EMPTY, "inputs": {**EMPTY["inputs"], "width": 99_999}}, "2": saved()})
    assert record.error_detail is not None
    assert record.error_detail.code == "prompt_refused"
    assert "bigger than max" in record.error_detail.message
    assert record.error_detail.node_errors is not None
    assert set(record.error_detail.node_errors) == {"1"}


async def test_a_crashed_engine_fails_the_job_and_is_replaced(bench: Bench) -> None:
    """A job whose node crashes the engine fails, and the next job runs on another engine."""
    record = await bench.run({"1": EMPTY, "2": node("LiteRaise", image=["1", 0], kind="crash"), "3": saved("2")})
    assert record.error_detail is not None
    assert record.error_detail.code == "engine_unavailable"
    assert (await bench.run({"1": EMPTY, "2": saved()})).status is Status.COMPLETED


async def test_a_missing_input_file_is_named(bench: Bench) -> None:
    """A job whose input file was removed from the bucket fails with the file's name."""
    medium = await bench.input_file("photo.png", png())
    await bench.objects.delete(medium.key)
    record = await bench.run(example("still"), input_files=(medium,))
    assert record.error_detail is not None
    assert (record.error_detail.code, "photo.png" in record.error_detail.message) == ("staging_failed", True)


async def test_a_job_without_outputs_completes(bench: Bench) -> None:
    """A job whose nodes show nothing completes without outputs."""
    record = await bench.run({"1": node("LiteEmit", ui="{}")})
    assert (record.status, record.outputs) == (Status.COMPLETED, ())


async def test_nothing_of_a_job_is_left_for_the_next(bench: Bench) -> None:
    """The engine's folders are emptied before each job, so that a job cannot use an earlier input file."""
    await bench.run(example("still"), input_files=(await bench.input_file("photo.png", png()),))
    record = await bench.run(example("still"))
    assert record.error_detail is not None
    assert record.error_detail.code == "prompt_refused"


async def test_the_inputs_of_the_job_are_set(bench: Bench) -> None:
    """The job's inputs are set in its graph."""
    record = await bench.run({"1": EMPTY, "2": saved(prefix="x")}, inputs=(Input(node="1", field="width", value=8),))
    assert [output.width for output in record.outputs] == [8]


async def test_inputs_outside_the_record_are_set(bench: Bench) -> None:
    """Long inputs, which are stored outside the record, are set in the graph."""
    graph = {"1": node("PrimitiveString", value="short"), "2": node("PreviewAny", source=["1", 0])}
    job_id, text = str(uuid.uuid4()), "long " * 50_000
    body = json.dumps([{"node": "1", "field": "value", "value": text}]).encode()
    await bench.objects.put(keys.values("default", job_id), body)
    record = await bench.run(graph, job_id=job_id, has_values=True)
    assert (record.status, record.outputs[0].size_bytes) == (Status.COMPLETED, len(text))


PARTLY_GOOD = {"1": EMPTY, "2": saved(), "8": node("ImageInvert"), "9": saved("8")}


async def test_valid_outputs_run_despite_invalid_ones(bench: Bench) -> None:
    """Valid outputs run as in ComfyUI; the record has the engine's errors for the others and counts only run nodes."""
    own: dict[str, Any] = {"class_type": None, "dependent_outputs": [], "errors": []}
    known = {"8": own | {"detail": "our own message", "hint": "link it"}, "2": own | {"detail": "it ran", "hint": ""}}
    record = await bench.run(PARTLY_GOOD, warnings=known)
    assert record.status is Status.COMPLETED
    assert [output.node_id for output in record.outputs] == ["2"]
    assert record.progress_details.nodes_total == 2
    (warning,) = record.warnings.values()
    assert (warning["class_type"], warning["dependent_outputs"]) == ("ImageInvert", ["9"])
    assert warning["errors"][0]["type"] == "required_input_missing"
    assert (warning["detail"], warning["hint"]) == ("our own message", "link it")


async def test_a_strict_job_is_refused_for_one_bad_output(bench: Bench) -> None:
    """A strict job with one bad output is refused and delivers nothing."""
    record = await bench.run(PARTLY_GOOD, is_strict=True)
    assert record.error_detail is not None
    assert (record.error_detail.code, record.error_detail.node_id) == ("prompt_refused", "8")
    assert record.outputs == ()


@pytest.mark.parametrize("graphs", ["own", "strangers"])
async def test_a_worker_applies_the_graph_trust_of_the_job(bench: Bench, graphs: GraphTrust) -> None:
    """A worker, which knows its engine, applies the graph trust with which the job was accepted."""
    record = await bench.run({"1": EMPTY, "2": saved() | {"override_display_id": "1"}}, graphs=graphs)
    if graphs == "own":
        assert record.status is Status.COMPLETED
    else:
        assert record.error_detail is not None
        assert (record.error_detail.code, record.error_detail.node_id) == ("prompt_refused", "2")


async def test_outputs_are_uploaded_while_later_nodes_run(bench: Bench) -> None:
    """The record of a running job lists outputs that are already in the bucket."""
    record = await bench.submit({"1": EMPTY, "2": saved(), "3": slow(30, 0.1), "4": saved("3")})
    running = asyncio.create_task(bench.serve_one())
    seen = await bench.until(record.job_id, lambda r: r.outputs)
    assert seen.status is Status.RUNNING
    assert [output.node_id for output in seen.outputs] == ["2"]
    await bench.objects.head(seen.outputs[0].key)
    await running
    ended = (await bench.jobs.read("default", record.job_id)).record
    assert [output.node_id for output in ended.outputs] == ["2", "4"]


async def test_a_long_graph_costs_at_most_one_write_per_second(tmp_path: Path) -> None:
    """A job of 200 nodes is written at its claim, at its end, and at most once a second in between."""
    objects = MemoryObjectStore(SystemClock())
    policy = AttemptPolicy(report=ReportPolicy(interval_s=1.0))
    graph = {"1": EMPTY, **{str(n): node("ImageInvert", image=[str(n - 1), 0]) for n in range(2, 200)}}
    graph["2"] = slow(20, 0.1)
    graph["200"] = saved("199")
    async with workbench(tmp_path, objects, policy) as bench:
        record = await bench.run(graph)
    assert record.status is Status.COMPLETED
    assert record.completed_at is not None
    assert record.started_at is not None
    seconds = (record.completed_at - record.started_at).total_seconds()
    progress_writes = record.rev - 2
    assert 1 <= progress_writes <= seconds + 1


async def test_a_worker_republishes_its_engine_information(tmp_path: Path) -> None:
    """A worker publishes its engine's information again before it expires, but not after every job."""
    clock = ManualClock(datetime(2026, 11, 23, tzinfo=UTC))
    async with workbench(tmp_path, clock=clock) as bench:
        published = []
        for minutes in (0, 10, 25, 10):
            clock.set(clock.now() + timedelta(minutes=minutes))
            await bench.serve_one()
            info = EngineInfo.from_bytes((await bench.objects.get(keys.engine_info("default"))).body)
            assert "SaveImage" in info.object_info
            published.append(info.published_at)
    start = published[0]
    assert published == [start, start, start + timedelta(minutes=35), start + timedelta(minutes=35)]


async def test_the_files_of_a_job_are_not_published_as_the_engines(tmp_path: Path) -> None:
    """The last job's input files are removed before a loader's file list is published."""
    clock = ManualClock(datetime(2026, 11, 23, tzinfo=UTC))
    async with workbench(tmp_path, clock=clock) as bench:
        await bench.run(example("still"), input_files=(await bench.input_file("photo.png", png()),))
        assert list(tmp_path.rglob("photo.png"))
        clock.set(clock.now() + timedelta(minutes=35))
        await bench.serve_one()
        assert not list(tmp_path.rglob("photo.png"))


async def test_a_job_runs_on_the_real_server(s3_objects: S3ObjectStore, tmp_path: Path) -> None:
    """On SeaweedFS, a job's output has its size and type, and its run time is recorded."""
    objects: ObjectStore = s3_objects
    async with workbench(tmp_path, objects, quick_policy()) as bench:
        record = await bench.run({"1": EMPTY, "2": saved()})
    assert record.status is Status.COMPLETED
    head = await objects.head(record.outputs[0].key)
    assert (head.size, head.content_type) == (record.outputs[0].size_bytes, "image/png")
    assert (await objects.list("tenants/default/runtimes/")).keys
