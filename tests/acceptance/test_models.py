"""The commands for models, in a local folder and on a deployment's volume."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.compose.stores import open_stores
from infra.settings import ENV_PREFIX, Settings
from storage import keys
from storage.bucket.s3 import S3Config
from storage.errors import ObjectNotFound
from storage.pools.engine_info import EngineInfo
from storage.signal import MemorySignal
from tests.plane import Plane
from tests.support.commands import run_command
from tests.support.deployed import bucket_settings, deployed
from tests.support.environment import clean_environment
from tests.support.model_hub import Hub, model_hub

ROOT = Path(__file__).parents[2]
BODY = b"weights" * 1000


@pytest.fixture
def hub() -> Iterator[Hub]:
    with model_hub() as hub:
        hub.files["wan.safetensors"] = BODY
        yield hub


@pytest.fixture
def manifest(hub: Hub, tmp_path: Path) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(
        f'[[model]]\nfolder = "vae"\nfile = "wan.safetensors"\nurl = "{hub.url}/wan.safetensors"\n'
        f'sha256 = "{hashlib.sha256(BODY).hexdigest()}"\n'
        f'[[model]]\nfolder = "loras"\nfile = "fast.safetensors"\nurl = "{hub.url}/nowhere"\n'
    )
    return path


def command(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_command("infra.cli", "models", *map(str, arguments), environment=clean_environment() | variables)


def test_the_shipped_manifest_is_found_from_any_folder(tmp_path: Path) -> None:
    """The shipped manifest is found when the command is run in any folder."""
    line = [sys.executable, str(ROOT / "comfyui_modal.py"), "infra.cli", "models", "list", "--workflow", "wan21"]
    done = subprocess.run(
        [*line, "--dir", str(tmp_path)],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "missing    clip_vision/clip_vision_h.safetensors" in done.stdout


def test_a_folder_is_synced_verified_and_listed(manifest: Path, tmp_path: Path) -> None:
    """A sync with a model that is unavailable downloads the others and exits with code 1, while `list` exits with 0."""
    options = ("--manifest", manifest, "--dir", tmp_path / "models")
    dry = command("sync", "--dry-run", *options)
    assert (dry.returncode, dry.stdout.count("missing")) == (0, 2), dry.stderr
    synced = command("sync", *options)
    assert synced.returncode == 1, synced.stderr
    assert "downloaded vae/wan.safetensors" in synced.stdout
    assert "failed     loras/fast.safetensors" in synced.stdout
    assert (tmp_path / "models" / "vae" / "wan.safetensors").read_bytes() == BODY
    assert command("verify", "--only", "wan.safetensors", *options).returncode == 0
    assert command("verify", *options).returncode == 1
    listed = command("list", "--json", *options)
    states = {model["name"]: model["state"] for model in json.loads(listed.stdout)}
    assert states == {"vae/wan.safetensors": "present", "loras/fast.safetensors": "missing"}
    assert listed.returncode == 0


def test_errors_of_arguments_and_manifest_are_named(manifest: Path, tmp_path: Path) -> None:
    """An unknown name and an error in a field of the manifest are named, with exit code 2."""
    unknown = command("list", "--workflow", "nothing", "--manifest", manifest, "--dir", tmp_path)
    assert (unknown.returncode, "'nothing' is neither" in unknown.stderr) == (2, True), unknown.stderr
    manifest.write_text('[[model]]\nfolder = "../vae"\nfile = "x"\nurl = "https://example.com"\n')
    refused = command("list", "--manifest", manifest, "--dir", tmp_path)
    assert (refused.returncode, 'model "x": folder' in refused.stderr) == (2, True), refused.stderr


def test_the_models_of_a_deployment_are_listed(manifest: Path, tmp_path: Path, s3_server: S3Config) -> None:
    """The deployed function lists the models of the shell's manifest, all of which a plane without volumes lacks."""
    with deployed(tmp_path, bucket_settings(s3_server, "models-plane")) as app:
        output = app.run("infra.cli", "models", "list", "--manifest", str(manifest))
        (mounted,) = app.plane.deployed("comfyui-modal-api")["download_models"].spec.volume_mounts
    assert output.count("missing") == 2, output
    assert (mounted.mount_path, mounted.read_only) == ("/models", False)


def test_new_models_invalidate_the_published_files(manifest: Path, tmp_path: Path, s3_server: S3Config) -> None:
    """The published list of files is no longer used once a model was downloaded."""
    settings = bucket_settings(s3_server, "models-published")

    async def published() -> bool:
        async with open_stores(Settings(**settings), MemorySignal()) as stores:
            try:
                stored = await stores.objects.get(keys.engine_info("default"))
            except ObjectNotFound:
                return (await stores.engine_info.publish("default", {})).files_listed
            return EngineInfo.from_bytes(stored.body).files_listed

    assert asyncio.run(published())
    script = (
        "import sys; from pathlib import Path; from infra.models.manifest import models; "
        "from infra.on_modal.tasks import manage_models; "
        "wanted = [model.model_dump() for model in models(Path(sys.argv[1]))]; "
        "print(*manage_models('sync', wanted, sys.argv[2], lambda: print('committed')), sep='\\n')"
    )
    variables = {ENV_PREFIX + name.upper(): str(value) for name, value in settings.items()}
    output = subprocess.run(
        [sys.executable, "-c", script, str(manifest), str(tmp_path / "volume")],
        cwd=ROOT,
        env=clean_environment() | variables,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.splitlines()
    assert not asyncio.run(published())
    assert output[0] == "committed"
    assert any(line.startswith("{'name': 'vae/wan.safetensors', 'have': ") for line in output[1:-1]), output
    assert output[-1].startswith("{'found': [{'name': 'vae/wan.safetensors', 'state': 'downloaded'"), output


def test_the_progress_of_a_volume_is_shown(tmp_path: Path) -> None:
    """The progress of the deployed function is shown step by step before its result."""
    listen = (
        "import asyncio; from infra.cloud.modal_cloud import ModalCloud; "
        "print(asyncio.run(ModalCloud({}).manage_models('sync', [{'n': 1}], print)))"
    )
    with Plane(tmp_path, container_env={"PATH": os.environ["PATH"]}) as plane:
        env = clean_environment() | plane.client_env()
        deployed_app = run_command("modal", "deploy", "-m", "tests.support.telling_app", environment=env)
        assert deployed_app.returncode == 0, f"{deployed_app.stdout}\n{deployed_app.stderr}\n{plane.missing}"
        line = [sys.executable, "-c", listen]
        done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{plane.missing}\n{plane.logs()}"
        assert dict(plane.missing) == {}
    assert done.stdout.splitlines() == ["vae/a 1 2", "vae/a 2 2", "[{'command': 'sync', 'wanted': [{'n': 1}]}]"]
