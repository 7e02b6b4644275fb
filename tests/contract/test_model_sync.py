"""Models are installed completely or not at all, whatever the server, the network or a kill does."""

import errno
import fcntl
import hashlib
import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.cli.output import FAILED, REFUSED
from infra.cli.root import main
from infra.cli.workflow_models import with_sizes
from infra.models.download import MAX_REDIRECTS, Downloader
from infra.models.manifest import HUB, Model
from infra.models.named import models_named_by
from infra.models.sync import LOCK_NAME, BadLock, Found, Locked, ModelFolder
from tests.support.model_hub import COMMIT, Hub, model_hub

BODY = os.urandom(300_000)
SHA = hashlib.sha256(BODY).hexdigest()
PATH = "team/models/resolve/main/a/wan.safetensors"
TOKEN = "hf_secret"
ROOT = Path(__file__).parents[2]
Typed = Callable[..., tuple[int, str, str]]


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


def test_a_model_is_downloaded_and_locked(hub: Hub, tmp_path: Path) -> None:
    """A first sync records the model's hash, size and source commit, and a second sync makes no request."""
    progress: list[int] = []
    (found,) = folder_of(tmp_path, hub).sync([wan()], lambda _, have, __: progress.append(have))
    assert (found.state, found.sha256, found.size_bytes) == ("downloaded", SHA, len(BODY))
    assert (tmp_path / "vae" / "wan.safetensors").read_bytes() == BODY
    assert progress[-1] == len(BODY)
    assert folder_of(tmp_path, hub)._lock.read() == {
        "vae/wan.safetensors": Locked(sha256=SHA, size_bytes=len(BODY), revision=COMMIT)
    }
    requested = len(hub.requests)
    assert synced(tmp_path, hub).state == "present"
    assert len(hub.requests) == requested
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [LOCK_NAME, "wan.safetensors"]


def test_an_interrupted_download_is_resumed(hub: Hub, tmp_path: Path) -> None:
    """An interrupted download continues with a range of the same content."""
    hub.scripts[PATH] = [0]
    assert synced(tmp_path, hub).sha256 == SHA
    (_, first), (_, second) = hub.requests
    assert "range" not in first
    assert int(second["range"].removeprefix("bytes=").rstrip("-")) > 0
    assert second["if-range"] == f'"{PATH}"'


def test_a_complete_part_is_downloaded_again(hub: Hub, tmp_path: Path) -> None:
    """A part that was complete when the sync was killed gets 416, and is downloaded again in full."""
    part = tmp_path / "vae" / "wan.safetensors.part"
    part.parent.mkdir()
    part.write_bytes(BODY)
    part.with_name(part.name + ".etag").write_text(f'"{PATH}"')
    assert synced(tmp_path, hub).sha256 == SHA
    assert len(hub.requests) == 2


def test_changed_content_is_downloaded_again(hub: Hub, tmp_path: Path) -> None:
    """A part of the old content is not combined with the new content."""
    hub.scripts[PATH] = [0, 404]
    assert synced(tmp_path, hub).state == "failed"
    hub.files[PATH], hub.etags[PATH] = BODY[::-1], '"new"'
    assert synced(tmp_path, hub).sha256 == hashlib.sha256(BODY[::-1]).hexdigest()


@pytest.mark.parametrize("etag", ["é", '"é"', 'W/"a"', '"' + "a" * 999 + '"', ""])
def test_an_etag_that_cannot_be_sent_back_is_not_kept(etag: str, hub: Hub, tmp_path: Path) -> None:
    """A download whose entity tag is weak, long or no tag starts again after an interruption."""
    hub.etags[PATH], hub.scripts[PATH] = etag, [0]
    assert synced(tmp_path, hub).sha256 == SHA
    assert "if-range" not in hub.requests[-1][1]


def test_a_source_that_sends_more_than_it_stated_is_refused(hub: Hub, tmp_path: Path) -> None:
    """A body without a stated length ends at the size that the manifest says, and nothing is installed."""
    hub.states_length = False
    found = synced(tmp_path, hub, size_bytes=len(BODY) - 1)
    assert (found.state, "sends more than" in found.detail) == ("failed", True)
    assert not (tmp_path / "vae" / "wan.safetensors").exists()


def test_a_server_without_ranges_is_supported(hub: Hub, tmp_path: Path) -> None:
    """A download from a server without ranges starts again after each interruption."""
    hub.takes_ranges = False
    hub.scripts[PATH] = [0, 0]
    assert synced(tmp_path, hub).sha256 == SHA


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_transient_error_is_retried(status: int, hub: Hub, tmp_path: Path) -> None:
    """A transient error is retried several times, and a persistent error is reported as a failure."""
    hub.scripts[PATH] = [status, status]
    assert synced(tmp_path, hub).state == "downloaded"
    (tmp_path / "vae" / "wan.safetensors").unlink()
    hub.scripts[PATH] = [status] * 20
    found = synced(tmp_path, hub)
    assert (found.state, str(status) in found.detail) == ("failed", True)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"sha256": "0" * 64}, "the manifest says 000"),
        ({"size_bytes": 7}, f"the source has {len(BODY)} bytes, the manifest says 7"),
        ({"path": "nothing"}, "answered 404"),
    ],
)
def test_a_model_that_differs_from_its_manifest_is_refused(
    fields: dict[str, object], text: str, hub: Hub, tmp_path: Path
) -> None:
    """A model that differs from its manifest is neither installed nor locked."""
    found = synced(tmp_path, hub, **fields)
    assert found.state == "failed"
    assert text in found.detail
    assert not (tmp_path / "vae" / "wan.safetensors").exists()
    assert not (tmp_path / LOCK_NAME).exists()


def test_a_gated_model_names_the_token_setting(hub: Hub, tmp_path: Path) -> None:
    """A 403 of the source names the setting for the token."""
    hub.scripts[PATH] = [403]
    assert "COMFYUI_MODAL_HUGGINGFACE_TOKEN" in synced(tmp_path, hub).detail


def test_the_token_is_sent_only_to_the_hub(hub: Hub, tmp_path: Path) -> None:
    """The token is sent neither to the target of a redirect nor to a model's own URL."""
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
    """The body of a redirect, which may be of any size or not even decompressible, is not read."""
    hub.files["cdn"] = BODY
    hub.elsewhere[PATH] = f"{hub.url}/cdn"
    assert synced(tmp_path, hub).sha256 == SHA


def test_redirects_are_limited(hub: Hub, tmp_path: Path) -> None:
    """A model behind too many redirects fails."""
    hub.elsewhere[PATH] = f"{hub.url}/{PATH}"
    found = synced(tmp_path, hub)
    assert (found.state, len(hub.requests)) == ("failed", MAX_REDIRECTS + 1)


def test_the_locked_hash_is_enforced(hub: Hub, tmp_path: Path) -> None:
    """Other content under the same name is refused after the first sync."""
    synced(tmp_path, hub)
    (tmp_path / "vae" / "wan.safetensors").unlink()
    hub.files[PATH] = b"x" * len(BODY)
    found = synced(tmp_path, hub)
    assert found.state == "failed"
    assert f"the first sync saw {SHA}" in found.detail


def test_a_manifest_that_contradicts_the_lock_is_an_error(hub: Hub, tmp_path: Path) -> None:
    """A contradiction between manifest and lock is reported, and the file is not changed."""
    synced(tmp_path, hub)
    found = synced(tmp_path, hub, sha256="1" * 64)
    assert found.state == "wrong"
    assert "one of both is wrong" in found.detail
    assert (tmp_path / "vae" / "wan.safetensors").read_bytes() == BODY


def test_an_existing_file_is_hashed_and_locked(hub: Hub, tmp_path: Path) -> None:
    """An existing file is locked if its hash is right, without a request."""
    path = tmp_path / "vae" / "wan.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"another")
    assert synced(tmp_path, hub, sha256=SHA).state == "wrong"
    path.write_bytes(BODY)
    assert synced(tmp_path, hub, sha256=SHA).state == "present"
    assert hub.requests == []
    assert folder_of(tmp_path, hub)._lock.read()["vae/wan.safetensors"].sha256 == SHA


def test_verify_hashes_every_file(hub: Hub, tmp_path: Path) -> None:
    """A changed byte, which the size does not show, is found by a verification."""
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
    """A plan lists missing models without a request."""
    assert folder_of(tmp_path, hub).plan([wan(size_bytes=5)]) == [Found("vae/wan.safetensors", "missing", 5)]
    assert hub.requests == []


def test_missing_disk_space_is_reported_before_the_download(hub: Hub, tmp_path: Path) -> None:
    """A model that does not fit on the disk fails without a request."""
    found = synced(tmp_path, hub, size_bytes=1 << 60)
    assert (found.state, "are free" in found.detail) == ("failed", True)
    assert hub.requests == []


def test_an_unreadable_lock_is_an_error(hub: Hub, tmp_path: Path) -> None:
    """An unreadable lock stops the sync, because its hashes would no longer be enforced."""
    (tmp_path / LOCK_NAME).write_text("{")
    with pytest.raises(BadLock, match="repair it"):
        synced(tmp_path, hub)


def test_two_syncs_do_not_write_the_same_file(hub: Hub, tmp_path: Path) -> None:
    """The second of two syncs of one file fails, and the first sync completes."""
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


def test_a_file_system_without_locks_is_supported(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a file system without locks, the file is downloaded with a warning."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert synced(tmp_path, hub).state == "downloaded"
    assert [record.message for record in caplog.records] == ["a download is not locked"]


def test_a_killed_sync_is_resumed(hub: Hub, tmp_path: Path) -> None:
    """A sync after a SIGKILL in the middle of a body downloads only the rest, and the file is complete."""
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


def named_by_workflow(path: str = "a/wan.safetensors", **noted: str) -> dict[str, Any]:
    """Return a file of the editor that names a model of the hub."""
    entry = {"name": "wan.safetensors", "directory": "vae", "url": f"{HUB}/team/models/resolve/main/{path}", **noted}
    node = {"id": 1, "type": "VAELoader", "widgets_values": ["wan.safetensors"], "properties": {"models": [entry]}}
    return {"nodes": [node], "links": []}


def test_what_a_workflow_names_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    """The source is asked for the size, and the file is fetched once; another sync leaves it."""
    named = models_named_by(named_by_workflow(hash=SHA, hash_type="SHA256"))
    (sized,) = with_sizes(named.models, Downloader(hub=hub.url, wait_s=0.01))
    assert sized.size_bytes == len(BODY)
    (found,) = folder_of(tmp_path, hub).sync([sized])
    assert (found.state, (tmp_path / "vae" / "wan.safetensors").read_bytes()) == ("downloaded", BODY)
    requested = len(hub.requests)
    (found,) = folder_of(tmp_path, hub).sync([sized])
    assert (found.state, len(hub.requests)) == ("present", requested)


def test_a_hash_that_a_workflow_names_is_enforced(hub: Hub, tmp_path: Path) -> None:
    """Other content than the workflow's sha256 is refused, and no file is left."""
    (model,) = models_named_by(named_by_workflow(hash="0" * 64, hash_type="SHA256")).models
    (found,) = folder_of(tmp_path, hub).sync([model])
    assert (found.state, "the workflow says 000" in found.detail) == ("failed", True)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_source_that_fails_has_no_size(hub: Hub, tmp_path: Path) -> None:
    """A source that does not answer has an unknown size, and the sync says why."""
    named = models_named_by(named_by_workflow("gone.safetensors"))
    (sized,) = with_sizes(named.models, Downloader(hub=hub.url, wait_s=0.01))
    (found,) = folder_of(tmp_path, hub).sync([sized])
    assert (sized.size_bytes, found.state, "404" in found.detail) == (None, "failed", True)


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Typed]:
    """Runs `models sync --from-workflow` with an answer at a terminal, or without a terminal."""
    ours, theirs = pty.openpty()

    def run(document: Any, *flags: str, answer: str = "") -> tuple[int, str, str]:
        path = tmp_path / "flow.json"
        path.write_text(json.dumps(document))
        with Path(os.devnull).open() if not answer else open(theirs, closefd=False) as given:
            os.write(ours, answer.encode())
            monkeypatch.setattr(sys, "stdin", given)
            command = ["models", "sync", "--from-workflow", str(path), "--dir", str(tmp_path / "models"), *flags]
            code = main(command)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield run
    os.close(ours)
    os.close(theirs)


PRIVATE = named_by_workflow() | {"url": ""}
PRIVATE["nodes"][0]["properties"]["models"][0]["url"] = "https://127.0.0.1/wan.safetensors"


def test_a_download_that_a_workflow_names_is_asked_for(typed: Typed, tmp_path: Path) -> None:
    """The question shows source, size and folder; without a yes nothing is fetched."""
    code, _, errors = typed(PRIVATE, answer="n\n")
    assert code == FAILED
    assert f"to {tmp_path / 'models'}:" in errors
    assert "  vae/wan.safetensors  size unknown  from https://127.0.0.1/wan.safetensors" in errors
    code, printed, _ = typed(PRIVATE, answer="y\n")
    assert (code, "not public" in printed) == (FAILED, True)
    code, _, errors = typed(PRIVATE)
    assert (code, "give --yes" in errors) == (REFUSED, True)
    code, printed, _ = typed(PRIVATE, "--yes")
    assert (code, "failed     vae/wan.safetensors" in printed) == (FAILED, True)


def test_a_model_that_is_there_is_left(typed: Typed, tmp_path: Path) -> None:
    """Without a missing model there is no question, and the exit code is 0; `--dry-run` never asks."""
    code, printed, _ = typed(PRIVATE, "--dry-run")
    assert (code, printed) == (0, "missing    vae/wan.safetensors\n")
    (tmp_path / "models" / "vae").mkdir(parents=True)
    (tmp_path / "models" / "vae" / "wan.safetensors").write_bytes(BODY)
    code, printed, _ = typed(PRIVATE)
    assert (code, printed.startswith("present    vae/wan.safetensors")) == (0, True)


def test_what_is_refused_or_has_no_source_is_named(typed: Typed) -> None:
    """A hostile name fails the command by name; a workflow without models says so."""
    hostile = named_by_workflow(directory="../..")
    code, _, errors = typed(hostile, "--yes")
    assert (code, errors.startswith("refused: ../../wan.safetensors: '../..' is none of")) == (FAILED, True)
    graph = {"1": {"class_type": "VAELoader", "inputs": {"vae_name": "b.safetensors"}}}
    code, _, errors = typed(graph, "--yes")
    assert (code, errors.startswith("no source: b.safetensors")) == (FAILED, True)
    code, _, errors = typed({"1": {"class_type": "EmptyImage", "inputs": {}}})
    assert (code, errors) == (0, "flow.json names no model\n")
    code, _, errors = typed(PRIVATE, "--only", "vae")
    assert (code, "leave out --only" in errors) == (REFUSED, True)
