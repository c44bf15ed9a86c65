"""Which configuration file is read."""

from pathlib import Path

import pytest

from relay import options
from relay.options import find_config


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    default = tmp_path / "etc" / "vpnmasq.toml"
    monkeypatch.setattr(options, "DEFAULT_CONFIG", default)
    return default


RULES = [
    pytest.param({"VPNMASQ_MASQUERADE": "10.0.0.0/24 -> 199.0.0.1 pptp"}, id="masquerade"),
    pytest.param({"VPNMASQ_EXPOSE": "10.0.0.2 pptp allow 199.0.0.2"}, id="expose"),
    pytest.param({"VPNMASQ_EXPOSE_FILE": "/run/secrets/rules"}, id="from-a-file"),
]


@pytest.mark.parametrize("environ", RULES)
def test_rules_in_the_environment_need_no_file(environ: dict[str, str]) -> None:
    assert find_config(None, environ) is None


def test_a_file_that_is_there_is_read_whatever_the_environment_has(nothing_installed: Path) -> None:
    nothing_installed.parent.mkdir()
    nothing_installed.write_text("")
    assert find_config(None, {"VPNMASQ_EXPOSE": "…"}) == nothing_installed


@pytest.mark.parametrize("environ", [{}, {"VPNMASQ_EXPOSE": ""}, {"VPNMASQ_WAN__INTERFACE": "eth1"}])
def test_neither_file_nor_rules_is_an_error_with_advice(environ: dict[str, str]) -> None:
    with pytest.raises(FileNotFoundError, match="name one with -c FILE"):
        find_config(None, environ)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.toml: no such"):
        find_config(tmp_path / "nope.toml", {"VPNMASQ_EXPOSE": "…"})
