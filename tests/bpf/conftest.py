"""The program is loaded once for each module; every test begins without a flow."""

import functools
from collections.abc import Iterator

import pytest

from tests.bpf.kernel import Program, built, loaded

pytest.register_assert_rewrite("tests.bpf.wires")

_reason = functools.cache(built)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/bpf" in str(item.path):
            item.add_marker(pytest.mark.bpf)
            if _reason():
                item.add_marker(pytest.mark.skip(reason=_reason()))


@pytest.fixture(scope="module")
def _loaded() -> Iterator[Program]:
    with loaded() as program:
        yield program


@pytest.fixture
def program(_loaded: Program) -> Program:
    _loaded.forget()
    return _loaded
