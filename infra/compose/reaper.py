"""Builds the reaper from the settings and the stores."""

from datetime import timedelta

from infra.settings import Settings
from storage.launcher import Launcher
from storage.stores import Stores
from storage.tickets import Tickets
from storage.timers import Kind, TimerHandler
from workers.upkeep.backlog import Backlog
from workers.upkeep.jobs import JobTimers
from workers.upkeep.reaper import Reaper, TimerSweep


def reaper(settings: Settings, stores: Stores, launcher: Launcher) -> Reaper:
    handlers: dict[Kind, TimerHandler] = {
        "job": JobTimers(stores, max_attempts=settings.max_attempts),
        "batch": stores.batches,
        "upload": stores.uploads,
        "key": stores.idempotency,
        "test": stores.deliveries,
        "endpoint": stores.endpoints,
        "asset": stores.assets,
    }
    backlog = Backlog(stores, Tickets(launcher, stores.objects), lease=timedelta(seconds=settings.lease_s))
    timers = TimerSweep(handlers, stores.objects, stores.clock, lease_s=settings.lease_s)
    return Reaper(timers, backlog)
