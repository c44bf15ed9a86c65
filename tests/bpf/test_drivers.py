"""Drivers that run the program: what they carry, when they may not, and that nothing is lost or left."""

import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from protocols.actions import Side
from relay.fastpath import abi, netdev
from relay.fastpath.kernel import KernelFastPath
from relay.fastpath.null import NullFastPath
from relay.fastpath.syscall import link_xdp
from tests.bpf.drivers import occupied, redirected, take_in, without_family
from tests.bpf.egress import dropping
from tests.bpf.flows import CLIENT
from tests.bpf.test_driver import KINDS
from tests.bpf.test_neighbours import ROUTER, reached, way_out
from tests.bpf.test_ways import Follower, following
from tests.bpf.wires import FIRST, Wires, host, numbered, wires
from tests.netns import requires_netns

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(bool(requires_netns()), reason=requires_netns()),
    pytest.mark.skipif(bool(without_family()), reason=without_family()),
]

SOME: Final = range(FIRST, FIRST + 20)
USED: Final = {"eth0": "", "eth1": ""}


@pytest.fixture
def wired() -> Iterator[Wires]:
    """Links whose drivers take frames, as those of cards do, and with a queue as these have."""
    with wires() as made:
        for name in ("eth0", "eth1"):
            made.gateway.sh(f"tc qdisc add dev {name} root pfifo_fast")
        drivers(made, "on")
        yield made


def drivers(wired: Wires, state: str) -> None:
    """Have the hosts' drivers running, or not."""
    for namespace in (wired.client, wired.peer):
        take_in(namespace, "eth0", state)


def look(wired: Wires, fastpath: KernelFastPath) -> None:
    """What happens once a second."""
    with wired.gateway.entered():
        fastpath.look_at_ways()


def sure(wired: Wires, follower: Follower) -> None:
    """Make the kernel sure of both neighbours."""
    for address, name, there in ((ROUTER, "eth1", wired.peer), ("10.0.0.2", "eth0", wired.client)):
        station = there.sh("cat /sys/class/net/eth0/address").strip()
        wired.gateway.sh(f"ip neigh replace {address} lladdr {station} dev {name} nud permanent")
    follower.follow()


@contextmanager
def driving(wired: Wires, kind: str = "esp") -> Iterator[Follower]:
    """A kind's flows, carried by drivers where these can."""
    with following(wired, kind, xdp=True) as follower:
        sure(wired, follower)
        yield follower


def drives(wired: Wires, kind: str = "esp") -> bool:
    """Whether packets, all of which must arrive, are carried by drivers: all of them, or none."""
    before = redirected(wired.gateway, *USED)
    wired.passes(kind, SOME)
    carried = redirected(wired.gateway, *USED) - before
    assert carried in (0, 2 * len(SOME))
    return bool(carried)


@pytest.mark.parametrize("kind", KINDS)
def test_drivers_carry_both_ways_and_count(wired: Wires, kind: str) -> None:
    with driving(wired, kind) as follower:
        fastpath = follower.fastpath
        assert fastpath.drivers == USED
        before = [fastpath.carried(number) for number in range(2)]
        assert drives(wired, kind)
        for number, was in enumerate(before):
            now = fastpath.carried(number)
            assert was is not None
            assert now is not None
            assert now[0] - was[0] == len(SOME)
            assert now[2] > was[2]
            assert now[3] == (SOME[-1] if kind == "esp" else 0)


def test_what_drivers_do_not_know_tc_carries(wired: Wires) -> None:
    with driving(wired, "ip"):
        assert not drives(wired, "ip")


def test_without_the_setting_no_driver_is_touched(wired: Wires) -> None:
    with following(wired) as follower:
        sure(wired, follower)
        assert follower.fastpath.drivers == {}
        assert "xdp" not in wired.gateway.sh("ip link show")
        assert way_out(follower.fastpath)[0] == abi.Means.HEADER
        assert not drives(wired)


def test_a_driver_that_takes_no_frames_is_given_none(wired: Wires) -> None:
    drivers(wired, "off")
    with driving(wired) as follower:
        for state, means in (("off", abi.Means.HEADER), ("on", abi.Means.DRIVER), ("off", abi.Means.HEADER)):
            drivers(wired, state)
            look(wired, follower.fastpath)
            assert way_out(follower.fastpath)[0] == reached(follower.fastpath, CLIENT)[0] == means
            assert drives(wired) == (means is abi.Means.DRIVER)


def test_the_other_end_of_a_veth_is_reached_by_tc(wired: Wires) -> None:
    for name in ("eth0", "eth1"):
        wired.gateway.sh(f"tc qdisc del dev {name} root")
    with driving(wired) as follower:
        assert way_out(follower.fastpath)[0] == abi.Means.PEER
        assert not drives(wired)


SHAPED: Final = [
    pytest.param(
        "tc qdisc replace dev eth{} root pfifo", "tc qdisc replace dev eth{} root pfifo_fast", id="queue"
    ),
    pytest.param(
        "tc qdisc replace dev eth{0} clsact; tc filter add dev eth{0} egress protocol ip u32 match u32 0 0",
        "tc filter del dev eth{} egress",
        id="filter",
    ),
]


@pytest.mark.parametrize(("change", "back"), SHAPED)
def test_what_stands_at_the_way_out_is_not_gone_round(wired: Wires, change: str, back: str) -> None:
    with driving(wired) as follower:
        for lines, means in ((change, abi.Means.HEADER), (back, abi.Means.DRIVER)):
            for number in (0, 1):
                for line in lines.format(number).split("; "):
                    wired.gateway.sh(line)
            follower.follow()
            assert way_out(follower.fastpath)[0] == means
            assert drives(wired) == (means is abi.Means.DRIVER)


def test_a_program_at_the_way_out_is_not_gone_round(wired: Wires) -> None:
    with driving(wired) as follower, host(wired.client, 50) as client, host(wired.peer, 50) as peer:
        with dropping(wired.gateway, "eth1"):
            look(wired, follower.fastpath)
            for number in SOME:
                client.send(numbered("esp", Side.LAN, number))
            assert peer.nothing()
        look(wired, follower.fastpath)
        assert drives(wired)


def test_the_interfaces_own_address_may_change(wired: Wires) -> None:
    with driving(wired) as follower:
        for name, there, address in (
            ("eth0", wired.client, "10.0.0.1"),
            ("eth1", wired.peer, "200.200.200.200"),
        ):
            wired.gateway.sh(f"ip link set {name} address 02:00:00:00:00:77")
            there.sh(f"ip neigh replace {address} lladdr 02:00:00:00:00:77 dev eth0")
        assert not drives(wired)
        sure(wired, follower)
        look(wired, follower.fastpath)
        assert drives(wired)


@contextmanager
def changed(wired: Wires, change: str, back: str) -> Iterator[None]:
    """The gateway, otherwise than it is."""
    for line in change.split("; "):
        wired.gateway.sh(line)
    yield
    for line in back.split("; "):
        wired.gateway.sh(line)


OBSTACLES: Final = [
    pytest.param(lambda wired: occupied(wired.gateway, "eth0"), "runs another program", id="another-program"),
    pytest.param(
        lambda wired: changed(wired, "ip link add near link eth0 type macvlan", "ip link del near"),
        "near stands on it",
        id="macvlan",
    ),
]


@pytest.mark.parametrize(("obstacle", "said"), OBSTACLES)
def test_where_a_driver_cannot_tc_goes_on_until_it_can(
    wired: Wires, obstacle: Callable[[Wires], AbstractContextManager[None]], said: str
) -> None:
    with ExitStack() as stack:
        with obstacle(wired):
            follower = stack.enter_context(driving(wired))
            assert said in follower.fastpath.drivers["eth0"]
            assert follower.fastpath.drivers["eth1"] == ""
            wired.passes("esp", SOME)
            look(wired, follower.fastpath)
            assert said in follower.fastpath.drivers["eth0"]
        look(wired, follower.fastpath)
        assert follower.fastpath.drivers == USED
        follower.follow()
        assert drives(wired)


TAKEN: Final = [
    pytest.param(
        "ip link add near link eth0 type macvlan", "ip link del near", "near stands on it", id="macvlan"
    ),
    pytest.param(
        "ip link add br0 type bridge; ip link set eth0 master br0",
        "ip link del br0",
        "it is a part of br0",
        id="bridge",
    ),
]


@pytest.mark.parametrize(("change", "back", "said"), TAKEN)
def test_a_driver_that_may_no_more_is_left_until_it_may(
    wired: Wires, change: str, back: str, said: str
) -> None:
    with driving(wired) as follower:
        assert drives(wired)
        with changed(wired, change, back):
            look(wired, follower.fastpath)
            assert follower.fastpath.drivers == {"eth0": said, "eth1": ""}
            assert "xdp" not in wired.gateway.sh("ip link show eth0")
        look(wired, follower.fastpath)
        follower.follow()
        assert drives(wired)


def test_frames_too_long_for_a_driver_are_tried_again_when_they_are_shorter(wired: Wires) -> None:
    for namespace, name in ((wired.client, "eth0"), (wired.gateway, "eth0")):
        namespace.sh(f"ip link set {name} mtu 9000")
    with driving(wired) as follower:
        assert "MTU is too high" in follower.fastpath.drivers["eth0"]
        wired.passes("esp", SOME)
        for namespace, name in ((wired.client, "eth0"), (wired.gateway, "eth0")):
            namespace.sh(f"ip link set {name} mtu 1500")
        look(wired, follower.fastpath)
        follower.follow()
        assert drives(wired)


def test_an_interface_that_goes_and_comes_again_is_used_again(wired: Wires) -> None:
    with driving(wired) as follower:
        wired.gateway.sh("ip link del eth0")
        look(wired, follower.fastpath)
        assert follower.fastpath.drivers == {"eth0": "it is gone", "eth1": ""}
        wired.net.link(wired.client, "eth0", wired.gateway, "eth0")
        with wired.gateway.entered():
            follower.fastpath.attach("eth0", Side.LAN)
        assert follower.fastpath.drivers == USED


def test_a_kernel_that_does_not_say_what_drivers_can_has_none_used(
    wired: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netdev, "_FAMILY", b"netdeviant\0")
    with driving(wired) as follower:
        assert "before Linux 6.3" in follower.fastpath.drivers["eth0"]
        assert not drives(wired)


def held(fastpath: KernelFastPath) -> dict[int, str]:
    """By interface, the kernel's number of what holds the program in its driver."""
    number = re.compile(r"link_id:\s+(\d+)")
    return {
        interface: number.findall(Path(f"/proc/self/fdinfo/{link}").read_text())[0]
        for interface, link in fastpath.driver_links.items()
    }


def test_who_takes_over_is_handed_the_drivers(wired: Wires) -> None:
    with ExitStack() as new:
        with driving(wired) as old:
            follower = new.enter_context(driving(wired))
            assert set(follower.fastpath.drivers.values()) == {"its driver runs another program"}
            assert drives(wired)  # by the old one
            before = held(old.fastpath)
            copies = {interface: os.dup(link) for interface, link in old.fastpath.driver_links.items()}
            old.fastpath.leave()
            assert old.fastpath.driver_links == {}
            assert wired.gateway.sh("ip link show").count("prog/xdp") == 2
            assert not drives(wired)
        with wired.gateway.entered():
            follower.fastpath.inherit(copies)
        assert follower.fastpath.drivers == USED
        assert len(before) == 2
        assert held(follower.fastpath) == before
        assert drives(wired)
    assert "xdp" not in wired.gateway.sh("ip link show")


def test_what_is_handed_over_and_not_wanted_goes(wired: Wires) -> None:
    with driving(wired) as old:
        copies = [{n: os.dup(link) for n, link in old.fastpath.driver_links.items()} for _ in range(2)]
        with wired.carrying() as without:
            without.inherit(copies[0])
        NullFastPath("").inherit(copies[1])
        old.fastpath.leave()
        assert "xdp" not in wired.gateway.sh("ip link show")


def test_what_holds_nothing_any_more_is_of_no_use(wired: Wires) -> None:
    wired.gateway.sh("ip link add near type veth peer name far")
    with occupied(wired.gateway, "eth0"), driving(wired) as follower, wired.gateway.entered():
        interfaces = map(socket.if_nametoindex, ("near", "eth0"))
        program = follower.fastpath._object.program_fd("lan_driver")
        stale = link_xdp(program, next(interfaces))
        wired.gateway.sh("ip link del near")
        follower.fastpath.inherit({next(interfaces): stale})
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(stale)
        assert "runs another program" in follower.fastpath.drivers["eth0"]


def test_who_takes_over_has_the_drivers_when_they_are_left(wired: Wires) -> None:
    with ExitStack() as new:
        with driving(wired) as old:
            follower = new.enter_context(driving(wired))
            assert set(follower.fastpath.drivers.values()) == {"its driver runs another program"}
            assert drives(wired)  # by the old one
            old.fastpath.leave()
            assert not drives(wired)
            look(wired, follower.fastpath)
            assert follower.fastpath.drivers == USED
        assert drives(wired)


_CRASH: Final = """
import os
from protocols.actions import Side
from relay.fastpath import kernel
fastpath = kernel.KernelFastPath(64, instance="wires", xdp=True)
fastpath.attach("eth0", Side.LAN)
fastpath.attach("eth1", Side.WAN)
os.write(1, os.popen("ip link show").read().encode())
os.kill(os.getpid(), 9)
"""


def test_nothing_is_left_of_it_however_it_ends(wired: Wires) -> None:
    assert "xdp" not in wired.gateway.sh("ip link show")
    with pytest.raises(RuntimeError, match=r"(?s)prog/xdp.*prog/xdp"):
        wired.gateway.run(sys.executable, "-c", _CRASH)
    assert "xdp" not in wired.gateway.sh("ip link show")
    with wired.carrying(xdp=True) as fastpath:
        assert wired.gateway.sh("ip link show").count("prog/xdp") == 2
        with wired.gateway.entered():
            fastpath.detach("eth0")
        assert wired.gateway.sh("ip link show").count("prog/xdp") == 1
    assert "xdp" not in wired.gateway.sh("ip link show")
