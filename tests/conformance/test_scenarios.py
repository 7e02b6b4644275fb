"""Every recorded scenario, played to each engine and compared with the recording of real ComfyUI."""

import pytest

from tests.conformance.engines import Engine
from tests.conformance.expectations import differences, expected, transcript
from tests.conformance.scenarios import Scenario
from tests.conformance.traffic import Traffic

pytestmark = pytest.mark.anyio


async def test_a_scenario_matches_its_recording(engine: Engine, scenario: Scenario) -> None:
    """Answers, messages and history equal the recording, except for ids, times and orders that ComfyUI leaves open."""
    async with Traffic(engine.url, engine.nodes) as traffic:
        await traffic.until_idle()
        await scenario.play(traffic)
        recording = traffic.recording()
    found = transcript(scenario, recording)
    if difference := differences(expected(scenario, engine.version), found):
        pytest.fail(difference, pytrace=False)
