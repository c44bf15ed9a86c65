"""Every story is told with restarts in its middle."""

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.scenarios.restarts")

from tests.scenarios import restarts  # noqa: E402


@pytest.fixture(autouse=True)
def _restarts() -> Iterator[None]:
    with restarts.everywhere():
        yield
