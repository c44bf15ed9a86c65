"""Policy routing in a real kernel: what is installed, what is left alone, what reaches us."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from protocols.addr import Network, parse_ip
from relay.kernel import KernelError
from relay.rules import routing
from relay.rules.interception import GRE, Interception, Traffic, pptp_traffic
from relay.rules.routing import Changes
from tests.netns import Namespace, network, requires_netns

pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(requires_netns()), reason=requires_netns())]

LAN = Network.parse("10.0.0.0/8")
SERVER = parse_ip("10.0.0.2")
WANTED = Interception("vpnmasq", ("eth0",), (LAN,), pptp_traffic(clients=True, servers=[SERVER]))
TABLE = WANTED.table

RULES = {
    f"118:\tfrom all iif eth0 ipproto gre lookup {TABLE} proto 118",
    f"118:\tfrom all iif eth0 ipproto tcp dport 1723 lookup {TABLE} proto 118",
    f"118:\tfrom 10.0.0.2 iif eth0 ipproto tcp sport 1723 lookup {TABLE} proto 118",
    f"118:\tfrom all fwmark 0x76706e01 iif eth0 lookup {TABLE} proto 118",
}
ROUTES = {"local default dev lo proto 118 scope host", "throw 10.0.0.0/8 proto 118"}


@pytest.fixture
def box() -> Iterator[Namespace]:
    """A namespace with this thread in it."""
    with network() as net:
        box = net.namespace("box")
        with box.entered():
            yield box


def lines(text: str) -> list[str]:
    # "detached": there is no interface of that name now, which is no matter of ours.
    return [line.strip().replace(" [detached]", "") for line in text.splitlines()]


def ours(box: Namespace) -> list[str]:
    return [line for line in lines(box.sh("ip rule")) if "proto 118" in line]


def everything(box: Namespace) -> str:
    return box.sh("ip rule") + box.sh("ip route show table all")


def test_rules_and_routes_are_installed_and_removed_without_a_trace(box: Namespace) -> None:
    before = everything(box)
    assert routing.install(WANTED) == Changes(added=6)
    assert set(ours(box)) == RULES
    assert set(lines(box.sh(f"ip route show table {TABLE}"))) == ROUTES
    assert routing.remove("vpnmasq") == Changes(removed=6)
    assert everything(box) == before


def test_installing_again_changes_nothing(box: Namespace) -> None:
    routing.install(WANTED)
    before = everything(box)
    assert not routing.install(WANTED)
    assert everything(box) == before


def test_removing_what_was_never_there_is_no_error(box: Namespace) -> None:
    assert not routing.remove("vpnmasq")


def test_nothing_to_intercept_installs_nothing(box: Namespace) -> None:
    assert not routing.install(replace(WANTED, traffic=()))
    assert ours(box) == []


def test_leftovers_of_a_crash_are_adopted_and_put_right(box: Namespace) -> None:
    routing.install(
        replace(WANTED, interfaces=("eth0", "eth9"), exempt=(LAN, Network.parse("172.16.0.0/12")))
    )
    box.sh(f"ip rule del iif eth0 ipproto gre lookup {TABLE}")
    assert routing.install(WANTED) == Changes(added=1, removed=5)
    assert set(ours(box)) == RULES
    assert len(ours(box)) == 4
    assert set(lines(box.sh(f"ip route show table {TABLE}"))) == ROUTES


def test_a_rule_of_ours_that_somebody_narrowed_is_replaced(box: Namespace) -> None:
    routing.install(WANTED)
    box.sh(f"ip rule add priority 118 iif eth0 tos 0x10 ipproto gre lookup {TABLE} proto 118")
    box.sh(f"ip rule add priority 117 not iif eth0 lookup {TABLE} proto 118")
    assert routing.install(WANTED).removed >= 2
    assert set(ours(box)) == RULES


def test_what_one_rule_says_no_other_need_say_more_narrowly(box: Namespace) -> None:
    server = Network(SERVER, 0xFFFFFFFF)
    narrow = Traffic(GRE, source=server, destination=LAN)
    widest = f"118:\tfrom 10.0.0.2 iif eth0 ipproto gre lookup {TABLE} proto 118"
    for traffic in ((narrow, Traffic(GRE, source=server)), (narrow,), (Traffic(GRE, source=server), narrow)):
        routing.install(replace(WANTED, traffic=traffic))
        assert len(ours(box)) == 2
        assert (widest in ours(box)) == (len(traffic) > 1)


RELOADS = [
    pytest.param({"traffic": pptp_traffic(clients=False, servers=[SERVER])}, id="to-a-narrower-rule"),
    pytest.param({"interfaces": ("eth0", "eth2")}, id="one-interface-more"),
    pytest.param({"interfaces": ("eth2",)}, id="another-interface"),
    pytest.param({"exempt": ()}, id="no-exempt-network"),
    pytest.param({"mark": 0x10}, id="another-mark"),
    pytest.param({"priority": 200}, id="another-priority"),
    pytest.param({"traffic": ()}, id="nothing"),
]


@pytest.mark.parametrize("change", RELOADS)
def test_a_reload_ends_where_a_fresh_start_does_and_so_does_the_way_back(
    box: Namespace, change: dict[str, object]
) -> None:
    other = replace(WANTED, **change)  # type: ignore[arg-type]
    routing.install(other)
    fresh = set(lines(everything(box)))
    routing.remove("vpnmasq")
    routing.install(WANTED)
    assert routing.install(other)
    assert set(lines(everything(box))) == fresh
    assert routing.install(WANTED)
    assert set(ours(box)) == RULES


def test_rules_of_the_user_stay_also_at_our_priority(box: Namespace) -> None:
    box.sh("ip rule add priority 118 iif eth0 ipproto gre lookup 77")
    box.sh("ip rule add priority 118 iif eth0 ipproto tcp dport 1723 lookup main")
    box.sh("ip rule add priority 90 from 10.0.0.9 lookup 77 proto 118")
    box.sh("ip route add unreachable default table 77 proto 118")
    before = everything(box)
    routing.install(WANTED)
    routing.install(replace(WANTED, interfaces=("eth3",)))
    routing.remove("vpnmasq")
    assert everything(box) == before


TAKEN = [
    pytest.param(f"ip route add unreachable 192.0.2.0/24 table {TABLE}", "routes", id="routes"),
    pytest.param(f"ip rule add from 192.0.2.1 lookup {TABLE}", "ip rule", id="rule"),
]


@pytest.mark.parametrize(("command", "why"), TAKEN)
def test_a_table_that_others_use_is_refused_with_the_key_to_change(
    box: Namespace, command: str, why: str
) -> None:
    box.sh(command)
    before = everything(box)
    with pytest.raises(KernelError) as caught:
        routing.install(WANTED)
    assert str(TABLE) in caught.value.what
    assert why in caught.value.what
    assert "`name`" in caught.value.remedy
    routing.remove("vpnmasq")
    assert everything(box) == before


def test_another_instance_on_the_same_interface_is_named(box: Namespace) -> None:
    routing.install(WANTED)
    second = replace(WANTED, instance="second")
    with pytest.raises(KernelError, match=f"table {TABLE}.* eth0; stop it") as caught:
        routing.install(second)
    assert f"ip rule flush table {TABLE}" in caught.value.remedy
    assert set(ours(box)) == RULES


def test_instances_on_different_interfaces_do_not_meet(box: Namespace) -> None:
    routing.install(WANTED)
    assert routing.install(replace(WANTED, instance="second", interfaces=("eth2",)))
    assert routing.remove("second")
    assert set(ours(box)) == RULES


# -- packets -------------------------------------------------------------------------------------------


_IP_TRANSPARENT = 19
GRE_PAYLOAD = struct.pack("!HHHHI", 0x3001, 0x880B, 0, 5, 0)


@contextlib.contextmanager
def row() -> Iterator[tuple[Namespace, Namespace, Namespace]]:
    """Client, router and peer in a row; the router forwards, with strict source validation."""
    with network() as net:
        client, router, peer = (net.namespace(label) for label in ("client", "router", "peer"))
        net.link(client, "eth0", router, "eth0")
        net.link(router, "eth1", peer, "eth0")
        client.address("eth0", "10.0.0.2/8")
        router.address("eth0", "10.0.0.1/8")
        router.address("eth1", "200.200.200.200/24")
        peer.address("eth0", "200.200.200.1/24", "199.0.0.1/32")
        client.sh("ip route add default via 10.0.0.1")
        router.sh("ip route add default via 200.200.200.1")
        peer.sh("ip route add 10.0.0.0/8 via 200.200.200.200")
        router.sysctl("net.ipv4.ip_forward", 1)
        router.sysctl("net.ipv4.conf.all.rp_filter", 1)
        yield client, router, peer


def raw(namespace: Namespace, protocol: int) -> socket.socket:
    with namespace.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
    sock.settimeout(5)
    return sock


def test_transit_packets_reach_us_and_the_lans_own_pass_by() -> None:
    with (
        row() as (client, router, peer),
        raw(client, 47) as sender,
        raw(router, 47) as ours,
        raw(peer, 47) as theirs,
    ):
        with router.entered():
            routing.install(replace(WANTED, exempt=(LAN, Network.parse("200.200.200.0/24"))))
        sender.sendto(GRE_PAYLOAD + b"transit", ("199.0.0.1", 0))
        assert ours.recv(100)[20:] == GRE_PAYLOAD + b"transit"
        sender.sendto(GRE_PAYLOAD + b"exempt", ("200.200.200.1", 0))
        assert theirs.recv(100)[20:] == GRE_PAYLOAD + b"exempt"


def test_a_connection_to_a_peer_is_accepted_in_its_name() -> None:
    with row() as (client, router, _):
        with router.entered():
            routing.install(WANTED)
            listening = socket.socket()
        with listening:
            listening.settimeout(5)
            listening.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
            listening.bind(("0.0.0.0", 1723))
            listening.listen()
            with client.entered():
                dialled = socket.create_connection(("199.0.0.1", 1723), timeout=5)
            accepted, _ = listening.accept()
            with dialled, accepted:
                assert accepted.getsockname() == ("199.0.0.1", 1723)


def test_other_traffic_of_the_lan_is_forwarded_as_before() -> None:
    with row() as (client, router, _):
        with router.entered():
            routing.install(WANTED)
        client.sh("ping -c 1 -W 5 199.0.0.1")
