"""The GPU pools of a deployment: `default` with the GPUs that the app was deployed with, and those named beside it.

All of them are one class. A pool beside the default one is a variant of it: another GPU, and containers of its own
that serve the queue of that pool alone.
"""

from collections.abc import Mapping
from typing import Any

import modal

from infra.on_modal.names import APP_NAME, WORKER_CLASS
from storage.keys import DEFAULT_POOL


class UnknownPool(LookupError):
    """The deployment has no such pool, any more perhaps."""


class ModalPools:
    """`gpus`: the GPU of each pool beside the default one."""

    def __init__(self, gpus: Mapping[str, str], *, app_name: str = APP_NAME, environment: str | None = None) -> None:
        self._gpus = gpus
        self._class = modal.Cls.from_name(app_name, WORKER_CLASS, environment_name=environment)
        self._runs: dict[str, Any] = {}

    def run(self, pool: str) -> Any:
        """The method whose calls are this pool's tickets. `UnknownPool`."""
        if pool not in self._runs:
            self._runs[pool] = self._worker(pool).run
        return self._runs[pool]

    def _worker(self, pool: str) -> Any:
        if pool == DEFAULT_POOL:
            return self._class()
        if pool not in self._gpus:
            known = ", ".join([DEFAULT_POOL, *self._gpus])
            raise UnknownPool(f"no pool {pool!r}: this deployment has {known}")
        return self._class.with_options(gpu=self._gpus[pool])(pool=pool)
