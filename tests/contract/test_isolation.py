"""The choice of an engine's isolation, and its description."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.confine import landlock_abi
from workers.errors import EngineMisconfigured
from workers.isolation import EngineUser, Isolation, IsolationPolicy, Needs, choose

pytestmark = pytest.mark.anyio


@pytest.fixture
def user() -> Iterator[EngineUser]:
    user = EngineUser(64_001)
    yield user
    user.release()


async def test_off_means_no_isolation(user: EngineUser) -> None:
    """With the setting `off` no isolation is in force, and the description names the setting."""
    chosen = await choose(IsolationPolicy("off"), user, Needs())
    assert not chosen.is_in_force
    assert str(chosen) == "none (COMFYUI_MODAL_ISOLATION=off)"


async def test_required_isolation_is_in_force_or_no_engine_starts(user: EngineUser) -> None:
    """With the setting `required`, an engine is isolated or does not start, with an error that names the setting."""
    if landlock_abi():
        assert (await choose(IsolationPolicy("required"), user, Needs())).is_in_force
        return
    with pytest.raises(EngineMisconfigured, match="COMFYUI_MODAL_ISOLATION=required"):
        await choose(IsolationPolicy("required"), user, Needs(enter=[Path("/nowhere")]))


def test_isolation_is_described_in_a_line() -> None:
    """The isolation in force is one line for the log, `doctor` and GET /v1/system."""
    assert str(Isolation(64_002, [], 7)) == "user 64002 + Landlock ABI 7"
    assert str(Isolation(64_002, reason="this kernel has no Landlock")) == "user 64002 (this kernel has no Landlock)"


def test_no_two_engines_share_a_user() -> None:
    """Each engine takes a user id that no other worker of this machine holds."""
    first, second = EngineUser(64_001), EngineUser(64_001)
    try:
        numbers = (first.take(), second.take())
    except PermissionError:
        pytest.skip("only root gives engines users")
    assert numbers[0] != numbers[1]
    first.release()
    second.release()
