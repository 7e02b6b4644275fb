"""The Python client of the API. The command line is built on it, and no other module here sends HTTP requests.

with Client("http://127.0.0.1:8000", api_key) as client:
    job = client.submit(workflow, media=[client.input_file(Path("cat.png"))])
    job = client.wait(job["job_id"])
    for output in job["outputs"]:
        client.download(output, Path("outputs"))
"""

import hashlib
import mimetypes
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import stamina

Json = dict[str, Any]

LONG_POLL_S = 20
TIMEOUT_S = 60.0
CHUNK_BYTES = 1024 * 1024
_TERMINAL = ("completed", "failed")


class ApiUnreachable(Exception):
    """The API or the bucket sent no response."""


class ApiProblem(Exception):
    """The API refused the request with an RFC 9457 problem."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(problem.get("detail") or problem.get("title") or f"the API answered {status}")
        self.status = status
        self.type = str(problem.get("type", "about:blank"))
        self.title = str(problem.get("title", ""))
        self.hint = str(problem.get("hint", ""))
        self.pointer = problem.get("pointer")
        self.errors: Sequence[Mapping[str, str]] = problem.get("errors") or ()


class DownloadFailed(Exception):
    """The downloaded bytes differ from the job's output."""


class Client:
    """A blocking client. A request whose connection fails is retried, and no retry creates anything twice."""

    def __init__(self, api_url: str, api_key: str) -> None:
        headers = {"authorization": f"Bearer {api_key}"}
        tls = httpx.create_ssl_context()  # shared by both clients: loading the CA certificates takes 40 ms
        self._api = httpx.Client(base_url=api_url.rstrip("/"), headers=headers, timeout=TIMEOUT_S, verify=tls)
        self._bucket = httpx.Client(timeout=TIMEOUT_S, verify=tls)  # presigned URLs: the key must not travel there

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._api.close()
        self._bucket.close()

    def submit(self, workflow: Json, **fields: Any) -> Json:
        """POST /v1/jobs. `fields` are the other members of the request, such as `inputs` and `media`."""
        return self._make("/v1/jobs", {"workflow": workflow, **fields})

    def workflows(self) -> list[Json]:
        """GET /v1/workflows: the workflows that can be run by name."""
        found: list[Json] = self._json("GET", "/v1/workflows")["workflows"]
        return found

    def workflow(self, name: str) -> Json:
        """GET /v1/workflows/{name}: one workflow, with its graph as `workflow`."""
        return self._json("GET", f"/v1/workflows/{quote(name, safe='')}")

    def submit_named(self, name: str, inputs: Json, **fields: Any) -> Json:
        """POST /v1/workflows/{name}/jobs. Media are inputs as well, as `MediumInput`."""
        return self._make(f"/v1/workflows/{quote(name, safe='')}/jobs", {"inputs": inputs, **fields})

    def job(self, job_id: str) -> Json:
        return self._json("GET", f"/v1/jobs/{job_id}")

    def wait(self, job_id: str, on_change: Callable[[Json], None] = lambda _: None) -> Json:
        """Wait until the job is terminal and return it. `on_change` gets every version that the long poll returns."""
        etag = ""
        while True:
            # The first request does not wait, so that `on_change` gets the state of a job that is long under way.
            headers = {"if-none-match": etag} if etag else {}
            response = self._send(
                "GET", f"/v1/jobs/{job_id}?wait={LONG_POLL_S}" if etag else f"/v1/jobs/{job_id}", headers=headers
            )
            if response.status_code == 304:
                continue
            job: Json = response.json()
            etag = response.headers["etag"]
            on_change(job)
            if job["status"] in _TERMINAL:
                return job

    def jobs(self, *, status: str | None = None, limit: int = 50, cursor: str | None = None) -> Json:
        """GET /v1/jobs: one page with `jobs` and `next_cursor`."""
        wanted = {"status": status, "limit": limit, "cursor": cursor}
        return self._json("GET", "/v1/jobs", params={key: value for key, value in wanted.items() if value is not None})

    def cancel(self, job_id: str) -> Json:
        return self._json("DELETE", f"/v1/jobs/{job_id}")

    def remove(self, job_id: str) -> Json | None:
        """Remove a job and its files. Returns the job if it is still running and will be removed when it stops."""
        response = self._send("DELETE", f"/v1/jobs/{job_id}", params={"purge": "true"})
        left: Json | None = None if response.status_code == 204 else response.json()
        return left

    def logs(self, job_id: str, attempt: int | None = None) -> str:
        """Return the engine's log of the given attempt, by default the current one."""
        wanted = {} if attempt is None else {"attempt": attempt}
        return self._send("GET", f"/v1/jobs/{job_id}/logs", params=wanted).text

    def submit_batch(self, **fields: Any) -> Json:
        """POST /v1/batches with `workflow` and `input_sets`, or with `jobs`."""
        return self._make("/v1/batches", fields)

    def batch(self, batch_id: str) -> Json:
        return self._json("GET", f"/v1/batches/{batch_id}")

    def cancel_batch(self, batch_id: str) -> Json:
        return self._json("DELETE", f"/v1/batches/{batch_id}")

    def test_webhook(self, url: str) -> Json:
        """POST /v1/webhooks/test: send a test event and return its delivery."""
        return self._json("POST", "/v1/webhooks/test", json={"url": url})

    def deliveries(self, job_id: str) -> list[Json]:
        found: list[Json] = self._json("GET", f"/v1/jobs/{job_id}/deliveries")["deliveries"]
        return found

    def redeliver(self, job_id: str, event_id: str) -> Json:
        return self._json("POST", f"/v1/jobs/{job_id}/deliveries/{event_id}/redeliver")

    def health(self) -> Json:
        return self._json("GET", "/health")

    def system(self) -> Json:
        """GET /v1/system: versions, and the environment of each pool's last worker."""
        return self._json("GET", "/v1/system")

    def input_file(self, path: Path, name: str | None = None) -> Json:
        """Upload a file by presigned PUT. Returns its entry for `media`."""
        return {"name": name or path.name, "upload_id": self.upload(path)}

    def upload(self, path: Path) -> str:
        """Upload a file directly to the bucket, in constant memory, and return its upload_id."""
        created = self._make(
            "/v1/uploads",
            {
                "filename": path.name,
                "size_bytes": path.stat().st_size,
                "content_type": mimetypes.guess_type(path.name)[0] or "application/octet-stream",
            },
        )
        with path.open("rb") as file, _reachable():
            # httpx does not encode these as chunked, because the signed headers have the length.
            response = self._bucket.request(
                created["method"], created["url"], headers=created["headers"], content=_chunks(file)
            )
        if not response.is_success:
            raise ApiProblem(response.status_code, {"detail": f"the bucket refused the upload of {path.name}"})
        return str(created["upload_id"])

    def download(self, output: Json, folder: Path) -> Path:
        """Download an output to `folder` and check its sha256. An existing file is never overwritten."""
        folder.mkdir(parents=True, exist_ok=True)
        path = _free_path(folder / Path(output["filename"]).name)
        digest = hashlib.sha256()
        # The final name appears only after the checksum matches, so an interrupted download never looks complete.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as drafts:
            draft = Path(drafts) / "draft"
            with _reachable(), self._bucket.stream("GET", output["url"]) as response:
                if response.status_code != 200:
                    raise DownloadFailed(f"{output['filename']}: the bucket answered {response.status_code}")
                with draft.open("wb") as file:
                    for chunk in response.iter_bytes(CHUNK_BYTES):
                        digest.update(chunk)
                        file.write(chunk)
            if digest.hexdigest() != output["sha256"]:
                raise DownloadFailed(f"{output['filename']}: the bytes differ from those that the job made")
            return draft.rename(path)

    def _make(self, path: str, document: Json) -> Json:
        """Send a POST that is safe to retry: its Idempotency-Key makes repeats create one resource."""
        return self._json("POST", path, json=document, headers={"idempotency-key": str(uuid.uuid4())})

    def _json(self, method: str, path: str, **options: Any) -> Json:
        answer: Json = self._send(method, path, **options).json()
        return answer

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        with _reachable():
            for attempt in stamina.retry_context(on=httpx.TransportError, attempts=3):
                with attempt:
                    response = self._api.request(method, path, **options)
        if response.is_error:
            raise ApiProblem(response.status_code, _problem(response))
        return response


class _reachable:  # noqa: N801  a context manager that reads as a word
    """Converts every HTTP transport error into `ApiUnreachable`."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, httpx.HTTPError):
            raise ApiUnreachable(f"{type(error).__name__}: {error}") from error


def _problem(response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"detail": f"the API answered {response.status_code}"}


def _chunks(file: Any) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _free_path(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        candidate = path.with_name(f"{path.stem} ({number}){path.suffix}")
        number += 1
    return candidate
