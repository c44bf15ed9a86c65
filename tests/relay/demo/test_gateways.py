"""What the gateways of the demo are told."""

import tomllib
from pathlib import Path

from relay import config
from relay.demo import gateways


def test_the_configuration_is_one_that_vpnmasq_takes(tmp_path: Path) -> None:
    file = tmp_path / "vpnmasq.toml"
    file.write_text(gateways.configuration(tmp_path))
    policy = config.policy(config.load(file))
    assert [rule.name for rule in policy.masquerade] == ["staff"]
    assert [rule.name for rule in policy.expose] == ["office"]


def test_what_is_shown_to_people_is_what_the_gateway_is_told(tmp_path: Path) -> None:
    (vpnmasq,) = [gateway for gateway in gateways.GATEWAYS if gateway.key == "vpnmasq"]
    shown, told = tomllib.loads(vpnmasq.rules), tomllib.loads(gateways.configuration(tmp_path))
    assert {key: told[key] for key in shown} == shown


def test_without_the_helper_all_gre_goes_to_the_one_server() -> None:
    assert "ip protocol gre dnat to 10.0.0.2" in gateways.ruleset(helper=False)
    assert "ct helper" not in gateways.ruleset(helper=False)


def test_with_the_helper_gre_is_left_to_it() -> None:
    assert 'tcp dport 1723 ct helper set "pptp"' in gateways.ruleset(helper=True)
    assert "gre" not in gateways.ruleset(helper=True)
