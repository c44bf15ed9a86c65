"""Show the logs that matter when a test with real peers fails."""

from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Ask every fixture that has evidence for it, when the test failed."""
    report = yield
    if report.when == "call" and report.failed and isinstance(item, pytest.Function):
        fixtures: dict[str, Any] = item.funcargs
        for fixture in fixtures.values():
            if hasattr(fixture, "evidence"):
                report.sections.extend(fixture.evidence())
    return report
