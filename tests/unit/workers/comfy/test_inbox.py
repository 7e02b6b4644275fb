"""The inbox: what waits, what is dropped, and in which order it leaves."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.comfy.inbox import Inbox
from workflows.messages import Executed, Executing, Message, Preview, Progress, ProgressState, Status, Unknown

SNAPSHOT = ProgressState("p", ())


def drained(inbox: Inbox) -> list[Message]:
    found = []
    while (message := inbox.get_nowait()) is not None:
        found.append(message)
    return found


def filled(*messages: Message) -> Inbox:
    inbox = Inbox()
    for message in messages:
        inbox.put(message)
    return inbox


def test_a_newer_snapshot_replaces_one_that_waits() -> None:
    """Also when other messages came between them; it then takes its own place in the order."""
    executing = Executing("p", "2", "2")
    newer = ProgressState("p", ())
    assert drained(filled(SNAPSHOT, executing, newer)) == [executing, newer]


def test_what_differs_is_kept() -> None:
    """Steps of two nodes, pictures of two nodes, and every PNG frame, which may be a result."""
    messages = (
        Progress("p", "1", 1, 2),
        Progress("p", "2", 1, 2),
        Preview("jpeg", b"a", "1", "p"),
        Preview("jpeg", b"b", "2", "p"),
        Preview("png", b"c", "3", "p"),
        Preview("png", b"d", "3", "p"),
        ProgressState("q", ()),
        SNAPSHOT,
    )
    assert drained(filled(*messages)) == list(messages)


def test_what_is_about_no_prompt_does_not_wait() -> None:
    """Every client of a busy server gets each change of its queue."""
    assert len(filled(Status(1, None), Unknown("crystools.monitor", {}))) == 0


@given(st.lists(st.sampled_from(["snapshot", "step", "preview", "executed"]), max_size=60))
def test_it_stays_small_and_loses_no_output(kinds: list[str]) -> None:
    """However much is put: outputs leave complete and in order, of everything else one a topic waits."""
    made: dict[str, list[Message]] = {"snapshot": [], "step": [], "preview": [], "executed": []}
    inbox = Inbox()
    for number, kind in enumerate(kinds):
        choices: dict[str, Message] = {
            "snapshot": SNAPSHOT,
            "step": Progress("p", "1", number, 60),
            "preview": Preview("jpeg", bytes([number]), "1", "p"),
            "executed": Executed("p", str(number), str(number), {}),
        }
        message = choices[kind]
        made[kind].append(message)
        inbox.put(message)
    assert len(inbox) <= len(made["executed"]) + 3
    left = drained(inbox)
    assert [message for message in left if isinstance(message, Executed)] == made["executed"]
    for kind in ("snapshot", "step", "preview"):
        assert not made[kind] or made[kind][-1] in left


@pytest.mark.anyio
async def test_waiting() -> None:
    """It waits for a message, gives up in time, and can be woken with nothing."""
    inbox = Inbox()
    assert await inbox.get(0.0) is None
    waiting = asyncio.create_task(inbox.get(60.0))
    await asyncio.sleep(0)
    inbox.wake()
    assert await waiting is None
    waiting = asyncio.create_task(inbox.get(60.0))
    await asyncio.sleep(0)
    inbox.put(SNAPSHOT)
    assert await waiting == SNAPSHOT
