"""What the Python client keeps to itself, and what it accepts of a hostile API or bucket."""

import gzip
import json
import logging
import tracemalloc
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from comfyui_modal_client import ApiUnreachable, Client, ClientError, DownloadFailed, NotFound, WaitTimedOut
from comfyui_modal_client._events import Following
from comfyui_modal_client._operations import MOST_PAGES
from infra.cli.following import follow
from infra.cli.output import REFUSED, Terminal
from tests.support.client_answers import MADE, TERMINAL, document, output_at
from tests.support.clients import OpenClient, followed
from tests.support.commands import run_command
from tests.support.environment import clean_environment
from tests.support.plain_http import NO_TLS
from tests.support.scripted_http import Answer, scripted_http

pytestmark = pytest.mark.anyio

SECRET = "SECRETSECRET"
LIMIT = 32 * 1024 * 1024


@pytest.mark.parametrize("end", ["\n", "\r\n", " "])
async def test_a_key_read_from_a_file_is_taken(open_client: OpenClient, end: str) -> None:
    """White space around a key is not part of it."""
    with scripted_http(document({})) as server:
        async with open_client(server.url, f"ck_live_{SECRET}{end}") as client:
            await client.health()
    assert server.received[0].headers["authorization"] == f"Bearer ck_live_{SECRET}"


@pytest.mark.parametrize(
    "key", [f"ck_{SECRET}\r\nx: y", f"ck_{SECRET}\x00", f"ck_{SECRET} x", f"ck_{SECRET}ä", "", " "]
)
async def test_a_text_that_is_no_key_is_refused_without_repeating_it(open_client: OpenClient, key: str) -> None:
    """A text that cannot be a key is a `ClientError`, before anything is sent and without the text."""
    with pytest.raises(ClientError, match="the API key") as caught:
        open_client("http://127.0.0.1:1", key)
    assert SECRET not in str(caught.value)


async def test_no_message_repeats_a_key_or_password_in_the_url(open_client: OpenClient) -> None:
    """A key in the place of the URL, and a password in a URL, are in no message."""
    for url in (f"ck_live_{SECRET}", f"ftp://user:{SECRET}@host"):
        with pytest.raises(ApiUnreachable, match="http://") as caught:
            open_client(url, "http://127.0.0.1:1")
        assert SECRET not in str(caught.value)


def test_a_command_takes_a_key_with_a_line_end_and_prints_no_malformed_one(tmp_path: Path) -> None:
    """A command ignores the line end of a key, and refuses a key with one within it, without printing it."""
    with scripted_http(document({"jobs": [], "next_cursor": None})) as api:
        for end, code in (("\n", 0), ("\nx", REFUSED)):
            named = {"COMFYUI_MODAL_API_URL": api.url, "COMFYUI_MODAL_API_KEY": f"ck_live_{SECRET}{end}"}
            done = run_command("infra.cli", "jobs", "list", environment=clean_environment() | named, folder=tmp_path)
            assert done.returncode == code, done.stderr
            assert SECRET not in done.stdout + done.stderr
    assert "the API key" in done.stderr


async def test_a_header_of_an_upload_is_in_no_message(open_client: OpenClient, tmp_path: Path) -> None:
    """The headers and the URL that the API gives to an upload are in no message, and malformed ones no traceback."""
    path = tmp_path / "cat.png"
    path.write_bytes(MADE)
    good: dict[str, Any] = {"upload_id": "u", "method": "PUT", "url": f"http://127.0.0.1:1/{SECRET}", "headers": {}}
    bad: list[dict[str, Any]] = [
        {"headers": {"x": f"{SECRET}\n"}},
        {"headers": {"x": f"{SECRET}ä"}},
        {"headers": {"x": 5}},
        {"url": f"http://[/{SECRET}"},
        {"url": f"http://127.0.0.1:port/{SECRET}"},
        {"url": "http://127.0.0.1:1/\ud800"},
        {"method": "PÜT"},
        {"url": None},
    ]
    for members in bad:
        with scripted_http(document(good | members)) as api:
            async with open_client(api.url, attempts=1) as client:
                with pytest.raises(ApiUnreachable) as caught:
                    await client.upload(path)
        assert SECRET not in str(caught.value)


async def test_a_download_ends_at_the_size_of_the_output(open_client: OpenClient, tmp_path: Path) -> None:
    """The bucket cannot send more than the output's bytes, whatever it announces, and no file is left."""
    # If the client read on, it would find the body cut, and ask again.
    with scripted_http(Answer(200, bytes(1024 * 1024), {"content-length": str(2**40)})) as bucket:
        async with open_client(bucket.url) as client:
            with pytest.raises(DownloadFailed, match="more than the 4000 bytes"):
                await client.download(output_at(bucket.url), tmp_path)
    assert len(bucket.received) == 1
    assert list(tmp_path.iterdir()) == []


async def test_a_compressed_answer_is_refused(open_client: OpenClient, tmp_path: Path) -> None:
    """Compressed answers are neither asked for nor decompressed: a small one may have gigabytes of text."""
    bomb = Answer(200, gzip.compress(b" " * 1024 * 1024 + b"{}"), {"content-encoding": "gzip"})
    with scripted_http(bomb) as server:
        async with open_client(server.url, attempts=1) as client:
            for ask in (client.health(), client.logs("j")):
                with pytest.raises(ApiUnreachable, match="compressed"):
                    await ask
        assert {request.headers["accept-encoding"] for request in server.received} == {"identity"}
        path = tmp_path / "cat.png"
        path.write_bytes(MADE)
        created = {"upload_id": "u", "method": "PUT", "url": server.url, "headers": {"content-length": "4000"}}
        with scripted_http(document(created)) as api:
            async with open_client(api.url, attempts=1) as client:
                with pytest.raises(ApiUnreachable, match="compressed"):
                    await client.upload(path)


async def test_an_answer_has_a_limit(open_client: OpenClient) -> None:
    """An answer of more than 32 MiB is refused, and one of 32 MiB is not."""
    with scripted_http(Answer(200, bytes(LIMIT)), Answer(200, bytes(LIMIT + 1))) as server:
        async with open_client(server.url, attempts=1) as client:
            assert len(await client.logs("j")) == LIMIT
            with pytest.raises(ApiUnreachable, match=f"more than {LIMIT} bytes"):
                await client.logs("j")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(Answer(404, bytes(LIMIT + 1)), f"more than {LIMIT} bytes", id="large"),
        pytest.param(Answer(404, gzip.compress(b"{}"), {"content-encoding": "gzip"}), "compressed", id="compressed"),
    ],
)
async def test_an_error_of_a_stream_has_the_same_limits(open_client: OpenClient, answer: Answer, reason: str) -> None:
    """An error of the event stream is neither read beyond the limit of other answers nor decompressed."""
    with scripted_http(answer) as server:
        async with open_client(server.url, attempts=1) as client:
            with pytest.raises(ApiUnreachable, match=reason):
                await followed(client, "j")


async def test_an_answer_of_too_many_values_is_not_parsed(open_client: OpenClient) -> None:
    """JSON of which the values would take many times its bytes is an unusable answer, also as an error."""
    lists = b'{"detail": "x", "y": [' + b"[]," * 1_400_000 + b"[]]}"
    with scripted_http(Answer(200, lists), Answer(404, lists)) as server:
        async with open_client(server.url, attempts=1) as client:
            with pytest.raises(ApiUnreachable, match="JSON object"):
                await client.health()
            with pytest.raises(NotFound, match="answered 404"):
                await client.health()


async def test_an_event_of_too_many_values_is_not_parsed(open_client: OpenClient) -> None:
    """An event whose values would take many times its bytes is no event."""
    event = b'event: status\ndata: {"y": [' + b"[]," * 100_000 + b"[]]}\n\n"
    with scripted_http(Answer(200, event), Answer(404)) as server:
        async with open_client(server.url) as client:
            with pytest.raises(ClientError, match="too many values"):
                await followed(client, "j")


def test_an_event_in_small_chunks_is_not_copied_for_each() -> None:
    """An event that arrives in many small chunks takes linear time: what came before is not copied again."""
    following = Following("/")
    for chunk in (b"event: status\ndata: ", b" " * 3_000_000, b" "):  # the last one makes room for more
        assert list(following.received(chunk)) == []
    tracemalloc.start()
    for _ in range(100):
        assert list(following.received(b" ")) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    assert [event.data for chunk in (b"{}\n", b"\n") for event in following.received(chunk)] == [{}]


@pytest.mark.parametrize("date", ["Mon, 01 Jan 2024 00:00:00 +99999999999999999999", "Fri, 31 Dec 9999 23:59:59 -2359"])
async def test_a_date_beyond_all_calendars_is_no_retry_after(open_client: OpenClient, date: str) -> None:
    """A `Retry-After` that is no date of any calendar is ignored."""
    with scripted_http(Answer(404, headers={"retry-after": date})) as server:
        async with open_client(server.url) as client:
            with pytest.raises(NotFound):
                await client.health()


async def test_no_part_of_a_path_leads_elsewhere(open_client: OpenClient) -> None:
    """Ids and names are one segment of the path, whatever they contain."""
    with scripted_http(document({})) as server:
        async with open_client(server.url) as client:
            await client.redeliver("j", "../../../../v1/keys?x=")
            await client.redeliver("..", "..")
            await client.cancel("a/b")
            await client.workflow("..")
            await client.batch(".")
            await client.node("\ud800")
    assert [request.path for request in server.received] == [
        "/v1/jobs/j/deliveries/..%2F..%2F..%2F..%2Fv1%2Fkeys%3Fx%3D/redeliver",
        "/v1/jobs/%2E%2E/deliveries/%2E%2E/redeliver",
        "/v1/jobs/a%2Fb",
        "/v1/workflows/%2E%2E",
        "/v1/batches/%2E",
        "/v1/nodes/%3F",
    ]


@pytest.mark.parametrize(
    ("filename", "saved_as"),
    [
        (".bashrc", "bashrc"),
        ("-rf", "_rf"),
        ("\x1b]0;t\x07.png", "_]0;t_.png"),
        ("a\n\x00b.png", "a__b.png"),
        ("\ud800.png", "_.png"),
        ("a\u202egnp.png", "a_gnp.png"),
        ("x.png:stream", "x.png_stream"),
        ("con", "_con"),
        ("NUL.png", "_NUL.png"),
        ("..\\..\\win.png", "win.png"),
        ("x" * 300 + ".png", "x" * 146 + ".png"),
        ("...", "output"),
        ("猫 1.final.png", "猫 1.final.png"),
    ],
)
async def test_an_output_gets_a_safe_name(
    open_client: OpenClient, tmp_path: Path, filename: str, saved_as: str
) -> None:
    """A saved output is not hidden, no option, no device, and has no control characters in its name."""
    with scripted_http(Answer(200, MADE)) as bucket:
        async with open_client(bucket.url) as client:
            saved = await client.download(output_at(bucket.url) | {"filename": filename}, tmp_path)
    assert (saved.path.name, saved.state) == (saved_as, "new")
    assert [path.name for path in tmp_path.iterdir()] == [saved_as]


async def test_answers_of_another_shape_are_client_errors(open_client: OpenClient, tmp_path: Path) -> None:
    """What the client itself needs of an answer is checked, so another shape is a `ClientError`."""
    good = output_at("http://127.0.0.1:1")
    names = {"filename": 5, "sha256": None, "url": ["x"], "size_bytes": True}
    outputs: list[Any] = [good | {name: value} for name, value in names.items()] + [
        good | {"url": "http://127.0.0.1:1/\ud800"},
        5,
    ]
    jobs = [TERMINAL | {"outputs": [output]} for output in outputs] + [{"outputs": 5}, {}]
    for job in jobs:
        with scripted_http(document(job)) as server:
            async with open_client(server.url, attempts=1) as client:
                with pytest.raises(ClientError, match="as this API gives it"):
                    await client.download_all("j", tmp_path)
    with scripted_http(document({"status": "queued"}), document({}), Answer(200, b"[" * 100_000)) as server:
        async with open_client(server.url, attempts=1) as client:
            for ask in (client.wait("j"), client.deliveries("j"), client.health()):
                with pytest.raises(ClientError):
                    await ask


async def test_a_list_of_pages_is_read_to_its_end(open_client: OpenClient) -> None:
    """`deliveries` follows the cursor, also of an API without one, and no further than `MOST_PAGES`."""
    pages = ({"deliveries": [{"sequence": 1}], "next_cursor": "1"}, {"deliveries": [{"sequence": 2}]})
    with scripted_http(*map(document, pages)) as server:
        async with open_client(server.url) as client:
            assert await client.deliveries("j") == [{"sequence": 1}, {"sequence": 2}]
    path = "/v1/jobs/j/deliveries"
    assert [request.path for request in server.received] == [path, f"{path}?cursor=1"]
    for bad, requests in (
        ({"deliveries": [], "next_cursor": 5}, 1),
        ({"deliveries": [], "next_cursor": "1"}, MOST_PAGES),
    ):
        with scripted_http(document(bad)) as server:
            async with open_client(server.url) as client:
                with pytest.raises(ApiUnreachable):
                    await client.deliveries("j")
        assert len(server.received) == requests


@pytest.mark.parametrize(
    ("answer", "most"),
    [
        # The first request does not wait, and the last does not because less than a second is left.
        pytest.param(Answer(304), 4, id="unchanged"),
        pytest.param(document({"status": "queued"}, etag='"1"'), 12, id="changed"),
    ],
)
async def test_a_wait_is_slow_where_answers_come_at_once(open_client: OpenClient, answer: Answer, most: int) -> None:
    """A wait makes few requests where something answers them at once, instead of holding them."""
    with scripted_http(document({"status": "queued"}, etag='"1"'), answer) as server:
        async with open_client(server.url) as client:
            with pytest.raises(WaitTimedOut):
                await client.wait("j", timeout_s=1.2)
    assert len(server.received) <= most


async def test_a_log_has_no_presigned_url(
    open_client: OpenClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """httpx logs each request, but not the signature with which anyone could fetch or replace the file."""
    caplog.set_level(logging.INFO)
    path = tmp_path / "cat.png"
    path.write_bytes(MADE)
    with scripted_http(Answer(200, MADE)) as bucket:
        url = f"{bucket.url}/data?X-Amz-Signature={SECRET}"
        created = {"upload_id": "u", "method": "PUT", "url": url, "headers": {"content-length": str(len(MADE))}}
        with scripted_http(document(created), document({})) as api:
            async with open_client(api.url) as client:
                await client.upload(path)
                await client.jobs(limit=5)
                await client.download(output_at(bucket.url) | {"url": url}, tmp_path / "out")
        assert [request.path.partition("=")[2] for request in bucket.received] == [SECRET, SECRET]
    assert f"{bucket.url}/data" in caplog.text
    assert "limit=5" in caplog.text
    assert SECRET not in caplog.text


def event_stream(*events: tuple[str, dict[str, Any]]) -> Answer:
    frames = (f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    return Answer(200, "".join(frames).encode(), {"content-type": "text/event-stream"})


def test_a_progress_bar_prints_no_control_characters() -> None:
    """The status and the node of a job reach a terminal without the sequences that it would obey."""
    details = {"current_node": "1\x1b]0;node\x07", "step": None}
    first = event_stream(
        ("status", {"status": "running\x1b]0;status\x07"}), ("progress", {"progress": 5, "progress_details": details})
    )
    out = StringIO()
    # The error ends the bar, which prints the last state once more.
    with (
        scripted_http(first, Answer(404), Answer(404)) as api,
        Client(api.url, "key", tls=NO_TLS) as client,
        pytest.raises(NotFound),
    ):
        follow(client, "j", Terminal(file=out, force_terminal=True, width=200))
    assert "running\\x1b]0;status" in out.getvalue()
    assert "1\\x1b]0;node" in out.getvalue()
    assert "\x1b]0;" not in out.getvalue()


def test_a_preview_is_shown_while_a_job_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that shows pictures gets the previews of a job, and then its end."""
    monkeypatch.setenv("TERM_PROGRAM", "iTerm.app")
    events = event_stream(("preview", {"data_base64": "/9j/"}), ("status", {"status": "completed"}))
    out = StringIO()
    with scripted_http(events, document({"status": "completed"})) as api, Client(api.url, "key", tls=NO_TLS) as client:
        job = follow(client, "j", Terminal(file=out, force_terminal=True, width=200))
    assert job["status"] == "completed"
    assert "\x1b]1337;File=size=3" in out.getvalue()
