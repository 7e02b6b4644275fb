"""Request models: how many errors of an invalid body are described."""

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
def test_a_bounded_number_of_errors_is_described(model: type[BaseModel], body: dict[str, Any]) -> None:
    """A body with tens of thousands of errors gets a bounded number of descriptions, which take a bounded time."""
    with pytest.raises(ValidationError) as refused:
        model.model_validate({"workflow": {}} | body)
    assert refused.value.error_count() <= MOST_FAULTS
