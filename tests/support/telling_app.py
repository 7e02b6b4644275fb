"""An app whose `download_models` tells two steps and what it was asked: the stream alone, without a volume."""

from collections.abc import Iterator
from typing import Any

import modal

from infra.on_modal import APP_NAME

app = modal.App(APP_NAME)


@app.function()
def download_models(command: str, wanted: list[dict[str, Any]]) -> Iterator[Any]:
    """As the deployed one."""
    yield {"name": "vae/a", "have": 1, "total": 2}
    yield {"name": "vae/a", "have": 2, "total": 2}
    yield {"found": [{"command": command, "wanted": wanted}]}
