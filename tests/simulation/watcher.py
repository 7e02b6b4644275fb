"""The invariants at every write and at the end, checked on each write to a job's record and its writer."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from storage import keys
from storage.batch_record import BatchRecord
from storage.bucket.memory import MemoryObjectStore
from storage.index_keys import OUTBOX, ListEntry, list_prefix
from storage.jobs.index import event_ref, queue_key
from storage.jobs.models import JobEvent
from storage.jobs.record import TRANSITIONS, JobRecord, Status
from storage.tombstone import Tombstone
from tests.simulation.process import Process
from tests.simulation.virtual_time import START, VirtualClock

TENANT = "t"
ENDS = ("completed", "failed")
_EDGES = {(before, after) for (before, _), after in TRANSITIONS.items()}


@dataclass(slots=True)
class Watcher:
    """Collects `violations` as text. It raises nothing, because the code under test could swallow an exception."""

    bucket: MemoryObjectStore
    clock: VirtualClock
    max_attempts: int
    violations: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    records: dict[str, JobRecord] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    events: dict[str, JobEvent] = field(default_factory=dict)
    """Every committed event by its id."""
    superseded: set[str] = field(default_factory=set)
    replays: dict[str, float] = field(default_factory=dict)
    """The last replay request of each event by its id, in the loop's time."""
    batches: dict[str, BatchRecord] = field(default_factory=dict)
    """The newest record of each batch by its key, until it is removed."""
    drafts: set[str] = field(default_factory=set)
    """The key of each batch that was ever written, drafts included."""
    busy: dict[str, Callable[[], bool]] = field(default_factory=dict)
    """Whether the engine of each worker runs a prompt, by the worker's name."""
    _changed_at: dict[str, float] = field(default_factory=dict)
    _listed_at: dict[str, float] = field(default_factory=dict)
    _queue_key_at: dict[str, float] = field(default_factory=dict)

    def saw(self, process: Process, operation: str, key: str) -> None:
        """Check a call that took effect."""
        now = self._now()
        self.history.append(f"{now:.4f} {process.name} {operation} {key}")
        if operation == "delete" and key.startswith("timers/"):
            self._timer_deleted(key)
        if operation == "list" and key.startswith("queue/"):
            self._listed_at[process.name] = now
        if operation == "put" and key.startswith("queue/"):
            self._queue_key_at.setdefault(key, now)
        if key.endswith("/batch.json") and operation in ("create", "replace"):
            self._batch_written(key)
        if not key.endswith("/job.json"):
            return
        if operation == "put":
            self._violated("a record was written without a condition", key)
        if operation in ("create", "replace"):
            self._record_written(process, key)

    def _timer_deleted(self, key: str) -> None:
        """Check that no record names the deleted timer."""
        for record_key, record in self.records.items():
            if record.timer == key and record_key not in self.gone:
                self._violated("its timer was deleted", record_key)

    def _record_written(self, process: Process, key: str) -> None:
        body = self.bucket._entries[key].body
        before = self.records.get(key)
        if Tombstone.parse(key, body) is not None:
            if before is not None and not before.status.is_terminal and self._is_findable(before):
                self._violated("a job was removed before its end", key)
            self.gone.add(key)
            return
        after = JobRecord.model_validate_json(body)
        if key in self.gone:
            self._violated("a removed job came back", key)
        if before is None:
            self._check_new(after, key)
        else:
            self._check_change(process, before, after, key)
        self._check_events(before, after, key)
        self._check_timer(after, key)
        self.records[key] = after
        self._changed_at[key] = self._now()

    def _batch_written(self, key: str) -> None:
        body = self.bucket._entries[key].body
        if Tombstone.parse(key, body) is None:
            self.drafts.add(key)
            self.batches[key] = BatchRecord.model_validate_json(body)
            return
        before = self.batches.pop(key, None)
        if before is not None and before.is_open and before.awaits_its_end:
            self._violated("a batch was removed before its end was announced", key)

    def _check_new(self, after: JobRecord, key: str) -> None:
        if (after.status, after.rev, after.attempt) != (Status.QUEUED, 0, 0):
            self._violated("a job did not start in the queue", key)

    def _check_change(self, process: Process, before: JobRecord, after: JobRecord, key: str) -> None:
        if after.rev != before.rev + 1 or after.nonce == before.nonce:
            self._violated(f"rev {before.rev} was followed by {after.rev}", key)
        if before.status is not after.status and (before.status, after.status) not in _EDGES:
            self._violated(f"{before.status} became {after.status}", key)
        if before.status.is_terminal and _but(after, "retain_s", "rev", "nonce", "timer") != _but(
            before, "retain_s", "rev", "nonce", "timer"
        ):
            self._violated("a job changed after its end", key)
        if after.attempt - after.given_back > self.max_attempts:
            self._violated(f"attempt {after.attempt} of {self.max_attempts}", key)
        if before.status is Status.RUNNING:
            self._check_holder(process, before, after, key)
        if before.status is Status.QUEUED and after.status is Status.RUNNING:
            self._check_order(process, after, key)
            if process.name in self.busy and self.busy[process.name]():
                self._violated("it was claimed while its worker's engine ran another job", key)
            self._check_batch(after, key)
        if after.status is Status.COMPLETED and before.status is not Status.COMPLETED:
            self._check_outputs(after, key)

    def _check_events(self, before: JobRecord | None, after: JobRecord, key: str) -> None:
        """Check that events are numbered without gaps and unchanged once committed, except superseded progress."""
        for event in after.events:
            known = self.events.setdefault(event_ref(after, event).event_id, event)
            if known != event:
                self._violated(f"event {event.sequence} changed", key)
        for event in before.events if before else ():
            if event not in after.events:
                self.superseded.add(event_ref(after, event).event_id)
                if event.name != "progress":
                    self._violated(f"event {event.sequence} disappeared", key)
        ended = after.status.is_terminal and not (before and before.status.is_terminal)
        if ended and after.webhook_url is not None and (not after.events or after.events[-1].name not in ENDS):
            self._violated("it ended without an event", key)

    def event_sent(self, event_id: str, kind: str, owner_id: str) -> None:
        """Check an event that the receiver got in a POST."""
        self.history.append(f"{self._now():.4f} receiver {event_id}")
        if kind.startswith("comfyui.batch."):
            batch = self.batches.get(keys.batch(TENANT, owner_id))
            if batch is None or batch.finished_at is None or not self._is_finished(batch):
                self._violated(f"{event_id} was sent for a batch that had not ended", owner_id)
        if kind.startswith("comfyui.job."):
            event = self.events.get(event_id)
            if event is None or kind != f"comfyui.job.{event.name}.v1":
                self._violated(f"{event_id} was sent but never committed", owner_id)

    def _check_timer(self, record: JobRecord, key: str) -> None:
        """Check that the timer exists. A batch's timer stands in for its jobs' timers until they are all published."""
        if record.timer not in self.bucket._entries and self._is_published(record):
            self._violated("its timer does not exist", key)

    def _check_holder(self, process: Process, before: JobRecord, after: JobRecord, key: str) -> None:
        """Check that only the lease's holder writes, the reaper after its end, and others only requests."""
        assert before.lease is not None
        requests = ("retain_s", "cancel_requested_at", "rev", "nonce", "timer")
        if _but(after, *requests) == _but(before, *requests):
            return
        if process.name == before.lease.worker:
            return
        if process.kind == "reaper" and before.lease.expires_at <= self.clock.now():
            return
        self._violated(f"{process.name} wrote over the lease of {before.lease.worker}", key)

    def _check_order(self, process: Process, claimed: JobRecord, key: str) -> None:
        """Check that no better job had been queued unchanged since this worker listed the queue."""
        listed_at = self._listed_at.get(process.name, 0.0)
        for other, record in self.records.items():
            waited = record.status is Status.QUEUED and self._changed_at[other] < listed_at and other not in self.gone
            if waited and record.priority > claimed.priority and self._was_listed(record, listed_at):
                self._violated(f"it was claimed before {other}, which has priority {record.priority}", key)

    def _was_listed(self, record: JobRecord, at: float) -> bool:
        key = queue_key(record)
        return self._queue_key_at.get(key, at) < at and key in self.bucket._entries

    def _is_findable(self, record: JobRecord) -> bool:
        return record.batch_id is None or self._batch_is_open(record)

    def _check_batch(self, claimed: JobRecord, key: str) -> None:
        if claimed.batch_id is not None and not self._batch_is_open(claimed):
            self._violated("a job of a batch ran before the batch was accepted", key)

    def _is_published(self, record: JobRecord) -> bool:
        batch = self._batch_of(record)
        return record.batch_id is None or (batch is not None and batch.is_reconciled)

    def _batch_is_open(self, record: JobRecord) -> bool:
        batch = self._batch_of(record)
        return batch is not None and batch.is_open

    def _batch_of(self, record: JobRecord) -> BatchRecord | None:
        """Return None for a job without a batch or of a removed batch."""
        key = keys.batch(record.tenant, record.batch_id or "none")
        entry = self.bucket._entries.get(key)
        if entry is None or Tombstone.parse(key, entry.body) is not None:
            return None
        return BatchRecord.model_validate_json(entry.body)

    def _is_finished(self, batch: BatchRecord) -> bool:
        members = [self.records.get(keys.record(TENANT, job_id)) for job_id in batch.job_ids]
        return all(record is not None and record.status.is_terminal for record in members)

    def _check_outputs(self, record: JobRecord, key: str) -> None:
        for output in record.outputs:
            stored = self.bucket._entries.get(output.key)
            if stored is None or len(stored.body) != output.size_bytes:
                self._violated(f"it completed without its output {output.key}", key)
            if f"/outputs/{record.attempt:03d}/" not in output.key:
                self._violated(f"it kept an output of another attempt: {output.key}", key)
        if {output.node_id for output in record.outputs} != {"2", "3"}:
            self._violated(f"it completed with {len(record.outputs)} outputs", key)

    # The end.

    def check_settled(self, accepted: Mapping[str, str]) -> None:
        """Check that each accepted job has ended; `accepted` maps its id to the requested fate, "run" or "cancel"."""
        for job_id, asked in accepted.items():
            key = keys.record(TENANT, job_id)
            record = self.records.get(key)
            if record is None:
                self._violated("an accepted job was never written", key)
            elif not record.status.is_terminal:
                self._violated(f"it is stuck: {record.status}, attempt {record.attempt}", key)
            else:
                self._check_end(record, asked, key)
        if self.unfinished():
            self._violated("a job is stuck", "somewhere")

    def _check_end(self, record: JobRecord, asked: str, key: str) -> None:
        code = record.error_detail.code if record.error_detail else None
        if code == "cancelled" and asked != "cancel":
            self._violated("it was cancelled without a request", key)
        used_up = record.attempt - record.given_back >= self.max_attempts
        if code in ("worker_lost", "engine_unavailable", "engine_stalled", "storage_failed") and not used_up:
            self._violated(f"{code} after {record.attempt} attempts", key)
        if code in ("internal_error", "staging_failed", "output_failed", "prompt_refused"):
            self._violated(f"it failed with {code}: {record.error}", key)

    def unfinished(self) -> bool:
        """Return whether a visible job has not ended."""
        return any(
            not record.status.is_terminal and self._is_findable(record)
            for key, record in self.records.items()
            if key not in self.gone
        )

    def check_delivered(self, taken: Mapping[str, float]) -> None:
        """Check that each committed event has arrived, and again after each replay, since every receiver is healthy by
        now.

        `taken` is the last arrival of each event in the loop's time.
        """
        for event_id in self.events.keys() - taken.keys() - self.superseded:
            self._violated("it was never delivered", event_id)
        for event_id, asked_at in self.replays.items():
            if taken.get(event_id, 0.0) < asked_at:
                self._violated("it was not delivered again", event_id)
        for key, batch in self.batches.items():
            if batch.is_open and batch.webhook_url is not None and batch.finish.event_id not in taken:
                self._violated("its end was never delivered", key)

    def undelivered(self) -> bool:
        """Return whether an outbox entry is left or the end of a batch is still to be announced."""
        if any(batch.is_open and batch.awaits_its_end for batch in self.batches.values()):
            return True
        return any(key.startswith(OUTBOX) for key in self.bucket.keys())  # noqa: SIM118  it is no dict

    def check_index(self) -> None:
        """Check, after some sweeps without faults, that each job is listed where it belongs."""
        everything = self.bucket.keys()
        present = {k: r for k, r in self.records.items() if k not in self.gone and self._is_findable(r)}
        for status in (None, *Status):
            wanted = {r.job_id for r in present.values() if status in (None, r.status)}
            listed = [ListEntry.parse(key).job_id for key in everything if key.startswith(list_prefix(TENANT, status))]
            if missing := wanted - set(listed):
                self._violated(f"missing from the list of {status or 'all'} jobs", str(missing))

    def check_empty(self) -> None:
        """Check that the bucket is empty after all retention times, except for objects that belong to no job."""
        lasting = ("engines/", "tickets/", f"tenants/{TENANT}/runtimes/")
        left = [
            key
            for key in self.bucket.keys()  # noqa: SIM118  it is no dict
            if not key.startswith(lasting) and not self._is_left_by_a_kill(key)
        ]
        if left:
            self._violated(f"{len(left)} objects were never removed", str(left[:5]))

    def _is_left_by_a_kill(self, key: str) -> bool:
        """Return whether the object was written in the same round as the timer of a job or batch that was never
        accepted: its workflow, or the claim of an Idempotency-Key."""
        folder, _, name = key.rpartition("/")
        if folder.endswith("/idempotency"):
            claimed = json.loads(self.bucket._entries[key].body)["id"]
            return keys.record(TENANT, claimed) not in self.records and keys.batch(TENANT, claimed) not in self.drafts
        return name == "workflow.json" and f"{folder}/job.json" not in self.records

    def misused(self, what: str) -> None:
        """Note what an engine reports."""
        self._violated(what, "an engine")

    def _violated(self, what: str, where: str) -> None:
        self.violations.append(f"{self._now():.3f} {where}: {what}")

    def _now(self) -> float:
        return (self.clock.now() - START).total_seconds()


def _but(record: JobRecord, *fields: str) -> JobRecord:
    return record.model_copy(update=dict.fromkeys(fields))
