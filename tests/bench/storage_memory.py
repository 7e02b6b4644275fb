"""The bucket's adapter alone: memory and speed of a file of 1 GiB up and down, each in a fresh process."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from storage.bucket.s3 import S3ObjectStore
from tests.bench.figures import Figure, Table, figures
from tests.bench.processes import MIB, PeakMemory
from tests.bench.server import bench_config, bench_server

MEBIBYTES = 1024
LARGE = Path("large.bin")


async def _file(objects: S3ObjectStore) -> None:
    await objects.upload_file("bench/file", LARGE, content_type="video/mp4")


async def _download(objects: S3ObjectStore) -> None:
    await objects.download_file("bench/file", Path("copy.bin"))


TRANSFERS = {"upload_file": _file, "download_file": _download}


async def _transfer(name: str, endpoint_url: str) -> str:
    objects = S3ObjectStore(bench_config(endpoint_url))
    warm = Path("warm.bin")
    warm.write_bytes(bytes(20 * MIB))
    await objects.upload_file("bench/warm", warm, content_type="video/mp4")  # boto3 allocates at its first upload
    with PeakMemory() as memory:
        started = time.perf_counter()
        await TRANSFERS[name](objects)
        seconds = time.perf_counter() - started
    await objects.close()
    return f"{memory.growth_mib:.0f} MiB, {MEBIBYTES / seconds:.0f} MiB/s"


async def _measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="comfyui-modal-bench-") as folder:
        _make_file(Path(folder, LARGE))
        async with bench_server() as endpoint_url:
            values = [await asyncio.to_thread(_in_a_process, name, endpoint_url, folder) for name in TRANSFERS]
    return [
        Figure(f"1 GiB by {name}: growth of RSS, speed", value, "≤ 64 MiB")
        for name, value in zip(TRANSFERS, values, strict=True)
    ]


def _make_file(path: Path) -> None:
    with path.open("wb") as file:
        file.writelines(n.to_bytes(4, "big") * (MIB // 4) for n in range(MEBIBYTES))


def _in_a_process(name: str, endpoint_url: str, folder: str) -> str:
    command = [sys.executable, "-m", "tests.bench.storage_memory", name, endpoint_url]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def run() -> Table:
    return figures(asyncio.run(_measure()))


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(_transfer(*sys.argv[1:])))
