"""Names and numbers of what we put into the kernel."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.addr import Network, parse_ip
from relay.rules.interception import (
    GRE,
    TCP,
    Interception,
    Traffic,
    ipsec_traffic,
    is_ours,
    pptp_traffic,
    table_name,
    table_number,
)

SERVER = parse_ip("10.0.0.2")


def test_clients_need_gre_and_the_control_port() -> None:
    assert pptp_traffic(clients=True, servers=()) == (Traffic(GRE), Traffic(TCP, destination_port=1723))


def test_a_server_alone_needs_only_what_it_answers() -> None:
    host = Network.parse("10.0.0.2")
    assert pptp_traffic(clients=False, servers=[SERVER]) == (
        Traffic(GRE, source=host),
        Traffic(TCP, source=host, source_port=1723),
    )


def test_servers_may_be_given_as_an_iterator() -> None:
    assert pptp_traffic(clients=False, servers=iter([SERVER])) == pptp_traffic(
        clients=False, servers=[SERVER]
    )


def test_clients_cover_the_servers_gre() -> None:
    assert [t.protocol for t in pptp_traffic(clients=True, servers=[SERVER])] == [GRE, TCP, TCP]


def test_the_table_follows_from_the_name_and_never_changes() -> None:
    wanted = Interception("vpnmasq", ("eth0",), (), ())
    assert wanted.table == table_number("vpnmasq") == 1992104916


@given(st.text())
def test_every_table_is_in_our_range(name: str) -> None:
    assert is_ours(table_number(name))
    assert 0x76000000 <= table_number(name) <= 0x76FFFFFF


@pytest.mark.parametrize("table", [0, 118, 253, 254, 255, 0x75FFFFFF, 0x77000000])
def test_other_tables_are_not_ours(table: int) -> None:
    assert not is_ours(table)


@pytest.mark.parametrize(
    ("instance", "table"),
    [
        pytest.param("vpnmasq", "vpnmasq", id="the-usual"),
        pytest.param("office", "vpnmasq-office", id="named"),
        pytest.param("a.b_c-1", "vpnmasq-a.b_c-1", id="all-that-nft-takes"),
        pytest.param("a b", "vpnmasq-a_b-806c5cd3", id="replaced"),
    ],
)
def test_the_nftables_table_is_named_after_the_instance(instance: str, table: str) -> None:
    assert table_name(instance) == table


@given(st.text(), st.text())
def test_different_instances_have_different_nftables_tables(one: str, other: str) -> None:
    assert (table_name(one) == table_name(other)) == (one == other)


def test_ipsec_of_clients_is_esp_and_its_ports_either_way() -> None:
    found = ipsec_traffic(clients=True, servers=[SERVER])
    assert [(t.protocol, t.source_port, t.destination_port) for t in found] == [
        (50, None, None),
        (51, None, None),
        (94, None, None),
        (17, None, 500),
        (17, None, 4500),
        (17, 500, None),
        (17, 4500, None),
    ]
    assert all(t.source is None for t in found)


def test_ipsec_of_exposed_servers_alone_is_theirs_only() -> None:
    found = ipsec_traffic(clients=False, servers=iter([SERVER]))
    assert len(found) == 7
    assert {t.source for t in found} == {Network(SERVER, 0xFFFFFFFF)}
    assert ipsec_traffic(clients=False, servers=()) == ()
