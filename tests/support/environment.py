"""The environment of processes that tests start: none of the settings of whoever runs the tests."""

import os

MEASURED = {name: os.environ[name] for name in ("COVERAGE_PROCESS_CONFIG",) if name in os.environ}
"""By this `make coverage` counts a process that gets no environment of ours."""


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("COMFYUI_", "MODAL_", "AWS_"))}
