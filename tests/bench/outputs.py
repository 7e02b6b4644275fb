"""Uploads of outputs to the bucket by the worker and by `aws s3 cp`, with the same files and server."""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from storage.bucket.objects import ObjectStore
from storage.bucket.s3 import S3ObjectStore
from storage.jobs.record import Status
from tests.bench.figures import Table
from tests.bench.processes import MIB, ROOT, PeakMemory, report, running, spending
from tests.bench.server import ACCESS_KEY, BUCKET, SECRET_KEY, bench_config, bench_server
from tests.support.environment import clean_environment
from tests.support.records import a_job
from tests.support.workbench import workbench
from workers.comfy.engine import ComfyEngine
from workers.outputs.uploads import OutputUploads, UploadPolicy
from workflows.messages import Executed

ROUNDS = 3
AWS = ROOT / ".bench" / "bin" / "aws"
COLUMNS = (
    "outputs",
    "worker",
    "`aws s3 cp`",
    "worker's share",
    "whole job",
    "RSS: worker grows by",
    "RSS: `aws`, peak",
)


@dataclass(frozen=True, slots=True)
class Size:
    """A number of files of a size in MiB."""

    name: str
    files: int
    mebibytes: int

    @property
    def total(self) -> int:
        return self.files * self.mebibytes

    def graph(self) -> dict[str, object]:
        """Return a graph with a unique name per file, because equal nodes would run once."""
        return {str(number): self._node(f"noise-{number}") for number in range(self.files)}

    def _node(self, prefix: str) -> dict[str, object]:
        return {"class_type": "LiteNoise", "inputs": {"mebibytes": self.mebibytes, "filename_prefix": prefix}}


SIZES = {
    size.name: size for size in (Size("1 MiB × 100", 100, 1), Size("100 MiB × 4", 4, 100), Size("1 GiB × 1", 1, 1024))
}
WARM = Size("warm", 2, 20)
"""Files that are transferred first, so that one-time loading does not count."""


@dataclass(slots=True)
class Measured:
    """Seconds of each round, and memory in MiB."""

    worker_s: list[float] = field(default_factory=list)
    aws_s: list[float] = field(default_factory=list)
    worker_mib: float = 0.0
    aws_mib: float = 0.0


# The worker's part, in a separate process.


async def _worker(endpoint_url: str, folder: str, name: str) -> None:
    """Run a job from its claim to its end. Then, for each line of standard input, repeat only the uploads: examine,
    hash and store the files of finished nodes."""
    objects = S3ObjectStore(bench_config(endpoint_url))
    async with workbench(Path(folder), objects) as bench:
        await bench.run(WARM.graph())
        await bench.submit(SIZES[name].graph(), timeout_s=600)
        with spending() as spent:
            record = await bench.serve_one()
        assert record is not None
        assert record.status is Status.COMPLETED, record.error_detail
        assert len(record.outputs) == SIZES[name].files
        report(spent)
        while line := await asyncio.to_thread(sys.stdin.readline):
            with spending() as spent:
                await _upload(bench.host.engine, objects, Path(folder, "output"), line.strip())
            report(spent)
    await objects.close()


async def _upload(engine: ComfyEngine, objects: ObjectStore, folder: Path, job_id: str) -> None:
    uploads = OutputUploads(engine, objects, a_job(job_id=job_id, attempt=1), UploadPolicy())
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            entry = {"filename": path.name, "subfolder": str(path.parent.relative_to(folder)), "type": "output"}
            await uploads.add(Executed("prompt", path.stem, path.stem, {"files": [entry]}))
    await uploads.all()
    await uploads.close()


# The part of aws.


def _copied_by_aws(endpoint_url: str, source: Path, target: str) -> tuple[float, float]:
    """Return the seconds and the peak RSS in MiB, with the command's default settings."""
    command = [str(AWS), "s3", "cp", "--recursive", "--only-show-errors", "--endpoint-url", endpoint_url, str(source)]
    credentials = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    began = time.perf_counter()
    process = subprocess.Popen([*command, f"s3://{BUCKET}/{target}"], env=clean_environment() | credentials | nothing)
    with process, PeakMemory(process.pid) as memory:
        process.wait()
    assert process.returncode == 0
    return time.perf_counter() - began, memory.peak / MIB


def _start_of_aws(endpoint_url: str) -> float:
    """Return the seconds for a file of one byte, which are mostly the start of the command."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "byte").write_bytes(b"0")
        return statistics.median(_copied_by_aws(endpoint_url, Path(folder), "byte")[0] for _ in range(ROUNDS))


async def _measure(size: Size) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
        async with bench_server() as endpoint_url:
            return await asyncio.to_thread(_compared, size, endpoint_url, folder)


def _compared(size: Size, endpoint_url: str, folder: str) -> tuple[str, ...]:
    """Return one row. Both ways take turns, so that other load on the machine affects both."""
    measured = Measured()
    start_s = _start_of_aws(endpoint_url)
    with running("outputs", endpoint_url, folder, size.name) as worker:
        job = worker.gpu_time
        for number in range(ROUNDS):
            spent = worker.ask(f"round-{number}")
            measured.worker_s.append(spent.seconds)
            measured.worker_mib = max(measured.worker_mib, spent.growth_mib, job.growth_mib)
            seconds, peak = _copied_by_aws(endpoint_url, Path(folder, "output"), f"aws/{number}")
            measured.aws_s.append(seconds - start_s)
            measured.aws_mib = max(measured.aws_mib, peak)
    return _row(size, measured, job.seconds, start_s)


def _row(size: Size, measured: Measured, job_s: float, start_s: float) -> tuple[str, ...]:
    shares = [aws / worker for worker, aws in zip(measured.worker_s, measured.aws_s, strict=True)]
    return (
        size.name,
        _speed(size, statistics.median(measured.worker_s)),
        f"{_speed(size, statistics.median(measured.aws_s))} after {start_s:.1f} s",
        f"{statistics.median(shares):.0%}",
        f"{job_s:.1f} s",
        f"{measured.worker_mib:.0f} MiB",
        f"{measured.aws_mib:.0f} MiB",
    )


def _speed(size: Size, seconds: float) -> str:
    return f"{size.total / seconds:.0f} MiB/s"


def run() -> Table:
    if not AWS.exists():
        raise SystemExit(f"{AWS} is missing: make .bench/.installed")
    rows = [asyncio.run(_measure(size)) for size in SIZES.values()]
    version = subprocess.run([AWS, "--version"], capture_output=True, text=True, check=True).stdout.split()[0]
    return Table(
        COLUMNS,
        rows,
        (
            f"Medians of {ROUNDS} rounds, in turns; {version}, less the time that a file of one byte takes it.",
            "The worker's speed has its SHA-256 of each file in it. The whole job has the engine's writing in it.",
        ),
    )


if __name__ == "__main__":
    asyncio.run(_worker(*sys.argv[1:]))
