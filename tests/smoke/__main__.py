"""`make smoke-modal` tests a deployment on Modal from outside, one line per step. It costs some GPU seconds.

It needs a Modal token and COMFYUI_MODAL_API_KEY; Modal provides the API's URL unless COMFYUI_MODAL_API_URL is set. The
exit code is 0 if every step succeeded, 1 if one failed, and 3 without a token or a key.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from comfyui_modal_client import AcceptedJob, ApiProblem, Client, Json
from infra.cli.output import FAILED, UNREACHABLE
from infra.cloud.modal_cloud import ModalCloud
from infra.cloud.port import Cloud, CloudError
from infra.demo import write_photograph
from infra.on_modal import API_FUNCTION
from infra.settings import DeploymentSettings

LONG: Json = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 2048, "height": 2048, "batch_size": 16, "color": 0}},
    **{
        str(node): {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": f"long{node}"}}
        for node in range(2, 18)
    },
}
"""A model-free graph that runs long enough to be cancelled: 256 pictures, of which 16 are in memory, 0.8 GB."""


class Smoke:
    def __init__(self, client: Client, folder: Path) -> None:
        self._client = client
        self._folder = folder

    def steps(self, pools: tuple[str, ...]) -> Iterator[tuple[str, Callable[[], str]]]:
        yield "a photograph through a presigned upload, a worker, and back", self.picture
        yield "a video", self.video
        for pool in pools:
            yield f"a job in pool {pool}", lambda pool=pool: self.in_pool(pool)  # type: ignore[misc]
        yield "a job that cannot run is refused before a GPU starts", self.refused
        yield "a running job is cancelled", self.cancelled
        yield "what the workers run on", self.system

    def picture(self) -> str:
        return self._ran(self._example("still"))

    def video(self) -> str:
        return self._ran(self._example("clip"))

    def in_pool(self, pool: str) -> str:
        return self._ran(self._example("words", gpu=pool))

    def refused(self) -> str:
        try:
            self._client.submit({"1": {"class_type": "NoSuchNode", "inputs": {}}})
        except ApiProblem as problem:
            return f"{problem.status}: {problem.title}"
        raise AssertionError("the job was accepted")

    def cancelled(self) -> str:
        job_id = self._client.submit(LONG)["job_id"]
        while self._client.job(job_id)["status"] == "queued":
            time.sleep(0.2)
        began = time.monotonic()
        self._client.cancel(job_id)
        ended = self._client.wait(job_id)
        assert ended["error"] == "Cancelled by user", ended["error"]
        return f"after {time.monotonic() - began:.1f} s"

    def system(self) -> str:
        workers = [pool["worker"] for pool in self._client.system()["pools"] if pool["worker"] is not None]
        assert workers, "no worker has reported its engine"
        return "; ".join(f"{worker['gpu']}: attention {worker['attention']['backend']}" for worker in workers)

    def _example(self, name: str, **fields: Any) -> AcceptedJob:
        inputs: Json = {}
        if any(one["type"] == "image" for one in self._client.workflow(name)["inputs"]):
            photo = self._folder / "photo.png"
            write_photograph(photo)
            inputs["image"] = {"upload_id": self._client.upload(photo), "filename": photo.name}
        return self._client.submit_named(name, inputs, **fields)

    def _ran(self, accepted: AcceptedJob) -> str:
        began = time.monotonic()
        job = self._client.wait(accepted["job_id"])
        assert job["status"] == "completed", f"{job['status']}: {job['error']}"
        assert job["outputs"], "the job has no outputs"
        for output in job["outputs"]:
            self._client.download(output, self._folder)  # compares the sha256
        return f"{len(job['outputs'])} output(s) after {time.monotonic() - began:.1f} s"


@contextmanager
def _connected(cloud: Cloud) -> Iterator[Client]:
    url = os.environ.get("COMFYUI_MODAL_API_URL") or asyncio.run(cloud.url(API_FUNCTION))
    with Client(url, os.environ["COMFYUI_MODAL_API_KEY"]) as client:
        yield client


def main() -> int:
    if "COMFYUI_MODAL_API_KEY" not in os.environ:
        sys.stderr.write("set COMFYUI_MODAL_API_KEY to a key of the deployment\n")
        return UNREACHABLE
    pools = DeploymentSettings().gpu_pools
    cloud = ModalCloud(pools)
    try:
        asyncio.run(cloud.hello())
        with _connected(cloud) as client, tempfile.TemporaryDirectory() as folder:
            held = [_step(name, step) for name, step in Smoke(client, Path(folder)).steps(tuple(pools))]
    except CloudError as error:
        sys.stderr.write(f"{error}\n")
        return UNREACHABLE
    return 0 if all(held) else FAILED


def _step(name: str, step: Callable[[], str]) -> bool:
    try:
        said = step()
    except Exception as error:  # any error, so that the following steps still run
        sys.stdout.write(f"FAIL {name}: {type(error).__name__}: {error}\n")
        return False
    sys.stdout.write(f"ok   {name}: {said}\n")
    return True


if __name__ == "__main__":
    sys.exit(main())
