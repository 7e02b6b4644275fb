"""The environment of processes that tests start: none of the settings of whoever runs the tests."""

import os


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("COMFYUI_", "MODAL_", "AWS_"))}
