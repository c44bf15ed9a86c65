"""Who may talk to whom, decided by side and rule."""

import pytest

from protocols.actions import Side
from protocols.addr import UNSPECIFIED, Ip4, Network, parse_ip
from protocols.admission import Addresses, Admission, Route
from protocols.drops import Reason
from protocols.policy import Expose, Masquerade, Policy, Source
from protocols.sessions import Role

WAN, LAN, LAN_2 = parse_ip("200.200.200.200"), parse_ip("10.0.0.1"), parse_ip("10.0.0.254")
CLIENT, SERVER, SERVER_2 = parse_ip("10.0.0.2"), parse_ip("10.0.0.9"), parse_ip("10.0.0.10")
PEER, PEER_2, STRANGER = parse_ip("199.0.0.1"), parse_ip("199.0.0.2"), parse_ip("199.0.0.66")


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(Network.parse(text) for text in texts)


POLICY = Policy(
    lan_networks=networks("10.0.0.0/8"),
    masquerade=(
        Masquerade("ipsec only", networks("any"), networks("any"), pptp=False, ipsec=True),
        Masquerade("staff", networks("10.0.0.0/24"), networks("199.0.0.0/24")),
        Masquerade("relay", networks("10.0.0.0/16"), networks("199.0.0.2"), listen=LAN_2),
        Masquerade("guests", networks("10.0.5.0/24"), networks("any")),
    ),
    expose=(
        Expose("ipsec office", SERVER, networks("any"), pptp=False, ipsec=True),
        Expose("office", SERVER, networks("199.0.0.1", "10.0.0.0/8")),
        Expose("branch", SERVER_2, networks("199.0.0.0/26"), source=Source.GATEWAY),
    ),
)


BROADCASTS = frozenset({parse_ip("10.255.255.255"), parse_ip("200.200.200.255")})


def admission(wan: Ip4 | None = WAN) -> Admission:
    return Admission(POLICY, Addresses(wan, frozenset({WAN, LAN, LAN_2}), BROADCASTS))


ROUTES = [
    pytest.param(
        Side.LAN, PEER, CLIENT,
        Route("staff", Role.MASQUERADE, Side.WAN, PEER, WAN, CLIENT, PEER),
        id="client-to-peer",
    ),
    pytest.param(
        Side.LAN, LAN_2, CLIENT,
        Route("relay", Role.MASQUERADE, Side.WAN, PEER_2, WAN, CLIENT, PEER_2),
        id="client-to-our-own-address-that-stands-for-a-peer",
    ),
    pytest.param(
        Side.LAN, WAN, CLIENT,
        Route("office", Role.EXPOSE, Side.LAN, SERVER, WAN, SERVER, CLIENT),
        id="client-to-a-neighbour-by-the-public-address",
    ),
    pytest.param(
        Side.WAN, WAN, PEER,
        Route("office", Role.EXPOSE, Side.LAN, SERVER, PEER, SERVER, PEER, transparent=True),
        id="peer-to-a-server-that-sees-it",
    ),
    pytest.param(
        Side.WAN, WAN, PEER_2,
        Route("branch", Role.EXPOSE, Side.LAN, SERVER_2, UNSPECIFIED, SERVER_2, PEER_2),
        id="peer-to-the-next-server-that-sees-us",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("side", "local", "remote", "route"), ROUTES)
def test_a_rule_admits(side: Side, local: Ip4, remote: Ip4, route: Route) -> None:
    assert admission().admit(side, local, remote) == route


REFUSALS = [
    pytest.param(Side.LAN, STRANGER, parse_ip("10.9.9.9"), Reason.NO_RULE, id="client-not-listed"),
    pytest.param(Side.LAN, parse_ip("198.51.100.1"), CLIENT, Reason.NO_RULE, id="server-not-listed"),
    pytest.param(Side.LAN, LAN, CLIENT, Reason.NO_RULE, id="our-own-address-without-a-rule"),
    pytest.param(Side.LAN, LAN_2, parse_ip("10.9.9.9"), Reason.NO_RULE, id="relay-for-others"),
    pytest.param(
        Side.LAN, parse_ip("10.0.0.77"), parse_ip("10.0.5.1"), Reason.NO_RULE, id="any-is-not-the-lan"
    ),
    pytest.param(
        Side.LAN, parse_ip("127.0.0.1"), parse_ip("10.0.5.1"), Reason.NO_RULE, id="any-is-not-loopback"
    ),
    pytest.param(Side.LAN, LAN, parse_ip("10.0.5.1"), Reason.NO_RULE, id="any-is-not-ourselves"),
    pytest.param(
        Side.LAN, parse_ip("200.200.200.255"), parse_ip("10.0.5.1"), Reason.NO_RULE, id="any-is-not-all-hosts"
    ),
    pytest.param(Side.WAN, WAN, STRANGER, Reason.NO_RULE, id="peer-not-listed"),
    pytest.param(Side.WAN, LAN, PEER, Reason.NO_RULE, id="peer-to-our-inner-address"),
    pytest.param(Side.LAN, PEER, STRANGER, Reason.SPOOFED, id="foreign-source-on-the-lan"),
    pytest.param(Side.WAN, WAN, CLIENT, Reason.SPOOFED, id="lan-source-on-the-wan"),
    pytest.param(Side.WAN, WAN, WAN, Reason.OWN_ADDRESS, id="our-own-source-on-the-wan"),
    pytest.param(Side.LAN, PEER, LAN, Reason.OWN_ADDRESS, id="our-own-source-on-the-lan"),
    pytest.param(Side.WAN, WAN, parse_ip("127.0.0.1"), Reason.MARTIAN, id="loopback"),
    pytest.param(Side.WAN, WAN, parse_ip("0.0.0.7"), Reason.MARTIAN, id="this-network"),
    pytest.param(Side.LAN, PEER, parse_ip("224.0.0.5"), Reason.MARTIAN, id="multicast"),
    pytest.param(Side.LAN, PEER, parse_ip("255.255.255.255"), Reason.MARTIAN, id="broadcast"),
    pytest.param(Side.LAN, PEER, parse_ip("10.255.255.255"), Reason.MARTIAN, id="all-hosts-of-the-lan"),
    pytest.param(Side.WAN, WAN, parse_ip("200.200.200.255"), Reason.MARTIAN, id="all-hosts-of-the-wan"),
]


@pytest.mark.parametrize(("side", "local", "remote", "reason"), REFUSALS)
def test_everything_else_is_refused(side: Side, local: Ip4, remote: Ip4, reason: Reason) -> None:
    assert admission().admit(side, local, remote) is reason


@pytest.mark.parametrize(("side", "local", "remote", "route"), ROUTES)
def test_nobody_is_admitted_while_the_link_is_down(side: Side, local: Ip4, remote: Ip4, route: Route) -> None:
    assert admission(None).admit(side, local, remote) is Reason.NO_ADDRESS


def test_a_server_does_not_reach_itself_by_the_public_address() -> None:
    assert admission().admit(Side.LAN, WAN, SERVER) is Reason.NO_RULE
