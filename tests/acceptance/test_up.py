"""`comfyui-modal up` and the command line from outside, with real processes on this machine."""

import contextlib
import functools
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from infra.demo import write_photograph
from infra.local.log_files import MAX_BYTES
from infra.local.s3_server import free_port
from tests.support.api_process import api_process
from tests.support.commands import run_command
from tests.support.environment import clean_environment
from tests.support.flood import flooded
from tests.support.plain_http import NO_TLS
from tests.support.stream_client import StreamClient
from tests.support.up import COMMAND, PARTNER_KEY, Up, eventually, finished, up

WORKERS = 2
EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255}}
SAVE = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}}
BLUE = {"1": EMPTY, "2": SAVE}
HEEDS_INTERRUPTS = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Runs a command that receives Ctrl-C, even if the tests were started in a shell's background."""


def slow(steps: int, seconds: float) -> dict[str, Any]:
    inputs = {"image": ["1", 0], "steps": steps, "seconds_per_step": seconds, "preview": True}
    save = {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "slow"}}
    return {"1": EMPTY, "3": {"class_type": "LiteSlowSteps", "inputs": inputs}, "2": save}


CONNECTIONS, CONNECTIONS_IN_SHORT = 4_000, 2_500
"""More connections than may wait; `make bench` opens 10,000."""
MAX_GROWTH = 100 * 1024 * 1024
QUICK = {"COMFYUI_MODAL_LEASE_S": "6", "COMFYUI_MODAL_REAP_INTERVAL_S": "1"}
"""Short intervals, so that a job whose worker was killed soon runs again."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[int]:
    """Serve a folder on a free port, and yield the port."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def picture_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server of this machine with a cat.png."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (8, 8)).save(folder / "cat.png")
    with serving(folder) as port:
        yield port


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, picture_port: int) -> Iterator[Up]:
    data = tmp_path_factory.mktemp("up") / "data"
    environment = QUICK | {"COMFYUI_MODAL_FETCH_LOOPBACK_PORTS": f"[{picture_port}]"}
    with up(data, "--workers", str(WORKERS), environment=environment) as running:
        yield running


@pytest.mark.chaos
def test_silent_connections_block_no_client(running: Up, is_long: bool) -> None:
    """During a flood of silent connections health checks pass and memory is bounded, and afterwards a job runs."""
    # The first test of this `up`: memory that others have freed would hide growth.
    connection = running.connection
    number = CONNECTIONS if is_long else CONNECTIONS_IN_SHORT
    measured = flooded(connection["api_url"], connection["processes"]["api"], number)
    assert measured.rss_most - measured.rss_before < MAX_GROWTH, measured
    with running.client() as client:
        job_id = client.post("/v1/jobs", json={"workflow": BLUE}).json()["job_id"]
        assert finished(client, job_id)["status"] == "completed"
    assert connection["processes"]["api"] == running.connection["processes"]["api"]


def test_a_url_of_this_machine_can_be_tried(running: Up, picture_port: int, tmp_path: Path) -> None:
    """Files are fetched from the listed port of this machine, and from no other port of it."""
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}}, "2": SAVE}
    with running.client() as client, serving(tmp_path) as other:

        def submit(port: int) -> httpx.Response:
            value = {"node": "1", "field": "image", "type": "image_url", "value": f"http://localhost:{port}/cat.png"}
            return client.post("/v1/jobs", json={"workflow": graph, "inputs": [value]})

        accepted = submit(picture_port)
        assert accepted.status_code == 202, accepted.text
        assert finished(client, accepted.json()["job_id"])["status"] == "completed"
        for port in (
            other,
            urlsplit(running.connection["api_url"]).port,
            urlsplit(running.connection["s3_endpoint"]).port,
        ):
            assert port is not None
            refused = submit(port).json()
            assert refused["type"] == "/problems/fetch-refused"
            assert "COMFYUI_MODAL_FETCH_LOOPBACK_PORTS" in refused["hint"]


def test_a_port_of_its_own_is_not_opened_to_fetches(tmp_path: Path) -> None:
    """`up` does not start if the ports that fetches may reach include one of its own."""
    port = free_port()
    refused = subprocess.run(
        [*COMMAND, "up", "--port", str(port), "--data", str(tmp_path / "data")],
        env=clean_environment() | {"COMFYUI_MODAL_FETCH_LOOPBACK_PORTS": f"[{port}]"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 2
    assert f"lists port {port}, on which `up` itself listens" in refused.stderr


def test_the_connection_file_is_complete_and_private(running: Up) -> None:
    """connection.json contains addresses, keys and processes, and only its owner can read it."""
    connection = running.connection
    assert set(connection) >= {
        *("api_url", "api_key", "s3_endpoint", "bucket", "region", "access_key", "secret_key"),
        *("comfyui_url", "processes", "webhook_secret"),
    }
    expected = {
        "up",
        "s3",
        "api",
        "reaper",
        "deliverer",
        *(f"worker-{n}" for n in range(1, WORKERS + 1)),
        *(f"engine-{n}" for n in range(1, WORKERS + 1)),
    }
    assert set(connection["processes"]) == expected
    assert all(psutil.pid_exists(pid) for pid in connection["processes"].values())
    assert (running.data / "connection.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc elsewhere")
def test_no_process_shows_a_secret_in_its_environment(running: Up) -> None:
    """The environment of each process in /proc contains none of the keys or cannot be read."""
    connection = running.connection
    secrets = [connection[name] for name in ("api_key", "secret_key", "webhook_secret")]
    own = [name for name in connection["processes"] if name not in ("up", "s3")]
    for name in own:
        try:
            shown = Path(f"/proc/{connection['processes'][name]}/environ").read_text()
        except PermissionError:
            continue
        assert not [secret for secret in secrets if secret in shown], name


def test_no_engine_listens_on_a_port(running: Up) -> None:
    """Engines listen on no port, so that no webhook, web page or other user can reach them."""
    connection = running.connection
    assert all(url.startswith("unix:") for url in connection["comfyui_urls"].values())
    engines = [psutil.Process(pid) for name, pid in connection["processes"].items() if name.startswith("engine-")]
    family = [process for engine in engines for process in (engine, *engine.children(recursive=True))]
    assert len(family) >= 2 * WORKERS
    assert not [c for process in family for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]


def test_a_key_for_partner_nodes_is_in_no_log(running: Up) -> None:
    """A partner key is in no log, all of which are searched at the end of this `up`."""
    with running.client() as client:
        document = {"workflow": slow(1, 0), "extra_data": {"api_key_comfy_org": PARTNER_KEY}}
        assert finished(client, client.post("/v1/jobs", json=document).json()["job_id"])["status"] == "completed"


def test_each_worker_executes_one_job_at_a_time(running: Up) -> None:
    """At most as many jobs as workers execute at a time, and at some moment exactly that many."""
    with running.client() as client:
        ids = [
            client.post("/v1/jobs", json={"workflow": slow(12, 0.1) | {"0": {**EMPTY, "_meta": {"n": n}}}}).json()[
                "job_id"
            ]
            for n in range(3 * WORKERS)
        ]
        jobs = [finished(client, job_id) for job_id in ids]
    assert {job["status"] for job in jobs} == {"completed"}, running.logs()
    executions = [execution_of(job) for job in jobs]
    edges = sorted([(begin, 1) for begin, _ in executions] + [(end, -1) for _, end in executions])
    executing, peak = 0, 0
    for _, step in edges:
        executing += step
        peak = max(peak, executing)
    assert peak == WORKERS


def execution_of(job: dict[str, Any]) -> tuple[datetime, datetime]:
    """Return when the engine began with a job, and when it was free again. A job itself ends with its uploads."""
    timings = job["timings"]
    begin = datetime.fromisoformat(job["started_at"]) + timedelta(seconds=timings["staged_s"])
    return begin, begin + timedelta(seconds=timings["executed_s"])


def test_run_downloads_the_outputs(running: Up, tmp_path: Path) -> None:
    """`run` uploads a picture, runs the job and downloads the scaled and inverted result."""
    photo = tmp_path / "photo.png"
    write_photograph(photo)
    done = running.command(
        "run", "still", "--image", str(photo), "--set", "2.width=320", "--out", str(tmp_path / "out")
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "completed 100 %" in done.stdout
    with Image.open(photo) as source, Image.open(tmp_path / "out" / "still_00001_.png") as result:
        assert result.size == (320, 213)
        expected = 255 - np.asarray(source.convert("RGB").resize(result.size, Image.Resampling.BILINEAR), np.int16)
        difference = np.abs(np.asarray(result.convert("RGB"), np.int16) - expected)
    assert difference.mean() < 8


def test_a_batch_downloads_the_outputs_of_every_picture(running: Up, tmp_path: Path) -> None:
    """`batch` runs a job per picture, and a missing picture cancels the jobs that were already accepted."""
    photos = [tmp_path / f"{name}.png" for name in ("red", "blue")]
    for photo in photos:
        Image.new("RGB", (32, 16), photo.stem).save(photo)
    options = ["--set", "width=16", "--out", str(tmp_path / "out")]
    done = running.command("batch", "still", *map(str, photos), *options)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "2 of 2 completed" in done.stdout
    assert len(list((tmp_path / "out").iterdir())) == 2
    refused = running.command("batch", "still", str(photos[0]), "/nowhere.png")
    assert refused.returncode == 2
    job_id = refused.stdout.partition("job ")[2].split()[0]
    with running.client() as client:
        assert finished(client, job_id)["status"] in ("failed", "completed")
    assert running.command("batch", "still").returncode == 2


def test_a_second_run_keeps_the_old_file_and_says_so(running: Up, tmp_path: Path) -> None:
    """Another content gets a name of its own, the same content is left alone, and both are said."""
    workflow, out = tmp_path / "blue.json", tmp_path / "out"
    workflow.write_text(json.dumps(BLUE))
    first = running.command("run", str(workflow), "--out", str(out), "--json")
    assert json.loads(first.stdout)["status"] == "completed"
    said = running.command("run", str(workflow), "--set", "1.color=0", "--out", str(out)).stdout
    assert f"{out}/blue_00001_ (1).png" in said
    assert "(another blue_00001_.png is there, and was left as it is)" in said
    assert "bytes (already there)" in running.command("run", str(workflow), "--out", str(out)).stdout
    assert sorted(path.name for path in out.iterdir()) == ["blue_00001_ (1).png", "blue_00001_.png"]


def test_a_detached_job_is_waited_for_and_downloaded(running: Up, tmp_path: Path) -> None:
    """`run --detach` ends at once, repeated with its key it finds its job, which `jobs` waits for and downloads."""
    photo = tmp_path / "photo.png"
    Image.new("RGB", (32, 16)).save(photo)
    flags = ("--metadata", "order=4711", "--metadata", "a=b=c", "--queue-timeout", "600", "--retain-days", "1")
    command = ("run", "still", "--image", str(photo), "--detach", "--idempotency-key", tmp_path.name, *flags)
    detached = running.command(*command)
    assert detached.returncode == 0, detached.stderr
    job_id = detached.stdout.strip()
    assert f"jobs wait {job_id}" in detached.stderr
    assert running.command(*command).stdout == detached.stdout
    waited = running.command("jobs", "wait", job_id, "--json")
    assert waited.returncode == 0, waited.stderr
    (job,) = json.loads(waited.stdout)
    assert job["metadata"] == {"order": "4711", "a": "b=c"}
    assert (job["status"], job["queue_timeout_s"]) == ("completed", 600)
    assert running.command("jobs", "wait", job_id, job_id).stdout.splitlines() == [f"{job_id}  completed"] * 2
    quiet = running.command("jobs", "download", job_id, "--out", str(tmp_path / "out"))
    assert (quiet.returncode, "http" in quiet.stdout) == (0, False)
    shown = running.command("jobs", "download", job_id, "--out", str(tmp_path / "out"), "--urls").stdout
    assert ("still_00001_.png" in shown, "(already there)" in shown, "X-Amz-Signature" in shown) == (True,) * 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["still_00001_.png"]


def test_a_wait_can_be_limited(running: Up, tmp_path: Path) -> None:
    """`jobs wait --timeout` ends with 1 and a message, and the job goes on."""
    workflow = tmp_path / "slow.json"
    workflow.write_text(json.dumps(slow(600, 0.1)))
    job_id = running.command("run", str(workflow), "--detach").stdout.strip()
    waited = running.command("jobs", "wait", job_id, "--timeout", "0.2")
    assert (waited.returncode, waited.stderr) == (1, f"job {job_id} has not ended in time, and goes on\n")
    assert running.command("jobs", "cancel", job_id).returncode == 0


def test_batches_are_submitted_shown_and_cancelled(running: Up, tmp_path: Path) -> None:
    """`batches submit` runs a job for each set of values, downloads what they make, and can be detached."""
    workflow, sets = tmp_path / "blue.json", tmp_path / "sets.json"
    workflow.write_text(json.dumps(BLUE))
    sets.write_text(json.dumps([{"1.color": 255}, {"1.color": 65280}]))
    command = ("batches", "submit", str(workflow), str(sets), "--out", str(tmp_path / "out"))
    done = running.command(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 completed"
    assert len(list((tmp_path / "out").iterdir())) == 2
    batch_id = done.stdout.split()[1].rstrip(":")
    assert f"batch {batch_id}: finished, 2 completed" in running.command("batches", "show", batch_id).stdout
    listed = running.command("batches", "list").stdout.splitlines()[0].split()
    assert (listed[0], listed[1], listed[3:]) == (batch_id, "finished", ["2", "completed"])
    workflow.write_text(json.dumps(slow(600, 0.1)))
    detached = running.command("batches", "submit", str(workflow), str(sets), "--detach", "--json")
    cancelled = running.command("batches", "cancel", json.loads(detached.stdout)["batch_id"], "--json")
    assert cancelled.returncode == 0, cancelled.stderr
    assert json.loads(cancelled.stdout)["cancel_requested_at"]


def test_an_uploaded_file_is_an_input(running: Up, tmp_path: Path) -> None:
    """`uploads put` prints the id alone, which an input of a workflow takes."""
    photo = tmp_path / "photo.png"
    Image.new("RGB", (32, 16)).save(photo)
    put = running.command("uploads", "put", str(photo))
    upload_id = put.stdout.strip()
    with running.client() as client:
        body = {"inputs": {"image": {"upload_id": upload_id}}}
        job_id = client.post("/v1/workflows/still/jobs", json=body).json()["job_id"]
        assert finished(client, job_id)["status"] == "completed"
    assert running.command("uploads", "put", str(photo), str(photo)).stdout.split()[1::2] == ["photo.png"] * 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "nothing.json"], 2, "is not a file"),
        (["run", "nothing"], 2, "there is no workflow of this name, only clip"),
        (["run", "still", "--set", "nonsense"], 2, "expected NAME=VALUE or NODE.FIELD=VALUE"),
        (["run", "still", "--media", "image=https://example.com/x.png", "--set", "width=small"], 2, "/inputs/width"),
        (["run", "words", "--set", "9.x=1"], 2, "has no node 9"),
        (["run", "words", "--image", "x.png"], 2, "this one has 0"),
        (["run", "still", "--image", "/nowhere.png"], 2, "is not a file"),
        (["jobs", "show", "nope"], 2, "no job with this id"),
        (["run", "still"], 2, "--image FILE is needed"),
        (["run", "words", "--metadata", "order"], 2, "--metadata order: expected KEY=VALUE"),
        (["run", "words", "--gpu", "nothing"], 2, "there is no pool 'nothing'"),
        (["batches", "submit", "words", "/nowhere.json"], 2, "/nowhere.json cannot be read"),
        (["batches", "submit", "words", "pyproject.toml"], 2, "pyproject.toml is not JSON"),
        (["batches", "show", "nope"], 2, "batch"),
        (["uploads", "put", "/nowhere.png"], 2, "is not a file"),
        (["uploads", "put"], 2, "uploads put FILE"),
        (["jobs", "wait"], 2, "jobs wait JOB_ID"),
        (["jobs", "download"], 2, "jobs download JOB_ID"),
    ],
)
def test_commands_explain_errors(running: Up, arguments: list[str], code: int, message: str) -> None:
    """A wrong command has an exit code and a message, and never a traceback."""
    done = running.command(*arguments)
    printed = done.stdout + done.stderr
    assert (done.returncode, message in printed) == (code, True), printed
    assert "Traceback" not in printed


def test_a_command_without_an_api_gives_advice(tmp_path: Path) -> None:
    """A command without a running API exits with code 3 and names `comfyui-modal up`."""
    done = run_command("infra.cli", "jobs", "list", "--data", str(tmp_path))
    assert (done.returncode, "comfyui-modal up" in done.stderr) == (3, True)


def test_jobs_are_listed_shown_and_cancelled(running: Up) -> None:
    """The command line lists, shows and cancels jobs."""
    with running.client() as client:
        job_id = client.post("/v1/jobs", json={"workflow": slow(600, 0.1)}).json()["job_id"]
        eventually(lambda: client.get(f"/v1/jobs/{job_id}").json()["status"] == "running")
    assert job_id in running.command("jobs", "list").stdout
    shown = running.command("jobs", "cancel", job_id)
    assert (shown.returncode, "Cancelled by user" in shown.stdout) == (0, True), shown.stdout
    shown = json.loads(running.command("jobs", "show", job_id, "--json").stdout)
    assert shown["error_detail"]["code"] == "cancelled"


def test_logs_are_printed_and_jobs_removed(running: Up) -> None:
    """`jobs logs` prints the engine's output, and a removed job can no longer be shown."""
    job_id = running.command("run", "words").stdout.split()[1]
    assert "got prompt" in running.command("jobs", "logs", job_id).stdout
    assert "removed" in running.command("jobs", "remove", job_id).stdout
    shown = running.command("jobs", "show", job_id)
    assert (shown.returncode, "removed at" in shown.stderr) == (2, True), shown.stderr


def test_a_named_workflow_shows_its_limits_and_refuses_an_unknown_input(running: Up) -> None:
    """A workflow shows a seed's exact limit, and a misspelt input name is refused with its own message."""
    assert "max 9007199254740991" in running.command("workflows", "show", "sdxl").stdout
    wrong = running.command("run", "still", "--set", "widht=320")
    assert (wrong.returncode, "still has no input widht" in wrong.stderr) == (2, True), wrong.stderr


def test_a_template_of_the_editor_runs_as_it_is(running: Up, tmp_path: Path) -> None:
    """A file in the form of official templates runs on lite, and becomes a workflow that can be run by name."""
    nodes = [
        {"id": 1, "type": "LoadImage", "widgets_values": ["example.png", "image"], "outputs": [{"name": "IMAGE"}]},
        {
            "id": 2,
            "type": "ResizeImageMaskNode",
            "inputs": [{"name": "input", "type": "IMAGE,MASK", "link": 1}],
            "widgets_values": ["scale dimensions", 64, 32, "center", "area"],
        },
        {"id": 3, "type": "SaveImage", "inputs": [{"name": "images", "type": "IMAGE", "link": 2}]},
        {"id": 4, "type": "MarkdownNote", "widgets_values": ["# A note"]},
    ]
    links = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]
    template, picture, out = tmp_path / "template.json", tmp_path / "cat.png", tmp_path / "out"
    template.write_text(json.dumps({"version": 0.4, "nodes": nodes, "links": links, "extra": {}}))
    Image.new("RGB", (128, 128)).save(picture)
    ran = running.command("run", str(template), "--image", str(picture), "--out", str(out))
    assert (ran.returncode, "64×32" in ran.stdout) == (0, True), ran.stderr + ran.stdout
    added = running.command("workflows", "add", str(template), "--out", str(tmp_path / "mine"))
    assert (added.returncode, "comfyui-modal run template --image FILE" in added.stdout) == (0, True), added.stderr


def test_webhooks_are_received_tested_and_repeated(running: Up) -> None:
    """`listen` verifies each event with the secret of the connection and prints it."""
    command = [*COMMAND, "listen", "--port", "0", "--count", "3", "--data", str(running.data)]
    with subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        url = listener.stdout.readline().split()[1]
        tested = running.command("webhooks", "test", url)
        assert (tested.returncode, "delivered" in tested.stdout) == (0, True), tested.stdout
        job_id = running.command("run", "words", "--webhook", url).stdout.split()[1]
        shown = eventually(lambda: "delivered" in (s := running.command("webhooks", "deliveries", job_id).stdout) and s)
        event_id = re.search(r"evt_\S+", shown)
        assert event_id is not None
        assert "pending" in running.command("webhooks", "redeliver", job_id, event_id[0]).stdout
        assert listener.wait(20) == 0
        printed = listener.stdout.read()
    assert (printed.count("verified comfyui.webhook.test.v1"), printed.count(event_id[0])) == (1, 2), printed


def test_no_webhook_reaches_a_port_of_the_deployment(running: Up) -> None:
    """A webhook to any port of a process of `up` is refused at submission."""
    started = [psutil.Process(pid) for pid in running.connection["processes"].values()]
    ports = {
        found.laddr.port
        for process in started
        for member in (process, *process.children(recursive=True))
        for found in member.net_connections()
        if found.status == psutil.CONN_LISTEN
    }
    with running.client() as client:
        assert urlsplit(running.connection["s3_endpoint"]).port in ports
        assert urlsplit(running.connection["api_url"]).port in ports
        for port in ports:
            refused = client.post("/v1/webhooks/test", json={"url": f"http://127.0.0.1:{port}/"})
            assert (refused.status_code, refused.json()["type"]) == (422, "/problems/webhook-refused"), port
            assert "belongs to this deployment" in refused.json()["detail"]


def test_an_unsigned_event_is_refused(tmp_path: Path) -> None:
    """`listen` answers an unsigned event with 401 and exits with code 1."""
    command = [*COMMAND, "listen", "--port", "0", "--count", "1", "--secret", f"whsec_{'c2VjcmV0' * 5}"]
    with subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        url = listener.stdout.readline().split()[1]
        answer = httpx.post(url, content=b"{}", headers={"webhook-id": "a", "webhook-timestamp": "1"}, verify=NO_TLS)
        assert answer.status_code == 401
        assert listener.wait(20) == 1
        assert "refused" in listener.stdout.read()


def test_ctrl_c_cancels_the_job(running: Up, tmp_path: Path) -> None:
    """Ctrl-C cancels the job of a `run` command, which exits with code 130."""
    workflow = tmp_path / "slow.json"
    workflow.write_text(json.dumps(slow(600, 0.1)))
    process = subprocess.Popen(
        [sys.executable, "-c", HEEDS_INTERRUPTS, *COMMAND, "run", str(workflow), "--data", str(running.data)],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        job_id = process.stdout.readline().split()[1]
        with running.client() as client:
            eventually(lambda: client.get(f"/v1/jobs/{job_id}").json()["status"] == "running")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert finished(client, job_id)["error"] == "Cancelled by user"


def test_the_end_of_each_job_is_printed(running: Up) -> None:
    """`up` prints a line when a job has ended: its id, workflow, status and seconds."""
    assert running.process.stdout is not None
    pipe, printed = running.process.stdout.fileno(), ""
    os.set_blocking(pipe, False)
    job_id = running.command("run", "words").stdout.split()[1]

    def line() -> "re.Match[str] | None":
        nonlocal printed
        with contextlib.suppress(BlockingIOError):
            printed += os.read(pipe, 1 << 16).decode()
        return re.search(rf"^job {job_id}  words  completed  \d+\.\d s$", printed, re.MULTILINE)

    assert eventually(line)


def test_doctor_passes_all_checks(running: Up) -> None:
    """`doctor` passes and names every check."""
    done = running.command("doctor")
    assert done.returncode == 0, done.stdout
    for check in (
        "bucket reachable",
        "conditional create",
        "conditional replace",
        "clock",
        "presigned",
        "API key",
        "engine isolation",
        "engine reachable",
    ):
        assert check in done.stdout


def test_no_secret_is_in_a_log(running: Up) -> None:
    """The logs contain neither keys nor signatures of presigned URLs."""
    logs = running.logs()
    for name in ("api_key", "secret_key", "webhook_secret"):
        assert running.connection[name] not in logs
    assert not re.search(r"X-Amz-Signature|Bearer ", logs)


@pytest.mark.parametrize("log", ["logs/long.log", "s3/log/long.out"])
def test_a_long_log_is_rotated(running: Up, log: str) -> None:
    """A long log is rotated in both log folders, and the S3 server writes to no other file."""
    long = running.data / log
    older = long.with_name(f"{long.name}.1")
    long.touch()
    os.truncate(long, MAX_BYTES + 1)
    eventually(lambda: older.exists() and long.stat().st_size == 0)
    assert older.stat().st_size == MAX_BYTES
    long.unlink()
    older.unlink()
    assert [path.name for path in (running.data / "s3" / "log").iterdir()] == ["weed.out"]


def test_a_second_up_on_the_same_data_is_refused(running: Up) -> None:
    """A second `up` on the same data, which would start a second S3 server on the same files, is refused."""
    done = run_command("infra.cli", "up", "--port", "0", "--data", str(running.data))
    assert (done.returncode, "in use" in done.stderr) == (2, True)


@pytest.mark.parametrize("name", ["api", "worker-2", "engine-1", "s3", "reaper", "deliverer"])
def test_a_killed_process_is_restarted(running: Up, name: str) -> None:
    """A killed process is restarted with its new pid in connection.json, and jobs run."""
    pid = running.connection["processes"][name]
    os.kill(pid, signal.SIGKILL)
    if name == "engine-1":  # an idle worker checks its engine before the next job
        with running.client() as client:
            ids = [client.post("/v1/jobs", json={"workflow": slow(3, 0.1)}).json()["job_id"] for _ in range(8)]
            assert {finished(client, job_id)["status"] for job_id in ids} == {"completed"}
    eventually(lambda: running.connection["processes"].get(name, pid) != pid)
    with running.client() as client:
        eventually(lambda: client.get("/ready").status_code == 200)
        job_id = eventually(lambda: client.post("/v1/jobs", json={"workflow": BLUE}).json()["job_id"])
        assert finished(client, job_id)["status"] == "completed"


def test_streams_survive_the_death_of_every_process(running: Up) -> None:
    """A job whose worker is killed runs again, and streams at two APIs have its events although both are killed."""
    connection = running.connection
    bucket = {name: connection[name] for name in ("bucket", "s3_endpoint", "access_key", "secret_key", "prefix")}
    names = {"bucket": "BUCKET", "s3_endpoint": "S3_ENDPOINT", "access_key": "S3_ACCESS_KEY"}
    names |= {"secret_key": "S3_SECRET_KEY", "prefix": "S3_PREFIX"}
    settings = {f"COMFYUI_MODAL_{names[name]}": value for name, value in bucket.items() if value}
    first, key = connection["api_url"], connection["api_key"]
    with api_process(settings | {"COMFYUI_MODAL_API_KEY": key}) as second, running.client() as client:
        job_id = client.post("/v1/jobs", json={"workflow": slow(40, 0.1)}).json()["job_id"]
        clients = [StreamClient(urls, key, job_id) for urls in ((first,), (second, first))]
        eventually(lambda: all(one.named("preview") for one in clients))
        (other,) = [one for one in psutil.Process().children() if "infra.local.api_process" in " ".join(one.cmdline())]
        other.kill()
        eventually(lambda: clients[1].connections == 2)
        os.kill(connection["processes"]["api"], signal.SIGKILL)
        for number in range(1, WORKERS + 1):
            os.kill(running.connection["processes"][f"worker-{number}"], signal.SIGKILL)
        assert [one.ended(60) for one in clients] == ["completed", "completed"]
        job = finished(client, job_id)
        assert (job["status"], job["attempt"], len(job["outputs"])) == ("completed", 2, 1)
        assert len(httpx.get(job["outputs"][0]["url"], verify=NO_TLS).content) == job["outputs"][0]["size_bytes"]
    for one in clients:
        # Statuses that lasted only while a client reconnected are left out; the outputs and the end never are.
        assert one.lasting[-1] == ("status", "2-completed-0")
        assert [data["attempt"] for data in one.named("output")] == [2]
        assert one.lasting[-2][0] == "output"
        assert one.connections >= 2


def test_data_survive_a_killed_up_and_no_process_does(tmp_path: Path) -> None:
    """After a SIGKILL of `up` its processes end, and the next `up` has all jobs, outputs and keys, even new keys."""
    data = tmp_path / "data"
    process = subprocess.Popen(
        [*COMMAND, "up", "--port", "0", "--data", str(data)], env=clean_environment(), stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")
        first = Up(data, process)
        own = first.connection["api_key"]
        done = first.command("keys", "create", "--tenant", "acme", "--scopes", "jobs:read", "--json")
        assert "COMFYUI_MODAL_WEBHOOK_LOOPBACK=true" in done.stderr
        before = json.loads(done.stdout)
        assert accepts(first, before["key"])
        with first.client() as client:
            job_id = client.post("/v1/jobs", json={"workflow": BLUE}).json()["job_id"]
            assert finished(client, job_id)["status"] == "completed"
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 5
        process.kill()
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, alive
    assert before["kid"] in first.command("keys", "list").stdout
    done = first.command("keys", "create", "--tenant", "acme", "--expires", "90d", "--json")
    assert "second tenant" not in done.stderr
    after = json.loads(done.stdout)
    assert first.command("keys", "revoke", before["kid"]).returncode == 0
    with up(data) as second:
        assert second.connection["api_key"] == own
        assert [accepts(second, key) for key in (before["key"], after["key"], own)] == [False, True, True]
        with second.client() as client:
            (output,) = client.get(f"/v1/jobs/{job_id}").json()["outputs"]
            assert len(httpx.get(output["url"], verify=NO_TLS).content) == output["size_bytes"]
        log = (data / "logs" / "api.log").read_text()
    assert after["kid"] in log
    assert not any(key["key"] in log for key in (before, after))


def accepts(running: Up, key: str) -> bool:
    """Whether the API accepts the key; otherwise it answers 401."""
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx.get(f"{running.connection['api_url']}/v1/jobs", headers=headers, timeout=30, verify=NO_TLS)
    assert answer.status_code in (200, 401), answer.text
    return answer.is_success
