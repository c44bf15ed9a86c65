"""Stories are told with restarts in their middle, and those of a whole gateway twice.

The second time a kernel carries the data.
"""

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.scenarios.restarts")

from tests.protocols.esp.house import House  # noqa: E402
from tests.scenarios import restarts  # noqa: E402
from tests.scenarios.forwardworld import ForwardWorld  # noqa: E402
from tests.scenarios.world import World  # noqa: E402

_WORLDS = ("World", "ForwardWorld", "Arrangement", "House")


@pytest.fixture(autouse=True)
def _restarts() -> Iterator[None]:
    if World.in_kernel:  # what a kernel carries does not survive its daemon
        yield
        return
    with restarts.everywhere():
        yield


@pytest.fixture(scope="module", autouse=True)
def lane(request: pytest.FixtureRequest) -> Iterator[None]:
    for world in (World, ForwardWorld, House):
        world.in_kernel = getattr(request, "param", "") == "kernel"
    yield
    for world in (World, ForwardWorld, House):
        world.in_kernel = False


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if any(name in vars(metafunc.module) for name in _WORLDS):
        lanes = getattr(metafunc.module, "LANES", ("user-space", "kernel"))
        metafunc.parametrize("lane", lanes, indirect=True, scope="module")
