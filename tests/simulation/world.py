"""A simulated deployment: clients, an API, workers and a reaper on one bucket, first with faults and then without.

chaos     jobs are submitted, cancelled, removed; calls fail, processes die, engines hang
settling  there are no more faults: every accepted job must end
ageing    weeks pass: the reaper must leave an empty bucket
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr

from app.services import Services
from app.submission.acceptance import Acceptance, Accepted, Identity
from app.submission.batches import AcceptedBatch, BatchAcceptance, PreparedBatch
from app.submission.input_files import LocalFile
from app.submission.preparation import PreparedJob, PreparedWorkflow
from app.submission.request import JobOptions
from infra.compose.api import api_services
from infra.compose.deliverer import dispatcher
from infra.compose.reaper import reaper
from infra.compose.stores import make_stores
from infra.compose.worker import worker_loop
from infra.settings import Settings
from storage.batches import PUBLISHED_WITHIN
from storage.bucket.memory import MemoryObjectStore
from storage.errors import JobGone, PreconditionFailed, StorageError
from storage.jobs.filters import JobFilter
from storage.jobs.index import event_ref
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import StoredJob
from storage.keys import DEFAULT_POOL
from storage.launcher import NoLauncher
from storage.stores import Stores
from storage.tickets import Tickets
from storage.tombstone import LIFE
from tests.simulation.engine import GRAPH, SimulatedHost
from tests.simulation.faults import Faults, Rates
from tests.simulation.process import Kind, Process, ProcessStore, adopting_factory
from tests.simulation.receiver import SimulatedReceiver
from tests.simulation.virtual_time import VirtualClock
from tests.simulation.wakeups import LossySignal, TicketOffice
from tests.simulation.watcher import ENDS, TENANT, Watcher
from tests.support.records import itself
from workers.drain import Drain
from workers.loop import WorkerLoop

T = TypeVar("T")

SETTINGS = Settings(
    bucket="simulated",
    lease_s=8,
    queue_poll_s=8,
    reap_interval_s=10,
    deliver_poll_s=8,
    webhook_timeout_s=1,
    webhook_retry_scale=0.0005,
    webhook_secret=SecretStr("whsec_" + "c2ltdWxhdGVk" * 3),
    engine_stall_s=20,
    log_interval_s=5,
    max_attempts=3,
    min_free_bytes=0,  # as many as the simulated engine reports
)
CHAOS_S = (20.0, 50.0)
SETTLING_S = 1800.0
WORKERS = 3
TICKET_S = 20.0
POLL_S = 5.0
CLIENT_PATIENCE_S = 30.0
REPLAY_TRIES = 3

RECEIVER = "https://receiver.example/hook"
WORKFLOW = PreparedWorkflow.of(GRAPH).parts

AGES = (timedelta(minutes=11), timedelta(days=2), timedelta(days=7))
"""Spans between sweeps, beyond the age of a young index key, an Idempotency-Key, and the retention of jobs."""


class GaveUp(Exception):
    """A client got no answer and does not retry."""


@dataclass
class World:
    seed: int
    rates: Rates
    folder: Path
    """The folder of the file that every output node makes and of the input file that some clients send."""
    accepted: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(adopting_factory)
        loop.set_exception_handler(lambda *_: None)  # errors of a dead process are expected
        self.faults = Faults(self.seed, self.rates)
        self.chance = self.faults.chance
        self.clock = VirtualClock(loop)
        self.bucket = MemoryObjectStore(self.clock)
        self.watcher = Watcher(self.bucket, self.clock, SETTINGS.max_attempts)
        self.receiver = SimulatedReceiver(self.faults, self.watcher)
        self.signal = LossySignal(self.chance)
        self.is_crowded = self.chance.random() < 0.3
        """Whether many jobs compete for one worker, so that they overlap in it."""
        self.office = TicketOffice(WORKERS) if self.chance.random() < 0.5 else None
        self.has_batch = self.chance.random() < 0.3
        self.processes: dict[str, Process] = {}
        self.stops: dict[str, asyncio.Event] = {}
        self._numbers = itertools.count()
        self._background: list[asyncio.Task[Any]] = []
        self._api: tuple[Process, Services] | None = None

    async def run(self) -> list[str]:
        """Run the simulation and return the violations."""
        clients = [asyncio.create_task(client) for client in self._clients()]
        for slot in (
            self._keep_api,
            self._keep_reaper,
            self._keep_deliverer,
            *[self._keep_worker] * (1 if self.is_crowded else self.chance.randint(1, WORKERS)),
        ):
            self._background.append(asyncio.create_task(slot()))
        self._background.append(asyncio.create_task(self._kill_at_random()))
        await asyncio.sleep(self.chance.uniform(*CHAOS_S))
        self.faults.stop()
        await self._settle(clients)
        self.watcher.check_settled(self.accepted)
        self.watcher.check_delivered(self.receiver.taken)
        await asyncio.sleep(self.rates.pause_s + 3 * SETTINGS.reap_interval_s)
        if self.has_batch:
            await asyncio.sleep(PUBLISHED_WITHIN.total_seconds())
        self.watcher.check_index()
        self._stop_everything()
        await self._age()
        self.watcher.check_empty()
        return self.watcher.violations

    # Processes.

    def _open(self, kind: Kind) -> tuple[Process, Stores]:
        process = Process(kind, f"{kind}-{next(self._numbers)}")
        self.processes[kind if kind != "worker" else process.name] = process
        store = ProcessStore(process, self.bucket, self.faults, self.watcher.saw)
        stores = make_stores(SETTINGS, store, self.signal, self.clock)
        stores.queue._chance = self.chance
        return process, stores

    async def _keep_api(self) -> None:
        while True:
            process, stores = self._open("api")
            self._api = process, api_services(SETTINGS, stores, self.office or NoLauncher())
            await process.died
            self._api = None
            await asyncio.sleep(self.chance.uniform(0.5, 3))

    async def _keep_reaper(self) -> None:
        while True:
            process, stores = self._open("reaper")
            sweeper = reaper(SETTINGS, stores, self.office or NoLauncher())

            async def serve(sweeper: Any = sweeper) -> None:
                while True:
                    await sweeper.sweep()
                    await asyncio.sleep(SETTINGS.reap_interval_s)

            await self._until_end(process, process.start(serve()))

    async def _keep_deliverer(self) -> None:
        while True:
            process, stores = self._open("deliverer")
            stop = asyncio.Event()
            await self._until_end(process, process.start(dispatcher(SETTINGS, stores, self.receiver).serve(stop)))

    async def _keep_worker(self) -> None:
        while True:
            process, stores = self._open("worker")
            host = SimulatedHost(self.faults, self.folder / "output.txt", self._misused_by(process))
            self.watcher.busy[process.name] = lambda host=host: host.is_busy  # type: ignore[misc]
            settings = SETTINGS.model_copy(update={"process_name": process.name})
            stop = self.stops[process.name] = asyncio.Event()
            serving = self._serve(worker_loop(settings, stores, host), stores, stop)
            await self._until_end(process, process.start(serving))
            del self.processes[process.name]

    def _misused_by(self, process: Process) -> Callable[[str], None]:
        """Return a report of what the process does to its engine while it lives."""
        return lambda what: self.watcher.misused(what) if process.alive else None

    async def _serve(self, worker: WorkerLoop, stores: Stores, stop: asyncio.Event) -> None:
        await worker.start()
        if self.office is None:
            await worker.serve(stop)
            return
        while not stop.is_set():
            ticket = await self.office.take()
            tickets = Tickets(self.office, stores.objects)
            await self._preemptible(Drain(worker, tickets, DEFAULT_POOL, limit_s=TICKET_S).run(ticket), stop)

    async def _preemptible(self, ticket: Coroutine[Any, Any, Any], stop: asyncio.Event) -> None:
        """Run a ticket that can be interrupted as on Modal, which gives its job back."""
        running, stopping = asyncio.create_task(ticket), asyncio.create_task(stop.wait())
        await _first_of(running, stopping)
        stopping.cancel()
        running.cancel()
        await asyncio.wait({running})
        if not running.cancelled() and isinstance(running.exception(), StorageError):
            return
        if not running.cancelled():
            running.result()

    async def _until_end(self, process: Process, main: "asyncio.Task[None]") -> None:
        await _first_of(main, process.died)
        process.kill()
        await asyncio.sleep(self.chance.uniform(0.5, 5))

    async def _kill_at_random(self) -> None:
        for _ in range(self.chance.randint(0, 4)):
            await asyncio.sleep(self.chance.uniform(3, 20))
            if self.rates.death_after == 0:
                return
            victim = self.chance.choice(sorted(self.processes.values(), key=lambda process: process.name))
            if victim.kind == "worker" and self.chance.random() < 0.5:
                self.stops[victim.name].set()
            else:
                victim.kill()

    def _stop_everything(self) -> None:
        for task in self._background:
            task.cancel()
        for process in list(self.processes.values()):
            process.kill()

    # Clients.

    def _clients(self) -> list[Coroutine[Any, Any, None]]:
        jobs = [self._job_client(f"key-{number}") for number in range(self._jobs())]
        return [*jobs, self._batch_client()] if self.has_batch else [*jobs]

    def _jobs(self) -> int:
        return self.chance.randint(6, 10) if self.is_crowded else self.chance.randint(1, 5)

    async def _job_client(self, key: str) -> None:
        await asyncio.sleep(self.chance.uniform(0, 30))
        prepared, identity = self._prepared(), Identity(key, "fingerprint")

        async def submit(api: Services) -> Accepted:
            acceptance = Acceptance(api, TENANT)
            return await acceptance.replayed(identity) or await acceptance.job(prepared, identity)

        accepted = await self._until_answered(submit)
        job_id = accepted.stored.record.job_id
        self.accepted[job_id] = "run"
        fate = self.chance.random()
        if fate < 0.2:
            await asyncio.sleep(self.chance.uniform(0, 20))
            self.accepted[job_id] = "cancel"
            await self._until_answered(lambda api: self._cancel(api, job_id, purge=fate < 0.07))
        elif fate < 0.8:
            await self._replay_some_ends(job_id)

    async def _replay_some_ends(self, job_id: str) -> None:
        """Replay a job's last event, as for a dead letter or for an event that was delivered before."""
        for _ in range(REPLAY_TRIES):
            await asyncio.sleep(self.chance.uniform(0, 20))
            asked_at, event_id = await self._until_answered(lambda api: self._replay_its_end(api, job_id))
            if event_id is not None:
                self.watcher.replays[event_id] = asked_at
                return

    async def _replay_its_end(self, api: Services, job_id: str) -> tuple[float, str | None]:
        """Return the time of the replay and the event's id; None if there was no delivery attempt for the job's end
        yet."""
        asked_at = asyncio.get_running_loop().time()
        record = (await api.stores.jobs.read(TENANT, job_id)).record
        for event in record.events:
            if (
                event.name in ENDS
                and (again := await api.stores.deliveries.replay(event_ref(record, event))) is not None
            ):
                return asked_at, again.ref.event_id
        return asked_at, None

    async def _batch_client(self) -> None:
        await asyncio.sleep(self.chance.uniform(0, 20))
        url = RECEIVER if self.chance.random() < 0.7 else None
        batch = PreparedBatch(tuple(self._prepared() for _ in range(self.chance.randint(1, 3))), (), {}, url)
        identity = Identity("batch", "fingerprint")

        async def submit(api: Services) -> AcceptedBatch:
            acceptance = BatchAcceptance(api, TENANT)
            return await acceptance.replayed(identity) or await acceptance.batch(batch, identity)

        accepted = await self._until_answered(submit)
        job_ids = accepted.stored.record.job_ids
        self.accepted.update(dict.fromkeys(job_ids, "run"))
        if self.chance.random() < 0.3:
            await asyncio.sleep(self.chance.uniform(0, 10))
            self.accepted.update(dict.fromkeys(job_ids, "cancel"))
            batch_id = accepted.stored.record.batch_id

            async def cancel(api: Services) -> object:
                return await api.stores.batches.cancel(await api.stores.batches.read(TENANT, batch_id))

            await self._until_answered(cancel)

    def _prepared(self) -> PreparedJob:
        options = JobOptions(
            priority=self.chance.choice((0, 0, 0, 5)),
            timeout_s=self.chance.choice((8, 120, 120, 120)),
            webhook_url=RECEIVER if self.chance.random() < 0.7 else None,
            webhook_events=["started", "progress", "output", *ENDS] if self.chance.random() < 0.2 else [*ENDS],
        )
        picture = self.folder / "input.png"
        pictures = (LocalFile("a.png", picture, picture.stat().st_size, "image/png"),)
        return PreparedJob(options, WORKFLOW, (), None, pictures if self.chance.random() < 0.3 else (), (), "own", {})

    async def _cancel(self, api: Services, job_id: str, *, purge: bool) -> None:
        now = self.clock.now()

        def change(record: JobRecord) -> JobRecord:
            return (record.retain(0) if purge else record).cancel(now=now)

        try:
            stored: StoredJob = await api.stores.jobs.evolve(TENANT, job_id, change)
            if purge and await api.stores.remover.is_free_to_go(stored.record):
                await api.stores.remover.purge(stored)
        except (JobGone, PreconditionFailed):
            return

    async def _until_answered(self, call: Callable[[Services], Awaitable[T]]) -> T:
        """Repeat a request with the same key until there is an answer, or raise `GaveUp`."""
        while True:
            if self._api is not None:
                process, services = self._api
                calling = process.start(_awaited(call(services)))
                await asyncio.wait(
                    {calling, process.died}, timeout=CLIENT_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
                )
                if calling.done() and not calling.cancelled() and calling.exception() is None:
                    return calling.result()
                if calling.done() and not calling.cancelled() and not isinstance(calling.exception(), StorageError):
                    self._unexpected(calling.exception())
            if self.faults.happens(self.faults.rates.client_gives_up):
                raise GaveUp
            await asyncio.sleep(self.chance.uniform(0.5, 2))

    def _unexpected(self, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            self.watcher.violations.append(f"the API failed: {error!r}")

    # Afterwards.

    async def _settle(self, clients: list["asyncio.Task[None]"]) -> None:
        for _ in range(round(SETTLING_S / POLL_S)):
            await asyncio.sleep(POLL_S)
            busy = self.watcher.unfinished() or self.watcher.undelivered()
            if not busy and all(client.done() for client in clients):
                break
        for client in clients:
            if not client.done():
                self.watcher.violations.append("a client never got an answer")
                client.cancel()
            elif not isinstance(client.exception(), GaveUp):
                client.result()

    async def _age(self) -> None:
        """Run sweeps with faults, and then without."""
        self.faults.resume()
        for span in AGES:
            self.clock.skip(span)
            await self._sweep_twice()
        self.faults.stop()
        for span in (timedelta(days=2), LIFE, LIFE):
            self.clock.skip(span)
            await self._sweep_twice()

    async def _sweep_twice(self) -> None:
        for reads_too in (True, False):
            process, stores = self._open("reaper")
            sweeping = process.start(reaper(SETTINGS, stores, NoLauncher()).sweep())
            await _first_of(sweeping, process.died)
            if process.alive and reads_too:
                await asyncio.wait({process.start(self._read_as_users_do(stores))})
            process.kill()
            self.clock.skip(timedelta(hours=26))

    async def _read_as_users_do(self, stores: Stores) -> None:
        """List jobs and let an idle worker poll, which removes stale index keys."""
        for status in (None, *Status):
            await stores.jobs.page(TENANT, itself, JobFilter(status=status), limit=50, cursor=None)
        await stores.queue.claim("default", "nobody")


async def _awaited(call: Awaitable[T]) -> T:
    return await call


async def _first_of(*futures: "asyncio.Future[Any]", timeout: float | None = None) -> None:
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
