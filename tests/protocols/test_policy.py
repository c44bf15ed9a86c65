"""What a rule allows."""

import pytest

from protocols.addr import Network, parse_ip
from protocols.policy import Limits, Masquerade, Policy, PptpTimers

RULE = Masquerade(
    "staff",
    clients=(Network.parse("10.0.0.0/24"), Network.parse("10.0.7.7")),
    servers=(Network.parse("199.0.0.1"), Network.parse("199.0.1.0/24")),
)


@pytest.mark.parametrize(
    ("client", "server", "allowed"),
    [
        pytest.param("10.0.0.2", "199.0.0.1", True, id="both-listed"),
        pytest.param("10.0.7.7", "199.0.1.200", True, id="second-entries"),
        pytest.param("10.0.1.2", "199.0.0.1", False, id="other-client"),
        pytest.param("10.0.0.2", "199.0.0.2", False, id="other-server"),
    ],
)
def test_client_and_server_must_both_be_listed(client: str, server: str, allowed: bool) -> None:
    assert RULE.allows(parse_ip(client), parse_ip(server)) is allowed


def test_an_empty_policy_has_no_rules_and_sane_bounds() -> None:
    policy = Policy()
    assert (policy.lan_networks, policy.masquerade, policy.expose) == ((), (), ())
    assert policy.limits == Limits(65536, 64, 200, 100)
    assert policy.pptp == PptpTimers()
    assert policy.pptp.ghost == 240.0  # RFC 7857 §9: four minutes
