"""One engine of each kind per test process. Real ComfyUI takes part if the environment names one."""

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from tests.conformance import engines
from tests.conformance.engines import Engine, RealComfy
from tests.conformance.scenarios import all_scenarios


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run scenarios that need test nodes on real ComfyUI only if it has them."""
    if "engine" not in metafunc.fixturenames:
        return
    place = RealComfy.configured(os.environ)
    kinds = ["lite", *(["real"] if place else [])]
    if "scenario" not in metafunc.fixturenames:
        metafunc.parametrize("engine", kinds, indirect=True)
        return
    own_nodes_too = place is not None and place.has_own_nodes()
    cases = [
        pytest.param(kind, scenario, id=f"{kind}-{scenario.name}")
        for kind in kinds
        for scenario in all_scenarios().values()
        if kind == "lite" or own_nodes_too or not scenario.own_nodes
    ]
    metafunc.parametrize(("engine", "scenario"), cases, indirect=["engine"])


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Engine]]:
    """Return a function that starts an engine of a kind on its first use."""
    started: dict[str, Engine] = {}
    with contextlib.ExitStack() as stack:

        def start(kind: str) -> Engine:
            if kind not in started:
                started[kind] = stack.enter_context(_open(kind, tmp_path_factory))
            return started[kind]

        yield start


def _open(kind: str, paths: pytest.TempPathFactory) -> contextlib.AbstractContextManager[Engine]:
    if kind == "lite":
        return engines.lite(paths.mktemp("lite"))
    place = RealComfy.configured(os.environ)
    assert place is not None
    return engines.real(place, paths.mktemp("comfyui"))


@pytest.fixture
def engine(request: pytest.FixtureRequest, engine_of: Callable[[str], Engine]) -> Engine:
    return engine_of(request.param)
