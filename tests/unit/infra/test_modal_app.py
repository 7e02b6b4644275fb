"""The definition of the Modal app, checked without a deploy."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

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
