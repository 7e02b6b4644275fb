"""The environment of processes that tests start, without the settings of the user who runs the tests."""

import os

MEASURED = {name: os.environ[name] for name in ("COVERAGE_PROCESS_CONFIG",) if name in os.environ}
"""The variables with which `make coverage` measures a process that gets no other variable of this process."""


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("COMFYUI_", "MODAL_", "AWS_"))}
