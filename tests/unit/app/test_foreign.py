"""Bodies in the forms of other APIs, and where problems then point."""

import pytest

from app.problems import Problem
from app.submission.foreign import Form, batch_form, relocated

JOB = {"input": {"workflow": {"1": {"class_type": "EmptyImage"}}, "metadata": {}}}


def pointer_of(form: Form, pointer: str) -> str | None:
    """Return where a problem at this pointer of our form points in the body as it was sent."""
    with pytest.raises(Problem) as raised, relocated(form.moves):
        raise Problem("validation-error", "wrong", pointer=pointer)
    return raised.value.pointer


@pytest.mark.parametrize(
    ("ours", "sent"),
    [
        ("/jobs/1/workflow/1/class_type", "/jobs/1/input/workflow/1/class_type"),
        ("/jobs/1/metadata", "/jobs/1/input/metadata"),
        ("/jobs/0/metadata", "/jobs/0/metadata"),
        ("/jobs/11/metadata", "/jobs/11/metadata"),
        ("/jobs", "/jobs"),
        ("", ""),
    ],
)
def test_a_problem_points_into_the_body_as_it_was_sent(ours: str, sent: str) -> None:
    """A problem of one job of a batch points into that job's own form."""
    assert pointer_of(batch_form({"jobs": [{}, JOB]}, most_jobs=2), ours) == sent


def test_too_many_jobs_are_not_examined() -> None:
    """The jobs of a batch that will be refused for their number are left as they are."""
    document = {"jobs": [JOB] * 3}
    assert batch_form(document, most_jobs=2).document is document


def test_a_bare_graph_is_a_workflow() -> None:
    """A problem in a bare graph points into the graph."""
    form = batch_form({"1": {"class_type": "EmptyImage"}}, most_jobs=2)
    assert pointer_of(form, "/workflow/1/class_type") == "/1/class_type"
    assert pointer_of(form, "/workflow") == ""
