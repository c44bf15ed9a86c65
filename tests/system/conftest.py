"""The home network, once for each module; a test starts the daemons it needs."""

from collections.abc import Iterator

import pytest

from tests.netns import requires_netns
from tests.system.home import Daemon, Home, home


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = requires_netns()
    for item in items:
        if "tests/system" in str(item.path):
            item.add_marker(pytest.mark.netns)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with home(tmp_path_factory.mktemp("home")) as built:
        yield built


@pytest.fixture
def daemon(house: Home) -> Iterator[Daemon]:
    running = house.run()
    yield running
    assert running.stop() == 0, running.log()


@pytest.fixture
def nothing_stays(house: Home) -> Iterator[None]:
    """Whatever a test does, the kernel is afterwards as it was."""
    before = house.kernel()
    yield
    for daemon in house.daemons:
        if daemon.process.poll() is None:
            assert daemon.stop() == 0, daemon.log()
        assert "Traceback" not in daemon.log()
    house.daemons.clear()
    after = house.kernel()
    for what, was in before.items():
        assert after[what] == was, what
