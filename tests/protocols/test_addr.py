import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.addr import Network, contains, is_martian, parse_ip, show_ip

addresses = st.integers(0, 0xFFFFFFFF)

NOT_ADDRESSES = [
    "",
    "10.0.0",
    "10.0.0.0.1",
    "10.0.0.256",
    "10.0.0.-1",
    "10.0.0.0001",
    "10.0.0. 1",
    "10.0.0.²",
    "a.b.c.d",
]


def test_text_becomes_an_integer_in_host_order() -> None:
    assert parse_ip("200.200.200.200") == 0xC8C8C8C8
    assert parse_ip("10.0.0.2") == 0x0A000002


@pytest.mark.parametrize("text", NOT_ADDRESSES)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an IPv4 address"):
        parse_ip(text)


@given(addresses)
def test_addresses_read_back_as_they_are_written(address: int) -> None:
    assert parse_ip(show_ip(address)) == address
    assert show_ip(address) == str(ipaddress.IPv4Address(address))


NETWORKS = [
    pytest.param("10.0.0.0/8", Network(0x0A000000, 0xFF000000), "10.0.0.0/8", id="prefix"),
    pytest.param("199.0.0.1", Network(0xC7000001, 0xFFFFFFFF), "199.0.0.1/32", id="host"),
    pytest.param("199.0.0.1/32", Network(0xC7000001, 0xFFFFFFFF), "199.0.0.1/32", id="host-with-length"),
    pytest.param("any", Network(0, 0), "any", id="any"),
    pytest.param("0.0.0.0/0", Network(0, 0), "any", id="any-in-digits"),
]


@pytest.mark.parametrize(("text", "network", "shown"), NETWORKS)
def test_networks_are_read_and_shown(text: str, network: Network, shown: str) -> None:
    assert Network.parse(text) == network
    assert str(network) == shown
    assert network.is_any is (shown == "any")


NOT_NETWORKS = [
    pytest.param("10.0.0.0/33", "from 0 to 32", id="too-long"),
    pytest.param("10.0.0.0/", "from 0 to 32", id="no-length"),
    pytest.param("10.0.0.0/x", "from 0 to 32", id="no-number"),
    pytest.param("10.0.0.0/²", "from 0 to 32", id="not-a-digit"),
    pytest.param("10.0.0.1/8", r"did you mean 10\.0\.0\.0/8\?", id="host-bits"),
    pytest.param("10.0.0/8", "is not an IPv4 address", id="no-address"),
]


@pytest.mark.parametrize(("text", "complaint"), NOT_NETWORKS)
def test_what_is_no_network_is_refused_with_advice(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Network.parse(text)


@given(addresses, addresses, st.integers(0, 32))
def test_a_network_holds_what_the_standard_library_says(address: int, other: int, length: int) -> None:
    theirs = ipaddress.IPv4Network((address, length), strict=False)
    ours = Network(int(theirs.network_address), int(theirs.netmask))
    assert (other in ours) is (ipaddress.IPv4Address(other) in theirs)
    assert address in ours
    assert Network.parse(str(ours)) == ours


def test_several_networks_hold_what_one_of_them_holds() -> None:
    networks = (Network.parse("10.0.0.0/8"), Network.parse("192.0.2.0/24"))
    assert contains(networks, parse_ip("192.0.2.7"))
    assert not contains(networks, parse_ip("198.51.100.1"))
    assert not contains((), parse_ip("192.0.2.7"))


@pytest.mark.parametrize(
    ("text", "martian"),
    [
        ("0.0.0.0", True),
        ("0.255.255.255", True),
        ("1.0.0.0", False),
        ("10.0.0.2", False),
        ("126.255.255.255", False),
        ("127.0.0.1", True),
        ("128.0.0.0", False),
        ("200.200.200.200", False),
        ("223.255.255.255", False),
        ("224.0.0.1", True),
        ("240.0.0.1", True),
        ("255.255.255.255", True),
    ],
)
def test_martians_can_never_be_hosts(text: str, *, martian: bool) -> None:
    assert is_martian(parse_ip(text)) is martian
