"""The frames of one job's stream: its events since the client's position, until the job or the stream ends."""

from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial

from starlette.requests import Request

from app.api.context import context_of, principal_of
from app.api.job_view import QUICKLY_SHOWN
from app.heavy import off_loop
from app.streams.live import Frame, LiveJob
from app.streams.response import KEEP_ALIVE, EventStream, StreamLife
from app.streams.story import PreviewShown, Sent, Story
from storage.errors import JobGone
from storage.jobs.record import JobRecord, Status
from storage.jobs.store import StoredJob

Render = Callable[[Sent], bytes]
"""Encodes an event. The result is empty for events that the client's API does not have."""


def job_stream(request: Request, stored: StoredJob, story: Story, render: Render) -> EventStream:
    """Respond with the events that the client does not know yet, and with those that follow."""
    context = context_of(request)
    frames = _frames(request, stored, story, render)
    return EventStream(frames, principal_of(request), context.streams, context.in_flight)


def life_of(request: Request) -> StreamLife:
    context = context_of(request)
    longest_s, silence_s = context.config.max_stream_s, context.config.keep_alive_s
    return StreamLife(context.streams, request.scope, longest_s=longest_s, silence_s=silence_s)


async def _frames(request: Request, stored: StoredJob, story: Story, render: Render) -> AsyncGenerator[bytes]:
    context, life = context_of(request), life_of(request)
    async with context.watch.follow(stored) as poll, context.live.joined(poll) as live:
        shown: Frame = None
        # The head of a response is sent with its first bytes: a client without news must learn that its stream is open.
        opening = KEEP_ALIVE
        while True:
            # Always the latest record: a slow client misses states, never an output or the end.
            events, story = await events_of(story, stored.record)
            preview, shown = _preview(stored.record, shown, live.frame), live.frame
            events += preview
            if frames := await _rendered(events, render) or opening:
                yield frames
            opening = b""
            if story.is_over or poll.is_over or await life.is_over():
                return
            before = stored
            try:
                stored = await poll.until(partial(_has_news, before, live, shown), life.wait_s)
            except JobGone:
                return
            if not _has_news(before, live, shown, stored) and not poll.is_over:
                yield KEEP_ALIVE


async def events_of(story: Story, record: JobRecord) -> tuple[list[Sent], Story]:
    """Do as `Story.after`, in a thread if the job has many outputs."""
    return story.after(record) if len(record.outputs) <= QUICKLY_SHOWN else await off_loop(story.after, record)


def _preview(record: JobRecord, shown: Frame, newest: Frame) -> list[Sent]:
    """Return the newest preview if the client does not have it."""
    if newest is None or newest is shown or record.status is not Status.RUNNING or newest[0] != record.attempt:
        return []
    return [Sent(PreviewShown(record, newest[1]))]


def _has_news(before: StoredJob, live: LiveJob, shown: Frame, stored: StoredJob) -> bool:
    return stored.record.rev > before.record.rev or live.frame is not shown


async def _rendered(events: Sequence[Sent], render: Render) -> bytes:
    def all_of_them() -> bytes:
        return b"".join(map(render, events))

    return all_of_them() if len(events) <= QUICKLY_SHOWN else await off_loop(all_of_them)
