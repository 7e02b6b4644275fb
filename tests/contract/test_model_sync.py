"""Models arrive whole or not at all, whatever the server, the network or a kill does."""

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.models.download import MAX_REDIRECTS, Downloader
from infra.models.manifest import Model
from infra.models.sync import LOCK_NAME, BadLock, Found, Locked, ModelFolder
from tests.support.model_hub import COMMIT, Hub, model_hub

BODY = os.urandom(300_000)
SHA = hashlib.sha256(BODY).hexdigest()
PATH = "team/models/resolve/main/a/wan.safetensors"
TOKEN = "hf_secret"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with model_hub() as hub:
        hub.files[PATH] = BODY
        yield hub


def wan(**fields: object) -> Model:
    standard: dict[str, object] = {
        "folder": "vae",
        "file": "wan.safetensors",
        "repository": "team/models",
        "path": "a/wan.safetensors",
    }
    return Model.model_validate(standard | fields)


def folder_of(path: Path, hub: Hub) -> ModelFolder:
    return ModelFolder(path, Downloader(hub=hub.url, token=TOKEN, wait_s=0.01))


def synced(folder: Path, hub: Hub, /, **fields: object) -> Found:
    (found,) = folder_of(folder, hub).sync([wan(**fields)])
    return found


def test_a_model_arrives_and_is_locked(hub: Hub, tmp_path: Path) -> None:
    """Trust on first use: hash, size and the source's commit are recorded; a second sync asks for nothing."""
    progress: list[int] = []
    (found,) = folder_of(tmp_path, hub).sync([wan()], lambda _, have, __: progress.append(have))
    assert (found.state, found.sha256, found.size_bytes) == ("downloaded", SHA, len(BODY))
    assert (tmp_path / "vae" / "wan.safetensors").read_bytes() == BODY
    assert progress[-1] == len(BODY)
    assert folder_of(tmp_path, hub)._lock.read() == {
        "vae/wan.safetensors": Locked(sha256=SHA, size_bytes=len(BODY), revision=COMMIT)
    }
    asked = len(hub.requests)
    assert synced(tmp_path, hub).state == "present"
    assert len(hub.requests) == asked
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [LOCK_NAME, "wan.safetensors"]


def test_it_goes_on_where_it_broke_off(hub: Hub, tmp_path: Path) -> None:
    """By a range of the same content; no byte is fetched twice."""
    hub.scripts[PATH] = [0]
    assert synced(tmp_path, hub).sha256 == SHA
    (_, first), (_, second) = hub.requests
    assert "range" not in first
    assert int(second["range"].removeprefix("bytes=").rstrip("-")) > 0
    assert second["if-range"] == f'"{PATH}"'


def test_a_part_that_is_whole_begins_anew(hub: Hub, tmp_path: Path) -> None:
    """A kill between the last byte and the rename: the source answers 416, and is asked for all of it."""
    part = tmp_path / "vae" / "wan.safetensors.part"
    part.parent.mkdir()
    part.write_bytes(BODY)
    part.with_name(part.name + ".etag").write_text(f'"{PATH}"')
    assert synced(tmp_path, hub).sha256 == SHA
    assert len(hub.requests) == 2


def test_content_that_changed_begins_anew(hub: Hub, tmp_path: Path) -> None:
    """A part of the old content is not glued to the new one."""
    hub.scripts[PATH] = [0, 404]
    assert synced(tmp_path, hub).state == "failed"
    hub.files[PATH], hub.etags[PATH] = BODY[::-1], '"new"'
    assert synced(tmp_path, hub).sha256 == hashlib.sha256(BODY[::-1]).hexdigest()


def test_a_server_without_ranges(hub: Hub, tmp_path: Path) -> None:
    """It begins anew each time."""
    hub.takes_ranges = False
    hub.scripts[PATH] = [0, 0]
    assert synced(tmp_path, hub).sha256 == SHA


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_fault_of_the_moment_is_tried_again(status: int, hub: Hub, tmp_path: Path) -> None:
    """Several times; one that stays is a failure that names it."""
    hub.scripts[PATH] = [status, status]
    assert synced(tmp_path, hub).state == "downloaded"
    (tmp_path / "vae" / "wan.safetensors").unlink()
    hub.scripts[PATH] = [status] * 20
    found = synced(tmp_path, hub)
    assert (found.state, str(status) in found.detail) == ("failed", True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sha256": "0" * 64}, "the manifest says 000"),
        ({"size_bytes": 7}, f"the source has {len(BODY)} bytes, the manifest says 7"),
        ({"path": "nothing"}, "answered 404"),
    ],
)
def test_a_model_that_is_not_as_told_is_refused(fields: dict[str, object], said: str, hub: Hub, tmp_path: Path) -> None:
    """Nothing of it takes the model's name."""
    found = synced(tmp_path, hub, **fields)
    assert found.state == "failed"
    assert said in found.detail
    assert not (tmp_path / "vae" / "wan.safetensors").exists()
    assert not (tmp_path / LOCK_NAME).exists()


def test_a_gated_model_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    """403: the licence, and the setting of the token."""
    hub.scripts[PATH] = [403]
    assert "COMFYUI_MODAL_HUGGINGFACE_TOKEN" in synced(tmp_path, hub).detail


def test_the_token_goes_to_the_hub_alone(hub: Hub, tmp_path: Path) -> None:
    """Neither to where a redirect leads, nor to a model's own URL."""
    with model_hub() as other:
        other.files["cdn"] = BODY
        hub.elsewhere[PATH] = f"{other.url}/cdn"
        assert synced(tmp_path, hub).sha256 == SHA
        by_url = wan(file="b", repository=None, path=None, url=f"{other.url}/cdn")
        assert folder_of(tmp_path, hub).sync([by_url])[0].is_good
        assert hub.requests[0][1]["authorization"] == f"Bearer {TOKEN}"
        assert all("authorization" not in headers for _, headers in other.requests)
    assert folder_of(tmp_path, hub)._lock.read()["vae/wan.safetensors"].revision == COMMIT


def test_the_body_of_a_redirect_is_not_read(hub: Hub, tmp_path: Path) -> None:
    """It may be of any size, and what it unpacks to as well: this hub's cannot even be unpacked."""
    hub.files["cdn"] = BODY
    hub.elsewhere[PATH] = f"{hub.url}/cdn"
    assert synced(tmp_path, hub).sha256 == SHA


def test_redirects_without_end(hub: Hub, tmp_path: Path) -> None:
    """A few are followed; then the model is given up."""
    hub.elsewhere[PATH] = f"{hub.url}/{PATH}"
    found = synced(tmp_path, hub)
    assert (found.state, len(hub.requests)) == ("failed", MAX_REDIRECTS + 1)


def test_what_the_first_sync_saw_is_enforced(hub: Hub, tmp_path: Path) -> None:
    """Another content under the same name is refused, and the old file stays."""
    synced(tmp_path, hub)
    (tmp_path / "vae" / "wan.safetensors").unlink()
    hub.files[PATH] = b"x" * len(BODY)
    found = synced(tmp_path, hub)
    assert found.state == "failed"
    assert f"the first sync saw {SHA}" in found.detail


def test_a_manifest_that_contradicts_the_lock(hub: Hub, tmp_path: Path) -> None:
    """Both are named; the file is left alone."""
    synced(tmp_path, hub)
    found = synced(tmp_path, hub, sha256="1" * 64)
    assert found.state == "wrong"
    assert "one of both is wrong" in found.detail
    assert (tmp_path / "vae" / "wan.safetensors").read_bytes() == BODY


def test_a_file_that_was_there_before(hub: Hub, tmp_path: Path) -> None:
    """It is hashed once, and locked if it is the right one."""
    path = tmp_path / "vae" / "wan.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"another")
    assert synced(tmp_path, hub, sha256=SHA).state == "wrong"
    path.write_bytes(BODY)
    assert synced(tmp_path, hub, sha256=SHA).state == "present"
    assert hub.requests == []
    assert folder_of(tmp_path, hub)._lock.read()["vae/wan.safetensors"].sha256 == SHA


def test_verify_hashes_everything(hub: Hub, tmp_path: Path) -> None:
    """A flipped byte is found, which size alone would not show."""
    synced(tmp_path, hub)
    folder = folder_of(tmp_path, hub)
    assert folder.verify([wan()])[0].state == "present"
    path = tmp_path / "vae" / "wan.safetensors"
    path.write_bytes(BODY[:-1] + bytes([BODY[-1] ^ 1]))
    assert folder.plan([wan()])[0].state == "present"
    assert folder.verify([wan(), wan(file="gone")]) == [
        folder.verify([wan()])[0],
        Found("vae/gone", "missing"),
    ]
    assert folder.verify([wan()])[0].state == "wrong"


def test_a_plan_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    """It tells what is missing."""
    assert folder_of(tmp_path, hub).plan([wan(size_bytes=5)]) == [Found("vae/wan.safetensors", "missing", 5)]
    assert hub.requests == []


def test_no_room_is_told_before_a_byte_is_fetched(hub: Hub, tmp_path: Path) -> None:
    """How much is to come, and how much is free."""
    found = synced(tmp_path, hub, size_bytes=1 << 60)
    assert (found.state, "are free" in found.detail) == ("failed", True)
    assert hub.requests == []


def test_a_lock_that_cannot_be_read_is_not_forgotten(hub: Hub, tmp_path: Path) -> None:
    """What it enforced would be lost otherwise."""
    (tmp_path / LOCK_NAME).write_text("{")
    with pytest.raises(BadLock, match="mend it"):
        synced(tmp_path, hub)


def test_two_syncs_do_not_write_one_file(hub: Hub, tmp_path: Path) -> None:
    """The second says so; the first is not disturbed."""
    hub.hold.clear()
    found: list[Found] = []
    first = threading.Thread(target=lambda: found.append(synced(tmp_path, hub)))
    first.start()
    _until(lambda: bool(hub.requests))
    second = synced(tmp_path, hub)
    hub.hold.set()
    first.join()
    assert (second.state, "another sync" in second.detail) == ("failed", True)
    assert found[0].sha256 == SHA


def test_a_file_system_without_locks_is_no_other_sync(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The file arrives, with a warning: a container of which there is one at most has no one to lock out."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert synced(tmp_path, hub).state == "downloaded"
    assert [record.message for record in caplog.records] == ["a download is not locked"]


def test_a_sync_that_was_killed_is_gone_on_with(hub: Hub, tmp_path: Path) -> None:
    """kill -9 in the middle of a body: the next sync fetches the rest, and the file is whole."""
    hub.hold.clear()
    script = (
        "from pathlib import Path; from infra.models.download import MAX_REDIRECTS, Downloader; "
        "from infra.models.manifest import Model; from infra.models.sync import ModelFolder; import sys; "
        "ModelFolder(Path(sys.argv[1]), Downloader(hub=sys.argv[2])).sync([Model(folder='vae', "
        "file='wan.safetensors', repository='team/models', path='a/wan.safetensors')])"
    )
    part = tmp_path / "vae" / "wan.safetensors.part"
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), hub.url], cwd=ROOT)
    _until(lambda: part.exists() and part.stat().st_size > 0)
    process.kill()
    process.wait()
    hub.hold.set()
    assert synced(tmp_path, hub).sha256 == SHA
    assert "range" in hub.requests[-1][1]


def _until(check: object) -> None:
    assert callable(check)
    deadline = time.monotonic() + 30
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)
