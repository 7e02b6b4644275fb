"""The same outputs by presigned URL, as in this project, and as base64 in a JSON answer, as in worker-comfyui.

In the base64 way the worker requests each file from ComfyUI's /view, encodes it, and puts all files into one JSON
document, which the client decodes. Here the document goes directly from the worker to the client: the platform between
them, which copies it once more, is left out in favour of that way.
"""

import asyncio
import base64
import json
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import psutil

from storage.bucket.s3 import S3ObjectStore
from storage.jobs.record import Status
from tests.bench.figures import Table
from tests.bench.outputs import SIZES, WARM, Size
from tests.bench.processes import MIB, Part, Spent, finished, report, running, spending
from tests.bench.server import bench_config, bench_server
from tests.support.api_process import api_process, bucket_variables
from tests.support.engines import engine_client
from tests.support.workbench import workbench

KEY = "bench-key"
NEEDED_GIB = 12
"""The memory that both ends of the base64 way need for 1 GiB, with a margin."""
COLUMNS = ("outputs", "way", "bytes to the client", "CPU: worker, client", "RSS grows by: worker, client")


# Presigned URLs: a worker and a client of the API.


async def _worker(endpoint_url: str, folder: str, name: str) -> None:
    """Run a job from its claim to its end; the engine and its files remain until standard input ends."""
    objects = S3ObjectStore(bench_config(endpoint_url))
    async with workbench(Path(folder), objects) as bench:
        await bench.run(WARM.graph())
        await bench.submit(SIZES[name].graph(), timeout_s=600)
        with spending() as spent:
            record = await bench.serve_one()
        assert record is not None
        assert record.status is Status.COMPLETED, record.error_detail
        with engine_client(bench.host.url) as client:
            history = client.get("/history").json()
        refs = [ref for entry in history.values() for node in entry["outputs"].values() for ref in node["files"]]
        report(spent, job_id=record.job_id, engine=bench.host.url, refs=refs[WARM.files :])
        await asyncio.to_thread(sys.stdin.read)
    await objects.close()


async def _client(api_url: str, job_id: str, folder: str) -> None:
    received = 0
    async with httpx.AsyncClient(timeout=60) as client:
        with spending() as spent:
            job = await client.get(f"{api_url}/v1/jobs/{job_id}", headers={"authorization": f"Bearer {KEY}"})
            received += len(job.content)
            for number, output in enumerate(job.json()["outputs"]):
                async with client.stream("GET", output["url"]) as answer:
                    answer.raise_for_status()
                    with Path(folder, str(number)).open("wb") as file:  # noqa: ASYNC230  nothing else runs here
                        async for chunk in answer.aiter_bytes(MIB):
                            received += len(chunk)
                            file.write(chunk)
    report(spent, received=received, written=_written(folder))


# Base64.


def _base64_worker(engine: str, references: str) -> None:
    """Answer one GET with the document, made during the request like the return value of a handler."""
    refs = json.loads(Path(references).read_text())
    spent = Spent()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal spent
            with spending() as spent:
                body = json.dumps({"output": {"images": [_encoded(view, ref) for ref in refs]}}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with engine_client(engine) as view, HTTPServer(("127.0.0.1", 0), Handler) as server:
        report(spent, url=f"http://127.0.0.1:{server.server_port}")
        server.handle_request()
    report(spent)


def _encoded(view: httpx.Client, ref: dict[str, str]) -> dict[str, str]:
    image = view.get("/view", params=ref).raise_for_status().content
    return {"filename": ref["filename"], "type": "base64", "data": base64.b64encode(image).decode()}


def _base64_client(url: str, folder: str) -> None:
    with spending() as spent:
        answer = httpx.get(url, timeout=600)
        for number, image in enumerate(answer.json()["output"]["images"]):
            Path(folder, str(number)).write_bytes(base64.b64decode(image["data"]))
    report(spent, received=len(answer.content), written=_written(folder))


# The comparison.


async def _measure(size: Size) -> list[tuple[str, ...]]:
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
        async with bench_server() as endpoint_url:
            return await asyncio.to_thread(_both, size, endpoint_url, Path(folder))


def _both(size: Size, endpoint_url: str, folder: Path) -> list[tuple[str, ...]]:
    for name in ("files", "base64"):
        folder.joinpath(name).mkdir()
    settings = bucket_variables(bench_config(endpoint_url)) | {"COMFYUI_MODAL_API_KEY": KEY}
    with running("base64_way", "worker", endpoint_url, str(folder / "engine"), size.name) as worker:
        with api_process(settings) as api_url:
            client = finished("base64_way", "client", api_url, worker.reported["job_id"], str(folder / "files"))
        rows = [_row(size, "presigned", worker, client)]
        if psutil.virtual_memory().available < NEEDED_GIB * 1024**3:
            return [*rows, (size.name, "base64", f"not tried: less than {NEEDED_GIB} GiB are free", "", "")]
        references = folder / "references.json"
        references.write_text(json.dumps(worker.reported["refs"]))
        with running("base64_way", "base64_worker", worker.reported["engine"], str(references)) as other:
            other_client = finished("base64_way", "base64_client", other.reported["url"], str(folder / "base64"))
    return [*rows, _row(size, "base64", other, other_client)]


def _row(size: Size, way: str, worker: Part, client: Part) -> tuple[str, ...]:
    received, files = client.reported["received"], size.total * MIB
    assert client.reported["written"] == files
    spent = (worker.gpu_time, client.gpu_time)
    return (
        size.name,
        way,
        f"{received / MIB:.0f} MiB, {received / files:.1%} of the files",
        ", ".join(f"{one.cpu_s:.1f} s" for one in spent),
        ", ".join(f"{one.growth_mib:.0f} MiB" for one in spent),
    )


def _written(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).iterdir())


def run() -> Table:
    rows = [row for size in SIZES.values() for row in asyncio.run(_measure(size))]
    notes = ("The worker's part is here the whole job, with its SHA-256 of each file; there it is the answer alone.",)
    return Table(COLUMNS, rows, notes)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["worker", endpoint_url, folder, name]:
            asyncio.run(_worker(endpoint_url, folder, name))
        case ["client", api_url, job_id, folder]:
            asyncio.run(_client(api_url, job_id, folder))
        case ["base64_worker", engine, references]:
            _base64_worker(engine, references)
        case ["base64_client", url, folder]:
            _base64_client(url, folder)
