"""An app whose `download_models` yields two steps and its own arguments: the stream alone, without a volume."""

from collections.abc import Iterator
from typing import Any

import modal

from infra.on_modal import APP_NAME

app = modal.App(APP_NAME)


@app.function()
def download_models(command: str, wanted: list[dict[str, Any]]) -> Iterator[Any]:
    """Download models like the deployed function."""
    yield {"name": "vae/a", "have": 1, "total": 2}
    yield {"name": "vae/a", "have": 2, "total": 2}
    yield {"found": [{"command": command, "wanted": wanted}]}
