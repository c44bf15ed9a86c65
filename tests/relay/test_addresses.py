"""Interfaces and addresses, asked in namespaces."""

from collections.abc import Iterator

import pytest

from protocols.addr import parse_ip, show_ip
from relay import addresses
from relay.addresses import LEAST_MTU, Interface
from relay.kernel import KernelError
from tests.netns import Namespace, network, requires_netns

pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(requires_netns()), reason=requires_netns())]

ONE, TWO, THREE = (parse_ip(f"200.200.200.20{n}") for n in range(3))


@pytest.fixture
def box() -> Iterator[Namespace]:
    """A namespace with this thread in it, and a link eth1 to another one."""
    with network() as net:
        box, other = net.namespace("box"), net.namespace("other")
        net.link(box, "eth1", other, "eth0")
        with box.entered():
            yield box


# -- asked ---------------------------------------------------------------------------------------------


def test_an_interface_is_described_as_it_is(box: Namespace) -> None:
    box.sh("ip link set eth1 mtu 1400")
    box.address("eth1", "200.200.200.200/24", "200.200.200.201/24")
    found = addresses.interface("eth1")
    assert found.exists
    assert found.up
    assert (found.address, found.mtu) == (ONE, 1400)


def test_a_link_without_carrier_is_not_up(box: Namespace) -> None:
    box.sh("ip link set eth1 down")
    found = addresses.interface("eth1")
    assert found.exists
    assert not found.up


@pytest.mark.parametrize("name", ["ppp7", "a-name-that-no-interface-can-have", ""])
def test_an_interface_that_is_not_there_is_empty(box: Namespace, name: str) -> None:
    assert addresses.interface(name) == Interface(name)
    assert not addresses.interface(name).exists


def test_the_primary_address_comes_first(box: Namespace) -> None:
    box.address("eth1", "200.200.200.200/24", "200.200.200.202/24")
    box.sh("ip address add 200.200.200.201/24 dev eth1 label eth1:backup")
    assert addresses.addresses("eth1") == (ONE, THREE, TWO)
    assert addresses.addresses("eth2") == ()
    assert addresses.own_addresses() == {ONE, TWO, THREE, parse_ip("127.0.0.1")}


def test_all_of_very_many_addresses_are_found(box: Namespace) -> None:
    lines = [f"address add 10.1.{n // 250}.{n % 250 + 1}/16 dev eth1" for n in range(300)]
    box.sh("ip -batch -", stdin="\n".join(lines))
    assert len(addresses.addresses("eth1")) == 300


def test_auto_is_the_interface_of_the_best_default_route(box: Namespace) -> None:
    box.address("eth1", "200.200.200.200/24")
    with pytest.raises(KernelError, match=r"no default route.*wan\.interface"):
        addresses.default_interface()
    box.sh("ip link add eth2 type veth peer name eth3")
    box.address("eth2", "10.0.0.1/8")
    box.sh("ip link set eth3 up")
    box.sh("ip route add default via 10.0.0.9 metric 200")
    assert addresses.default_interface() == "eth2"
    box.sh("ip route add default via 200.200.200.1 metric 100")
    assert addresses.default_interface() == "eth1"
    box.sh("ip route add unreachable default metric 50")
    box.sh("ip route add default via 10.0.0.9 table 77")
    assert addresses.default_interface() == "eth1"
    box.sh("ip route add default metric 60 nexthop via 10.0.0.9 nexthop via 200.200.200.1")
    assert addresses.default_interface() == "eth2"


def test_the_path_mtu_is_that_of_the_route(box: Namespace) -> None:
    box.address("eth1", "200.200.200.200/24")
    assert addresses.path_mtu("199.0.0.1") == LEAST_MTU
    box.sh("ip route add default via 200.200.200.1")
    assert addresses.path_mtu("199.0.0.1") == 1500
    box.sh("ip route add 199.0.0.2 via 200.200.200.1 mtu 1280")
    assert addresses.path_mtu("199.0.0.2") == 1280


def test_a_point_to_point_link_has_our_end_s_address(box: Namespace) -> None:
    box.sh("ip address add 200.200.200.200 peer 200.200.200.201 dev eth1")
    assert addresses.interface("eth1").address == ONE
    assert addresses.interface("eth1").remote == TWO
    assert addresses.addresses("eth1") == (ONE,)


def test_link_local_addresses_are_not_for_the_internet(box: Namespace) -> None:
    box.sh("ip address add 169.254.7.7/16 dev eth1 scope link")
    found = addresses.interface("eth1")
    assert (found.addresses, found.link_local) == ((), True)
    box.address("eth1", "200.200.200.200/24", "200.200.200.201/24")
    assert addresses.interface("eth1").addresses == (ONE, TWO)


def test_all_hosts_of_each_network_are_known_by_their_address(box: Namespace) -> None:
    for address in (
        "10.1.2.3/20",
        "10.9.0.1/16 broadcast 10.9.0.255",
        "10.8.0.0/31",
        "10.8.0.9 peer 10.8.0.10",
    ):
        box.sh(f"ip address add {address} dev eth1")
    found = addresses.look(("eth1",)).broadcasts - {parse_ip("127.255.255.255")}
    assert sorted(map(show_ip, found)) == ["10.1.15.255", "10.9.0.255", "10.9.255.255"]


def test_a_scene_is_all_that_was_asked_for(box: Namespace) -> None:
    box.address("eth1", "200.200.200.200/24")
    scene = addresses.look(("ppp0",), follow_default=True)
    assert scene == addresses.Scene(
        {"ppp0": Interface("ppp0")},
        own=frozenset({ONE, parse_ip("127.0.0.1")}),
        broadcasts=frozenset({parse_ip("200.200.200.255"), parse_ip("127.255.255.255")}),
    )
    assert not addresses.is_routed("199.0.0.1")
    box.sh("ip route add default via 200.200.200.1")
    assert addresses.is_routed("199.0.0.1")
    scene = addresses.look((), follow_default=True)
    assert scene.default == "eth1"
    assert scene.interfaces["eth1"].address == ONE
    assert "eth1" in addresses.names()
