"""The requests of the soak and the frequency of each kind. The same seed gives the same requests."""

import base64
import json
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from storage.access.api_keys import new_key, new_kid
from tests.support.api_server import BLUE, PNG

MIB = 1024 * 1024
KNOWN_JOBS = 200
"""The number of newest jobs that are requested again."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `body` has the bytes to send; with `is_cut` the connection breaks in the middle of them."""

    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    is_cut: bool = False


class Mixture:
    """Draws requests; `receiver` is the URL of a webhook receiver."""

    def __init__(self, seed: int, api_key: str, receiver: str) -> None:
        self._chance = random.Random(seed)  # noqa: S311  a seed must reproduce it
        self._auth = {"authorization": f"Bearer {api_key}"}
        self._receiver = receiver
        self._jobs: list[str] = []
        self._kinds, self._weights = zip(*self._table(), strict=True)

    def next(self) -> Ask:
        kind: Callable[[], Ask] = self._chance.choices(self._kinds, self._weights)[0]
        return kind()

    def made(self, job_id: str) -> None:
        self._jobs = [*self._jobs[-KNOWN_JOBS:], job_id]

    def _table(self) -> list[tuple[Callable[[], Ask], float]]:
        return [
            (self._job, 6),
            (self._job_with_media, 2),
            (self._large_medium, 0.5),
            (self._long_text, 1),
            (self._batch, 0.5),
            (self._hostile_medium, 0.5),
            (self._many_values, 0.5),
            (self._deep, 1),
            (self._not_json, 8),
            (self._wrong_fields, 8),
            (self._unknown_key, 10),
            (self._no_key, 4),
            (self._huge_head, 1),
            (self._cut_off, 2),
            (self._trailers, 1),
            (self._long_poll, 1),
            (self._webhook_test, 0.5),
            (self._upload, 5),
            (self._list, 8),
            (self._known_job, 15),
            (self._unknown_job, 10),
            (self._cancel, 2),
            (self._open_path, 12),
        ]

    def _post(self, path: str, document: Any) -> Ask:
        return self._send(path, json.dumps(document).encode())

    def _send(self, path: str, body: bytes, *, is_cut: bool = False) -> Ask:
        return Ask("POST", path, body, {**self._auth, "content-type": "application/json"}, is_cut)

    def _get(self, path: str) -> Ask:
        return Ask("GET", path, headers=self._auth)

    # Valid requests.

    def _job(self) -> Ask:
        ask = self._post("/v1/jobs", {"workflow": BLUE, "metadata": {"n": str(self._chance.random())}})
        return replace(ask, headers={**ask.headers, "idempotency-key": f"soak-{self._chance.getrandbits(64)}"})

    def _job_with_media(self) -> Ask:
        media = [{"name": f"{n}.png", "data": base64.b64encode(PNG).decode()} for n in range(3)]
        return self._post("/v1/jobs", {"workflow": BLUE, "media": media})

    def _large_medium(self) -> Ask:
        wav = b"RIFF" + (36 + 4 * MIB).to_bytes(4, "little") + b"WAVEfmt " + bytes.fromhex("10000000010001004400ac00")
        data = base64.b64encode(wav + bytes(4 * MIB)).decode()
        return self._post("/v1/jobs", {"workflow": BLUE, "media": [{"name": "a.wav", "data": data}]})

    def _long_text(self) -> Ask:
        text = "word " * self._chance.randrange(20_000, 180_000)
        workflow = BLUE | {"3": {"class_type": "PreviewAny", "inputs": {"source": text}}}
        return self._post("/v1/jobs", {"workflow": workflow})

    def _batch(self) -> Ask:
        return self._post("/v1/batches", {"workflow": BLUE, "input_sets": [[]] * 3})

    def _upload(self) -> Ask:
        return self._post("/v1/uploads", {"size_bytes": 1000, "content_type": "image/png", "filename": "x.png"})

    def _list(self) -> Ask:
        status = self._chance.choice(["", "&status=queued", "&status=completed", "&status=failed"])
        return self._get(f"/v1/jobs?limit={self._chance.randrange(1, 100)}{status}")

    def _known_job(self) -> Ask:
        what = self._chance.choice(["", "", "/workflow", "/logs", "/deliveries", "/outputs/0?redirect=false"])
        return self._get(f"/v1/jobs/{self._some_job()}{what}")

    def _long_poll(self) -> Ask:
        return self._get(f"/v1/jobs/{self._some_job()}?wait=1")

    def _cancel(self) -> Ask:
        purge = self._chance.choice(["", "?purge=true"])
        return Ask("DELETE", f"/v1/jobs/{self._some_job()}{purge}", headers=self._auth)

    def _webhook_test(self) -> Ask:
        return self._post("/v1/webhooks/test", {"url": self._receiver})

    def _open_path(self) -> Ask:
        paths = ["/health", "/ready", "/docs", "/openapi.json", "/v1/workflows", "/v1/limits", "/v1/system"]
        return self._get(self._chance.choice(paths))

    def _some_job(self) -> str:
        return self._chance.choice(self._jobs) if self._jobs else "none"

    # Hostile requests.

    def _hostile_medium(self) -> Ask:
        starts = [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a", b"\0\0\1\0\1\0", b"RIFFxxxxAVI ", b"<svg"]
        start = self._chance.choice(starts)
        data = base64.b64encode(start + self._chance.randbytes(400)).decode()
        return self._post("/v1/jobs", {"workflow": BLUE, "media": [{"name": "x.png", "data": data}]})

    def _many_values(self) -> Ask:
        pieces = self._chance.choice([b'"",', b"1,", b'{"a":1},', b"[],"])
        return self._send("/v1/jobs", b'{"workflow":[' + pieces * self._chance.randrange(50_000, 300_000) + b"1]}")

    def _deep(self) -> Ask:
        return self._send("/v1/jobs", b'{"workflow":' + b"[" * self._chance.randrange(50, 100_000))

    def _not_json(self) -> Ask:
        return self._send("/v1/jobs", self._chance.randbytes(self._chance.randrange(1, 3000)))

    def _wrong_fields(self) -> Ask:
        names = {f"field-{self._chance.getrandbits(40)}": self._chance.random() for _ in range(20)}
        return self._post(self._chance.choice(["/v1/jobs", "/v1/batches", "/v1/uploads", "/v1/webhooks/test"]), names)

    def _unknown_key(self) -> Ask:
        return Ask("GET", "/v1/jobs", headers={"authorization": f"Bearer {new_key(new_kid())}"})

    def _no_key(self) -> Ask:
        return Ask("POST", f"/v1/{self._chance.getrandbits(64)}", b"x" * 5000, {"content-type": "application/json"})

    def _huge_head(self) -> Ask:
        return Ask("GET", "/v1/jobs", headers={**self._auth, "x-filler": "f" * self._chance.randrange(1000, 120_000)})

    def _trailers(self) -> Ask:
        body = b"4\r\n{}  \r\n0\r\n" + b"x-trailer: " + b"t" * self._chance.randrange(100, 500_000) + b"\r\n\r\n"
        return Ask("POST", "/v1/jobs", body, {**self._auth, "transfer-encoding": "chunked"})

    def _cut_off(self) -> Ask:
        return self._send("/v1/jobs", b'{"workflow":"' + b"x" * self._chance.randrange(100, 2 * MIB), is_cut=True)

    def _unknown_job(self) -> Ask:
        unknown = uuid.UUID(int=self._chance.getrandbits(128))
        return self._get(f"/v1/jobs/{unknown}{self._chance.choice(['', '/outputs/0', '/logs', '?wait=1'])}")
