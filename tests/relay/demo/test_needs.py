"""What the demo says when the machine lacks something."""

from pathlib import Path

import pytest

from relay.demo import needs


def test_missing_programs_are_named_with_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert needs.lacking_programs() == "the program ip is missing; on Debian and Ubuntu: apt install iproute2"


CAPABILITIES = [
    pytest.param((1 << 41) - 1, (), id="root"),
    pytest.param(1 << 21 | 1 << 12 | 1 << 13, (), id="just-enough"),
    pytest.param(0, ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW"), id="nobody"),
    pytest.param(1 << 12 | 1 << 13, ("CAP_SYS_ADMIN",), id="a-usual-container"),
]


@pytest.mark.parametrize(("effective", "missing"), CAPABILITIES)
def test_missing_capabilities_are_named(effective: int, missing: tuple[str, ...]) -> None:
    text = needs.lacking_privileges(effective)
    assert bool(text) is bool(missing)
    for name in ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW"):
        assert (name in text) is (name in missing)
    assert ("sudo vpnmasq demo" in text) is bool(missing)
