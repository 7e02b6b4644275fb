"""What the lite engine keeps of prompts that have ended."""

from workers.lite.prompts import MAX_HISTORY_BYTES, Prompts, QueuedPrompt, Record


def ended(prompt_id: str, text: str = "", *, output: object = "") -> Record:
    graph = {"1": {"class_type": "PrimitiveString", "inputs": {"value": text}}}
    return Record(QueuedPrompt(0, prompt_id, graph, {}, ("1",)), outputs={"1": {"text": [output]}})


def test_the_history_is_bounded_by_bytes() -> None:
    """The oldest entries are removed, and the newest is kept however large it is."""
    prompts = Prompts(lambda: None)
    third = "x" * (MAX_HISTORY_BYTES // 3)
    for prompt_id in ("a", "b", "c"):
        prompts.finish(ended(prompt_id, third))
    assert list(prompts.history()) == ["b", "c"]
    prompts.finish(ended("large", output=4 * third))
    assert list(prompts.history()) == ["large"]
    prompts.finish(ended("small"))
    assert list(prompts.history()) == ["small"]


def test_a_removed_entry_takes_no_room_in_the_history() -> None:
    """Entries that a client removes, or that an equal id replaces, do not count."""
    prompts = Prompts(lambda: None)
    third = "x" * (MAX_HISTORY_BYTES // 3)
    prompts.finish(ended("small"))
    for _ in range(3):
        prompts.finish(ended("removed", third))
        prompts.forget(frozenset({"removed"}))
        prompts.finish(ended("again", third))
    assert list(prompts.history()) == ["small", "again"]


def test_an_entry_that_json_cannot_hold_is_replaced_by_the_next() -> None:
    """The executor does not end because of what a node's code returns."""
    prompts = Prompts(lambda: None)
    prompts.finish(ended("odd", output=object()))
    prompts.finish(ended("next"))
    assert list(prompts.history()) == ["next"]
