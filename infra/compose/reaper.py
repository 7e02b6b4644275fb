"""How the reaper is put together."""

from datetime import timedelta

from infra.settings import Settings
from storage.hint_keys import Kind
from storage.launcher import Launcher
from storage.stores import Stores
from workers.upkeep.backlog import Backlog
from workers.upkeep.deadlines import Deadlines, Keeper
from workers.upkeep.reaper import Reaper
from workers.upkeep.recovery import Recovery


def reaper(settings: Settings, stores: Stores, launcher: Launcher) -> Reaper:
    keepers: dict[Kind, Keeper] = {
        "draft": stores.remover,
        "job": stores.remover,
        "batch": stores.batches,
        "upload": stores.uploads,
        "key": stores.idempotency,
        "test": stores.deliveries,
        "endpoint": stores.endpoints,
    }
    return Reaper(
        Recovery(stores.jobs, stores.logs, stores.objects, stores.clock, max_attempts=settings.max_attempts),
        Backlog(
            stores.jobs,
            stores.objects,
            stores.engine_starts,
            launcher,
            stores.clock,
            lease=timedelta(seconds=settings.lease_s),
        ),
        Deadlines(keepers, stores.objects, stores.clock),
    )
