"""Rules of the design, each broken on purpose: the simulation must see what that does."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

from storage.hint_keys import DueEntry
from storage.jobs.hint_writer import HintWriter
from storage.jobs.hints import hints_of, list_key
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import JobStore, LocalFile, StoredJob
from storage.jobs.values import Lease
from storage.webhooks.deliveries import DeliveryStore, StoredDelivery
from tests.simulation.process import ProcessStore

Mutation = Callable[[], AbstractContextManager[Any]]

_NOBODY = Lease(worker="", expires_at=datetime(2000, 1, 1, tzinfo=UTC))


def no_fence() -> AbstractContextManager[Any]:
    """An attempt that lost the job may write all the same."""
    return patch.object(JobRecord, "_held_by", lambda record, _: record.lease or _NOBODY)


def no_lease_check() -> AbstractContextManager[Any]:
    """The reaper takes a job from its worker without looking at the lease."""
    return patch.object(JobRecord, "has_lost_its_worker", lambda record, _: record.status is Status.RUNNING)


def hints_after_the_commit() -> AbstractContextManager[Any]:
    """A job is committed first, and made findable then."""

    async def create(
        store: JobStore, record: JobRecord, *, workflow: bytes, files: list[LocalFile], beside: dict[str, bytes]
    ) -> StoredJob:
        stored = await store.write_new(record, workflow=workflow, files=files, beside=beside)
        await store._hints.put((*hints_of(record), list_key(record)))
        return stored

    async def advance(store: JobStore, stored: StoredJob, changed: JobRecord) -> StoredJob:
        old, new = hints_of(stored.record), hints_of(changed)
        numbered = changed.model_copy(update={"rev": stored.record.rev + 1})
        committed = await store._commit(numbered, etag=stored.etag)
        await store._hints.put(new - old)
        await store._hints.drop(old - new)
        return committed

    changes = ExitStack()
    changes.enter_context(patch.object(JobStore, "create", create))
    changes.enter_context(patch.object(JobStore, "advance", advance))
    return changes


def no_rev() -> AbstractContextManager[Any]:
    """A record's number stays as it is."""
    commit = JobStore._commit

    async def unnumbered(store: JobStore, record: JobRecord, *, etag: str | None) -> StoredJob:
        return await commit(store, record.model_copy(update={"rev": 0}), etag=etag)

    return patch.object(JobStore, "_commit", unnumbered)


def no_condition() -> AbstractContextManager[Any]:
    """The last writer wins."""
    replace = ProcessStore.replace

    async def overwrite(objects: ProcessStore, key: str, body: bytes, *, etag: str, **options: Any) -> str:
        return await replace(objects, key, body, etag=objects._bucket._entries[key].etag, **options)

    return patch.object(ProcessStore, "replace", overwrite)


def no_announcement() -> AbstractContextManager[Any]:
    """Nothing tells the reaper of a submission that died half-way."""
    put = HintWriter.put

    async def unannounced(writer: HintWriter, hints: Any) -> None:
        await put(writer, [hint for hint in hints if "-draft-" not in hint])

    return patch.object(HintWriter, "put", unannounced)


def no_touch() -> AbstractContextManager[Any]:
    """A pointer that seems to lead nowhere is dropped, and a paused writer commits its event all the same."""

    async def untouched(store: JobStore, stored: StoredJob) -> StoredJob:
        return stored

    return patch.object(JobStore, "touch", untouched)


def pointers_outrun() -> AbstractContextManager[Any]:
    """A pointer that is ahead of its delivery is dropped, and a replay commits it all the same."""

    async def unchanged(store: DeliveryStore, stored: StoredDelivery, pointer: DueEntry) -> StoredDelivery:
        return stored

    return patch.object(DeliveryStore, "outrun", unchanged)


def pointers_share_a_key() -> AbstractContextManager[Any]:
    """The next pointer of an event may have the key of the one that is removed after it."""

    def shared(entry: DueEntry) -> str:
        due = entry.due.replace(microsecond=0, second=0)
        key: str = _KEY(replace(entry, due=due, turn=0))
        return key

    return patch.object(DueEntry, "key", property(shared))


_KEY = DueEntry.key.fget  # type: ignore[attr-defined]  # a property, seen from the class


MUTATIONS: tuple[Mutation, ...] = (
    no_fence,
    no_lease_check,
    hints_after_the_commit,
    no_rev,
    no_condition,
    no_announcement,
    no_touch,
    pointers_outrun,
    pointers_share_a_key,
)
