"""The GPU pools of a deployment: `default`, with the GPUs of the deployed app, and the additional pools.

All pools use one Modal class. An additional pool is a variant of it with another GPU; its containers serve only the
queue of that pool.
"""

from collections.abc import Mapping
from typing import Any

import modal

from infra.on_modal.names import APP_NAME, WORKER_CLASS
from storage.keys import DEFAULT_POOL


class UnknownPool(LookupError):
    """The deployment has no pool of this name, or no longer has one."""


class ModalPools:
    """Looks up the worker class of each pool. `gpus` maps each additional pool to its GPU."""

    def __init__(self, gpus: Mapping[str, str], *, app_name: str = APP_NAME, environment: str | None = None) -> None:
        self._gpus = gpus
        self._class = modal.Cls.from_name(app_name, WORKER_CLASS, environment_name=environment)
        self._runs: dict[str, Any] = {}

    def run(self, pool: str) -> Any:
        """Return the method whose calls are this pool's tickets. Raise `UnknownPool`."""
        if pool not in self._runs:
            self._runs[pool] = self._worker(pool).run
        return self._runs[pool]

    def _worker(self, pool: str) -> Any:
        if pool == DEFAULT_POOL:
            return self._class()
        if pool not in self._gpus:
            known = ", ".join([DEFAULT_POOL, *self._gpus])
            raise UnknownPool(f"no pool {pool!r}: this deployment has {known}")
        # Modal scales each variant separately, so that the pools have containers of their own.
        return self._class.with_options(gpu=self._gpus[pool])(pool=pool)
