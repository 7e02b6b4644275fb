"""`comfyui-modal doctor`: checks the guarantees on which this product relies. Each finding says what to do.

Checks of the bucket create one probe object each under `probes/` and remove it. A store that silently ignores
conditional writes, as several small S3 servers do, would lose jobs, so the check fails.
"""

import asyncio
import uuid
from typing import Any

import httpx

from app import __version__
from infra.findings import REACHABLE, Check, CheckFailed, Note
from storage import keys
from storage.bucket.clock_skew import SET_CLOCK, clock_fault, seconds_ahead
from storage.bucket.objects import ObjectStore, SignedRequest
from storage.clock import Clock
from storage.errors import ClockWrong, ObjectNotFound, PreconditionFailed, StorageError
from workers.comfy.http import ComfyHttp
from workers.comfy.system import system_facts
from workers.errors import EngineUnavailable

HTTP_TIMEOUT_S = 10.0
READY_TRIES = 3
READY_PAUSE_S = 1.0


class BucketChecks:
    """Checks of the bucket. Each returns what it found or raises `CheckFailed`."""

    def __init__(self, objects: ObjectStore, clock: Clock, *, lease_s: float) -> None:
        self._objects = objects
        self._clock = clock
        self._lease_s = lease_s

    def all(self) -> dict[str, Check]:
        return self.gate() | self.guarantees()

    def gate(self) -> dict[str, Check]:
        """The check that every other check depends on."""
        return {"bucket reachable": self.reachable}

    def guarantees(self) -> dict[str, Check]:
        return {
            "conditional create": self.conditional_create,
            "conditional replace": self.conditional_replace,
            "clock": self.clock,
            "presigned download": self.presigned_download,
            "presigned upload": self.presigned_upload,
        }

    async def reachable(self) -> str:
        key = _probe_key()
        try:
            await self._objects.put(key, b"probe", content_type="text/plain")
            body = (await self._objects.get(key)).body
        except StorageError as error:
            raise CheckFailed(str(error), _reach(error)) from error
        finally:
            await _forget(self._objects, key)
        if body != b"probe":
            raise CheckFailed(
                "what was read differs from what was written", "use a bucket with read-after-write consistency"
            )
        return "written, read and removed an object"

    async def conditional_create(self) -> str:
        key = _probe_key()
        try:
            await self._objects.create(key, b"first")
            await self._objects.create(key, b"second")
        except PreconditionFailed:
            return "a second create-only write was refused"
        finally:
            await _forget(self._objects, key)
        raise CheckFailed("the bucket ignores If-None-Match: * on PutObject", _NO_CONDITIONS)

    async def conditional_replace(self) -> str:
        key = _probe_key()
        try:
            # Each write has another body: an ETag is a hash of it, so an equal body would make the stale ETag current.
            stale = await self._objects.put(key, b"first")
            await self._objects.put(key, b"second")
            await self._objects.replace(key, b"third", etag=stale)
        except PreconditionFailed:
            return "a write over a stale ETag was refused"
        finally:
            await _forget(self._objects, key)
        raise CheckFailed("the bucket ignores If-Match on PutObject", _NO_CONDITIONS)

    async def clock(self) -> str:
        ahead_s = await seconds_ahead(self._objects, self._clock)
        if (fault := clock_fault(ahead_s, self._lease_s)) is not None:
            raise CheckFailed(fault, f"{SET_CLOCK}: leases and signatures go by it")
        return "not known: the bucket's answers have no date" if ahead_s is None else f"{abs(ahead_s):.0f} s apart"

    async def presigned_download(self) -> str:
        key = _probe_key()
        try:
            await self._objects.put(key, b"probe", content_type="text/plain")
            signed = self._objects.presign_get(key, expires_s=60, filename="probe.txt", content_type="text/plain")
            response = await _send(signed)
        finally:
            await _forget(self._objects, key)
        if response.status_code != 200 or response.content != b"probe":
            raise CheckFailed(f"a presigned GET answered {response.status_code}", _NO_PRESIGN)
        return "a presigned GET answered 200"

    async def presigned_upload(self) -> str:
        key = _probe_key()
        signed = self._objects.presign_put(key, expires_s=60, size=5, content_type="text/plain")
        try:
            response = await _send(signed, b"probe")
            # The signature includes the condition that no object exists, so the URL is good for one upload.
            again = await _send(signed, b"other")
        finally:
            await _forget(self._objects, key)
        if not response.is_success:
            raise CheckFailed(f"a presigned PUT answered {response.status_code}", _NO_PRESIGN)
        if again.is_success:
            raise CheckFailed("a presigned PUT could be used twice", _NO_CONDITIONS)
        return f"a presigned PUT answered {response.status_code}, a second one was refused"


def _reach(error: StorageError) -> str:
    """Say what to do about a bucket that cannot be reached."""
    if isinstance(error, ClockWrong):
        return SET_CLOCK
    if "no credentials" in str(error):
        return (
            "set COMFYUI_MODAL_S3_ACCESS_KEY and COMFYUI_MODAL_S3_SECRET_KEY, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    return "check COMFYUI_MODAL_BUCKET, COMFYUI_MODAL_S3_ENDPOINT, the credentials and their policy"


_NO_CONDITIONS = (
    "choose a store that enforces conditional writes (AWS S3, R2, SeaweedFS 4.48 or newer): jobs would be lost here"
)
_NO_PRESIGN = (
    "check that COMFYUI_MODAL_S3_PUBLIC_ENDPOINT is reachable from here, and that no proxy before it changes headers"
)


_ISOLATE = (
    "a graph that runs code can read what the worker's user can: run workers as root, or on Linux 5.13 or newer with "
    "Landlock; COMFYUI_MODAL_ISOLATION=required refuses to run without"
)


class EngineChecks:
    """Checks of a worker's engine, by its URL or its socket."""

    def __init__(self, url: str | None) -> None:
        self._url = url

    def all(self) -> dict[str, Check]:
        return {"engine reachable": self.reachable}

    async def reachable(self) -> str:
        if self._url is None:
            raise CheckFailed(
                "no worker says that its engine is ready", "start `comfyui-modal up`, and read DIR/logs/worker-1.log"
            )
        http = ComfyHttp(self._url)
        try:
            facts = system_facts(await http.get_json("/system_stats"))
        except EngineUnavailable as error:
            raise CheckFailed(str(error), REACHABLE) from error
        finally:
            await http.close()
        return f"ComfyUI {facts.comfyui_version or 'of unknown version'} at {self._url}"


class ApiChecks:
    """Checks of the API, by its URL and a client's key."""

    def __init__(self, url: str, key: str, timeout_s: float = HTTP_TIMEOUT_S) -> None:
        self._url = url
        self._key = key
        self._timeout_s = timeout_s

    def all(self) -> dict[str, Check]:
        return {
            "API alive": self.alive,
            "API ready": self.ready,
            "API key": self.key,
            "engine isolation": self.isolation,
        }

    async def alive(self) -> str:
        """Check that the API answers and has the version of this command."""
        response = await self._get("/health")
        if response.status_code != 200:
            raise CheckFailed(f"/health answered {response.status_code}", "read the API's log: it does not start")
        theirs = response.json().get("version", "unknown")
        if theirs != __version__:
            raise CheckFailed(f"the API is version {theirs}, this command {__version__}", "run both from one checkout")
        return f"{self._url} is version {theirs}"

    async def ready(self) -> str:
        response = await self._get("/ready")
        for _ in range(READY_TRIES - 1):
            if response.status_code == 200:
                break
            # A container that has just started may need longer than /ready waits for its first connection.
            await asyncio.sleep(READY_PAUSE_S)
            response = await self._get("/ready")
        if response.status_code != 200:
            raise CheckFailed(
                f"/ready answered {response.status_code}", "read the API's log: its bucket does not answer"
            )
        return f"{self._url} is ready"

    async def key(self) -> str:
        response = await self._get("/v1/jobs?limit=1", {"Authorization": f"Bearer {self._key}"})
        if response.status_code != 200:
            raise CheckFailed(
                f"the API answered {response.status_code}",
                "use the api_key of connection.json, or COMFYUI_MODAL_API_KEY",
            )
        return "accepted"

    async def isolation(self) -> str | Note:
        """Report the isolation that the last worker of each pool has published."""
        response = await self._get("/v1/system", {"Authorization": f"Bearer {self._key}"})
        if response.status_code != 200:
            raise CheckFailed(f"/v1/system answered {response.status_code}", "read the API's log")
        workers = [pool["worker"] for pool in response.json()["pools"] if pool["worker"] is not None]
        reported = {worker.get("isolation") or "unknown" for worker in workers} or {"no worker has started yet"}
        detail = "; ".join(sorted(reported))
        if any(text.startswith(("none", "unknown")) for text in reported):
            return Note(detail, _ISOLATE)
        return detail

    async def _get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return await _request("GET", self._url + path, timeout_s=self._timeout_s, headers=headers)


async def _send(signed: SignedRequest, body: bytes | None = None) -> httpx.Response:
    return await _request(signed.method, signed.url, headers=dict(signed.headers), content=body)


async def _request(method: str, url: str, *, timeout_s: float = HTTP_TIMEOUT_S, **options: Any) -> httpx.Response:
    try:
        async with httpx.AsyncClient(timeout=timeout_s) as client:
            return await client.request(method, url, **options)
    except httpx.HTTPError as error:
        raise CheckFailed(f"{type(error).__name__}: {error}", REACHABLE) from error


def _probe_key() -> str:
    return keys.probe(uuid.uuid4().hex)


async def _forget(objects: ObjectStore, key: str) -> None:
    try:
        await objects.delete(key)
    except (StorageError, ObjectNotFound):
        return  # the finding already reports the problem
