"""The times of nodes by ComfyUI's messages, and those of an engine."""

from workers.comfy.node_times import MOST_NODES, MOST_WATCHED, NodeTimes
from workers.engine_time import EngineTime, Phases
from workflows.messages import Executing, ExecutionCached, ExecutionSuccess, Message

CLASSES = {"1": "Load", "2": "Sample", "3": "Save"}


def noted(*messages: tuple[float, Message]) -> NodeTimes:
    times = NodeTimes()
    for now, message in messages:
        times.note(message, now)
    return times


def executing(node: str | None) -> Executing:
    return Executing("p", node, node)


def test_a_node_runs_until_the_next_one_begins() -> None:
    """Nodes are listed in the order in which they ran, cached ones last, and one that runs twice is summed."""
    times = noted(
        (0.0, ExecutionCached("p", ("1",))),
        (1.0, executing("2")),
        (3.0, executing("3")),
        (4.0, executing("2")),
        (4.5, executing("2.0.1")),
        (5.0, ExecutionSuccess("p")),
        (9.0, executing(None)),
    )
    nodes, left_out = times.slowest(CLASSES.get)
    assert [(node.node_id, node.class_type, node.seconds, node.cached) for node in nodes] == [
        ("2", "Sample", 2.5, False),
        ("3", "Save", 1.0, False),
        ("2.0.1", None, 0.5, False),
        ("1", "Load", 0.0, True),
    ]
    assert left_out == 0


def test_only_the_slowest_nodes_are_kept() -> None:
    """Of many nodes the slowest are kept in their order, and the others are counted."""
    messages = [(float(number**2), executing(str(number))) for number in range(3 * MOST_NODES)]
    nodes, left_out = noted(*messages, (1e6, executing(None))).slowest(CLASSES.get)
    assert [node.node_id for node in nodes] == [str(number) for number in range(2 * MOST_NODES, 3 * MOST_NODES)]
    assert left_out == 2 * MOST_NODES


def test_cached_nodes_that_are_remembered_are_limited() -> None:
    """Messages that name other cached nodes each time add no more than the limit."""
    ids = [str(number) for number in range(2 * MOST_WATCHED)]
    halves = [ExecutionCached("p", tuple(ids[:MOST_WATCHED])), ExecutionCached("p", tuple(ids[MOST_WATCHED:]))]
    nodes, left_out = noted(*((0.0, half) for half in halves)).slowest(CLASSES.get)
    assert len(nodes) + left_out == MOST_WATCHED


def test_an_engine_computes_or_waits() -> None:
    """The time of an engine is either computing or idle, also while a prompt runs."""
    now = [0.0]
    engine = EngineTime(lambda: now[0])
    now[0] = 2.0
    assert engine.begin() == 2.0
    now[0] = 5.0
    assert (engine.computed_s, engine.idle_s) == (3.0, 2.0)
    engine.end()
    now[0] = 6.0
    assert (engine.computed_s, engine.idle_s, engine.begin()) == (3.0, 3.0, 1.0)


def test_phases_follow_each_other() -> None:
    """A phase begins where the one before ended; one that never ended took no time."""
    now = [10.0]
    phases = Phases(lambda: now[0])
    for moment, phase in ((11.0, "staged"), (14.0, "executed"), (14.5, "executed")):
        now[0] = moment
        phases.end(phase)
    assert [phases.seconds(name) for name in ("staged", "executed", "uploaded")] == [1.0, 3.5, 0.0]
