"""The progress of a download as a stream."""

import pytest

from infra.models.sync import OnProgress, streamed


def test_each_model_is_reported_once_per_interval() -> None:
    """The stream yields the newest step of each model once per interval, and then returns the result."""

    def work(report: OnProgress) -> str:
        for have in range(1000):
            report("a", have, 1000)
        report("b", 1, None)
        return "done"

    said = []

    def stream() -> str:
        steps = streamed(work, interval_s=5)
        while True:
            try:
                said.append(next(steps))
            except StopIteration as end:
                result: str = end.value
                return result

    assert stream() == "done"
    assert said == [{"name": "a", "have": 999, "total": 1000}, {"name": "b", "have": 1, "total": None}]


def test_an_error_of_the_work_is_raised() -> None:
    """An error of the work is raised after the steps that preceded it."""

    def work(report: OnProgress) -> None:
        report("a", 1, 2)
        raise OSError("no room")

    steps = streamed(work)
    assert next(steps)["have"] == 1
    with pytest.raises(OSError, match="no room"):
        next(steps)
