"""The definition of the Modal app, checked without a deploy."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.on_modal import API_CONCURRENCY
from infra.on_modal.api import api_settings
from infra.settings import DeploymentSettings
from tests.support.environment import clean_environment

ROOT = Path(__file__).parents[3]
DAY_S = 24 * 3600
STRICT = """
import warnings
import modal
warnings.simplefilter("error", modal.exception.DeprecationError)
import infra.modal_app
"""


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"COMFYUI_MODAL_IMAGE": "comfyui", "COMFYUI_MODAL_GPU": "L40S,A100", "COMFYUI_MODAL_SNAPSHOT": "gpu"},
        {"COMFYUI_MODAL_CUDA": "cu128", "COMFYUI_MODAL_NODE_PACKS": "rgthree-comfy", "COMFYUI_MODAL_API_LABEL": "old"},
    ],
)
def test_no_deprecated_feature_of_modal_is_used(variables: dict[str, str]) -> None:
    """The app is defined without a deprecation warning of Modal."""
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", STRICT]
    finished = subprocess.run(
        command, cwd=ROOT, env=clean_environment() | variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("name", ["container_run_s", "container_start_s"])
def test_no_time_limit_exceeds_modals(name: str) -> None:
    """A time limit above one day, which is Modal's maximum, is refused."""
    DeploymentSettings.model_validate({name: DAY_S})
    with pytest.raises(ValidationError):
        DeploymentSettings.model_validate({name: DAY_S + 1})


def test_one_tenant_has_half_of_an_api_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits and other requests of one tenant, streams and unfinished bodies among the latter, leave half of the places
    to others, unless the deployment sets other shares."""
    monkeypatch.setenv("COMFYUI_MODAL_BUCKET", "b")
    settings = api_settings()
    assert settings.max_long_polls + settings.max_requests_in_flight <= API_CONCURRENCY // 2
    assert max(settings.max_streams // 2, settings.max_unfinished_requests) < settings.max_requests_in_flight
    monkeypatch.setenv("COMFYUI_MODAL_MAX_LONG_POLLS", "300")
    assert api_settings().max_long_polls == 300
