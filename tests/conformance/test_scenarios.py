"""Every recorded scenario, played to each engine, against what real ComfyUI was recorded to say."""

import pytest

from tests.conformance.engines import Engine
from tests.conformance.expectations import differences, expected, transcript
from tests.conformance.scenarios import Scenario
from tests.conformance.traffic import Traffic

pytestmark = pytest.mark.anyio


async def test_says_what_was_recorded(engine: Engine, scenario: Scenario) -> None:
    """Answers, messages and history are the recording's, but for ids, times and what ComfyUI leaves open."""
    async with Traffic(engine.url, engine.nodes) as traffic:
        await traffic.until_idle()
        await scenario.play(traffic)
        recording = traffic.recording()
    found = transcript(scenario, recording)
    if difference := differences(expected(scenario, engine.version), found):
        pytest.fail(difference, pytrace=False)
