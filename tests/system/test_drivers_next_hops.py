"""How drivers reach the gateway's next hop, and that they use none that is not there (fastpath.xdp)."""

from collections.abc import Iterator
from typing import Final

import pytest

from relay.fastpath import abi
from tests.bpf.drivers import redirected, without_family
from tests.bpf.egress import dropping
from tests.bpf.kernel import built
from tests.netns import requires_netns
from tests.system.drivers import USED, XDP, sure, with_cards
from tests.system.home import Home, until
from tests.system.test_next_hops import NEW, ROUTER, SOME, Line, carried, settings

pytestmark = [
    pytest.mark.skipif(bool(built()), reason=built()),
    pytest.mark.skipif(bool(requires_netns() or without_family()), reason="drivers cannot be asked here"),
]


@pytest.fixture(scope="module")
def house(house: Home) -> Home:
    return with_cards(house)


@pytest.fixture(autouse=True)
def cleared(house: Home) -> Iterator[None]:
    with sure(house):
        yield


@pytest.fixture
def line(house: Home) -> Iterator[Line]:
    with carried(house, *XDP) as made:
        made.know("permanent")
        made.becomes(abi.Means.DRIVER)
        yield made


def driven(line: Line) -> tuple[bool, bool]:
    """Whether drivers carry what passes: what leaves to the next hop, and what comes from it."""
    before = [redirected(line.gateway, name) for name in USED]
    line.talks()
    after = [redirected(line.gateway, name) for name in USED]
    out, back = (there - was for there, was in zip(after, before, strict=True))
    assert {out, back} <= {0, SOME}
    return bool(out), bool(back)


def test_a_next_hop_that_the_kernel_is_not_sure_of_is_reached_by_tc(line: Line) -> None:
    assert driven(line) == (True, True)
    line.know("stale")
    line.becomes(abi.Means.NEIGHBOUR)
    assert driven(line) == (False, True)
    line.know("reachable")
    line.becomes(abi.Means.DRIVER)
    assert driven(line) == (True, True)


def test_a_next_hop_that_tells_of_another_address_is_sent_nothing_at_the_old_one(line: Line) -> None:
    with (
        settings(line.router, "net.ipv4.conf.eth0", arp_notify=1),
        settings(line.gateway, "net.ipv4.neigh.eth1", delay_first_probe_time=0),
    ):
        line.know("reachable")
        line.becomes(abi.Means.DRIVER)
        old = line.address()
        line.router.sh(f"ip link set eth0 address {NEW}")
        until(lambda: old not in {address for _, address in line.reached()})
        line.talks()
        line.becomes(abi.Means.DRIVER)
        assert driven(line) == (True, True)


GONE: Final = [
    pytest.param("ip link set eth1 down", "ip link set eth1 up", id="link"),
    pytest.param("ip route del default", "", id="route"),
]


@pytest.mark.parametrize(("gone", "again"), GONE)
def test_a_way_that_is_gone_takes_nothing_and_is_used_again_when_it_is_back(
    line: Line, gone: str, again: str
) -> None:
    line.gateway.sh(gone)
    until(line.lost)
    assert all(line.lost() for _ in range(3))
    if again:
        line.gateway.sh(again)
    line.gateway.sh(f"ip route add default via {ROUTER}")
    until(line.arrives)
    line.becomes(abi.Means.DRIVER)
    assert driven(line) == (True, True)


def test_a_program_at_the_way_out_is_not_gone_round(line: Line) -> None:
    with dropping(line.gateway, "eth1"):
        line.becomes(abi.Means.HEADER)
        assert line.lost()
    line.becomes(abi.Means.DRIVER)
    assert driven(line) == (True, True)
