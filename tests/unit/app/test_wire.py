"""Request bodies as models: how much is said of a wrong one."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from app.api.webhooks import ReplayRequest
from app.submission.named import request_model
from app.submission.request import BatchRequest, JobRequest
from workflows.library import shipped

STILL = shipped()["still"]
MANY = 50_000
MOST_FAULTS = 1_000
NUMBERS = list(range(MANY))
NAMES = {f"name {number}": number for number in NUMBERS}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (JobRequest, {"inputs": NUMBERS}),
        (JobRequest, {"media": NUMBERS}),
        (JobRequest, {"media": [NAMES]}),
        (JobRequest, {"webhook_events": NUMBERS}),
        (JobRequest, {"metadata": NAMES}),
        (JobRequest, {"extra_data": NAMES}),
        (JobRequest, NAMES),
        (BatchRequest, {"jobs": NUMBERS}),
        (BatchRequest, {"jobs": [{"inputs": NUMBERS}, *NUMBERS]}),
        (BatchRequest, {"jobs": [{"workflow": {}, "inputs": [{}] * 1_000}] * 1_000}),
        (BatchRequest, {"input_sets": [[{}] * 1_000] * 1_000}),
        (BatchRequest, {"input_sets": NUMBERS}),
        (BatchRequest, {"input_sets": [NUMBERS, NUMBERS]}),
        (ReplayRequest, {"event_ids": NUMBERS}),
        (request_model(STILL), {"inputs": NAMES}),
        (request_model(STILL), {"inputs": {"width": NAMES}}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(next(iter(value)))[:40],
)
def test_few_faults_of_many_are_described(model: type[BaseModel], body: dict[str, Any]) -> None:
    """Describing 90,000 of them held the whole process for more than a second."""
    with pytest.raises(ValidationError) as refused:
        model.model_validate({"workflow": {}} | body)
    assert refused.value.error_count() <= MOST_FAULTS
