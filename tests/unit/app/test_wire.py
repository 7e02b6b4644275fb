"""What a request body with many faults costs: the faults that are listed have a bound."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.wire.batches import BatchRequest
from app.wire.jobs import JobRequest

MANY = 1_000


@pytest.mark.parametrize(
    ("model", "document"),
    [
        (JobRequest, {"workflow": {}, "inputs": [{}] * MANY}),
        (BatchRequest, {"workflow": {}, "input_sets": [[{}] * MANY] * MANY}),
        (BatchRequest, {"jobs": [{"workflow": {}, "inputs": [{}] * MANY}] * MANY}),
        (BatchRequest, {"jobs": [{}] * MANY}),
    ],
)
def test_a_list_of_faults_ends_with_its_first_bad_item(model: Any, document: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(document)
    assert refused.value.error_count() <= 10
