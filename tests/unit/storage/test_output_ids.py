"""The ids of outputs say where an output is, and are written in one way."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import keys
from storage.jobs.output_ids import OutputId
from tests.support.records import OUTPUT, a_job


@given(job_id=st.uuids(), attempt=st.integers(1, 10_000), position=st.integers(0, 100_000))
def test_an_id_is_that_of_the_key(job_id: uuid.UUID, attempt: int, position: int) -> None:
    """The id of an output is read from its key, and parses to itself."""
    key = keys.output("default", str(job_id), attempt, position, "a.1.0.png")
    found = OutputId.of(str(job_id), OUTPUT.model_copy(update={"key": key}))
    assert found == OutputId(str(job_id), attempt, position)
    assert OutputId.parse(str(found)) == found


JOB_ID = "0b9c9f3e-6a57-4b0a-9e43-2f5d1c7c8a10"


@pytest.mark.parametrize(
    "text", ["", JOB_ID, f"{JOB_ID}.1", f"{JOB_ID}.0.0", f"{JOB_ID}.01.0", f"{JOB_ID}.1.00", f"{JOB_ID}.1.0\n", "x.1.0"]
)
def test_other_text_is_no_id(text: str) -> None:
    """Text that is no id, or is one written otherwise, is refused."""
    with pytest.raises(ValueError, match="not the id of an output"):
        OutputId.parse(text)


def test_an_output_is_found_in_its_own_attempt() -> None:
    """An id finds the output of its attempt and position, whatever the order of the outputs is."""
    outputs = tuple(
        OUTPUT.model_copy(update={"key": keys.output("default", JOB_ID, 2, position, "a.png")}) for position in (3, 0)
    )
    record = a_job(job_id=JOB_ID, outputs=outputs)
    assert OutputId(JOB_ID, 2, 0).find(record) == outputs[1]
    assert OutputId(JOB_ID, 1, 0).find(record) is None
    assert OutputId(JOB_ID, 2, 1).find(record) is None
