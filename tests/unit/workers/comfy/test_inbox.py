"""The inbox of engine messages: which messages wait, which are dropped, and in which order they leave."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.comfy.inbox import MAX_INBOX_WEIGHT, MAX_MESSAGES, Inbox
from workflows.messages import (
    Executed,
    Executing,
    Message,
    Preview,
    Progress,
    ProgressState,
    ProgressText,
    Status,
    Unknown,
)

SNAPSHOT = ProgressState("p", ())


def drained(inbox: Inbox) -> list[Message]:
    found = []
    while (message := inbox.get_nowait()) is not None:
        found.append(message)
    return found


def inbox_of(prompt_id: str | None) -> Inbox:
    inbox = Inbox()
    inbox.prompt_id = prompt_id
    return inbox


def filled(*messages: Message) -> Inbox:
    inbox = inbox_of("p")
    for message in messages:
        inbox.put(message, 1)
    return inbox


def test_a_newer_snapshot_replaces_a_waiting_snapshot() -> None:
    """A newer snapshot replaces a waiting one and takes its place at the end."""
    executing = Executing("p", "2", "2")
    newer = ProgressState("p", ())
    assert drained(filled(SNAPSHOT, executing, newer)) == [executing, newer]


def test_messages_of_different_topics_are_kept() -> None:
    """Steps and previews of different nodes, and every PNG frame, which may be a result, are kept."""
    messages = (
        Progress("p", "1", 1, 2),
        Progress("p", "2", 1, 2),
        Preview("jpeg", b"a", "1", "p"),
        Preview("jpeg", b"b", "2", "p"),
        Preview("png", b"c", "3", "p"),
        Preview("png", b"d", "3", "p"),
        SNAPSHOT,
    )
    assert drained(filled(*messages)) == list(messages)


def test_messages_without_a_prompt_are_dropped() -> None:
    """Messages that concern no prompt are dropped, because every client of a busy server gets many."""
    assert len(filled(Status(1, None), Unknown("crystools.monitor", {}), ProgressText("1", "x"))) == 0


@pytest.mark.parametrize("own", ["p", None])
def test_messages_of_other_prompts_are_not_kept(own: str | None) -> None:
    """Messages that name another prompt are dropped, before the submission as well; those that name none are kept."""
    inbox = inbox_of(own)
    unnamed = Preview("png", b"x")
    for message in (Executed("q", "1", "1", {}), Preview("png", b"x", "1", "q"), unnamed):
        inbox.put(message, 1)
    assert drained(inbox) == [unnamed]


@pytest.mark.anyio
@pytest.mark.parametrize(("number", "weight"), [(3, (MAX_INBOX_WEIGHT + 2) // 3), (MAX_MESSAGES, 1)])
async def test_a_full_inbox_holds_its_producer_back(number: int, weight: int) -> None:
    """The producer waits from the limit of weight or number on, until the consumer has taken a message."""
    inbox = inbox_of("p")
    for _ in range(number):
        await inbox.room()
        inbox.put(Preview("png", b"x", "1", "p"), weight)
    waiting = asyncio.create_task(inbox.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    inbox.get_nowait()
    await waiting
    assert len(drained(inbox)) == number - 1


@pytest.mark.anyio
async def test_a_replaced_message_takes_no_room() -> None:
    """Only waiting messages count, not those that a newer one has replaced."""
    inbox = inbox_of("p")
    for _ in range(3):
        inbox.put(Preview("jpeg", b"x", "1", "p"), MAX_INBOX_WEIGHT - 1)
    assert not inbox.is_full


@given(st.lists(st.sampled_from(["snapshot", "step", "preview", "executed"]), max_size=60))
def test_the_inbox_is_bounded_and_loses_no_output(kinds: list[str]) -> None:
    """The inbox keeps all outputs in order and only the newest message of each other topic."""
    made: dict[str, list[Message]] = {"snapshot": [], "step": [], "preview": [], "executed": []}
    inbox = inbox_of("p")
    for number, kind in enumerate(kinds):
        choices: dict[str, Message] = {
            "snapshot": SNAPSHOT,
            "step": Progress("p", "1", number, 60),
            "preview": Preview("jpeg", bytes([number]), "1", "p"),
            "executed": Executed("p", str(number), str(number), {}),
        }
        message = choices[kind]
        made[kind].append(message)
        inbox.put(message, 1)
    assert len(inbox) <= len(made["executed"]) + 3
    left = drained(inbox)
    assert [message for message in left if isinstance(message, Executed)] == made["executed"]
    for kind in ("snapshot", "step", "preview"):
        assert not made[kind] or made[kind][-1] in left


@pytest.mark.anyio
async def test_waiting_ends_with_a_message_a_timeout_or_a_wake() -> None:
    """Waiting returns a message, or nothing after a time-out or a wake."""
    inbox = inbox_of("p")
    assert await inbox.get(0.0) is None
    waiting = asyncio.create_task(inbox.get(60.0))
    await asyncio.sleep(0)
    inbox.wake()
    assert await waiting is None
    waiting = asyncio.create_task(inbox.get(60.0))
    await asyncio.sleep(0)
    inbox.put(SNAPSHOT, 1)
    assert await waiting == SNAPSHOT
