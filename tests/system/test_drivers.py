"""What drivers of network cards carry (fastpath.xdp), as the daemon has them do; and what they do not."""

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from protocols import icmp
from relay.takeover.taking import meet
from tests.bpf.drivers import occupied, without_family
from tests.bpf.kernel import built
from tests.netns import requires_netns
from tests.system.calls import call, changes
from tests.system.carried import carries, read
from tests.system.drivers import USED, XDP, handed_on, programs, running, sure, with_cards
from tests.system.forwards import data, sessions, udp
from tests.system.home import CALLER, CLIENT, GATEWAY, PEER, PUBLIC, SERVER, Daemon, Home, until
from tests.system.ipsec import ESP, esp
from tests.system.test_router import ICMP, error_at
from tests.system.test_takeover import Traffic, identity, takeover

pytestmark = [
    pytest.mark.skipif(bool(built()), reason=built()),
    pytest.mark.skipif(bool(requires_netns() or without_family()), reason="drivers cannot be asked here"),
]

FWZ: Final = 94
RULES: Final = f"""
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/23"]
servers = ["any"]
proto = ["pptp", "ipsec"]

[[forward]]
name = "dns"
listen = "udp/53"
server = "{SERVER}:5353"
allow = ["{CALLER}"]

[[forward]]
name = "fwz"
listen = "ip/{FWZ}"
server = "{SERVER}"
allow = ["{CALLER}"]
"""
KEPT_OUT: Final = RULES.replace('"ipsec"]\n', '"ipsec"]\nfastpath = false\n')
#: What a service may do.
SERVICE: Final = ("setpriv", "--bounding-set=-all,+bpf,+net_admin,+net_raw,+net_bind_service")

#: Until a Security Association's flows are surely known; and packets that are looked at.
FIRST: Final = range(1, 6)
SOME: Final = range(6, 26)

#: Seconds until what is looked at once a second is seen, on a machine that does other things as well.
SOON: Final = 3.0


@pytest.fixture(scope="module")
def house(house: Home) -> Home:
    return with_cards(house)


@pytest.fixture(autouse=True)
def cleared(house: Home) -> Iterator[None]:
    with sure(house):
        yield


def drivers(daemon: Daemon) -> dict[str, str]:
    found: dict[str, str] = daemon.document("status")["fastpath"]["drivers"]
    return found


def say(daemon: Daemon, expected: dict[str, str]) -> bool:
    return drivers(daemon) == expected


#: Sends something of this number both ways; what arrives at the peer, and at the client.
Exchange = Callable[[int], tuple[bytes, bytes]]


def pptp(house: Home) -> Exchange:
    tunnel = call(house, house.client, PEER, house.peer)
    client, peer = house.raw(house.client), house.raw(house.peer)

    def exchange(number: int) -> tuple[bytes, bytes]:
        client.send(CLIENT, PEER, tunnel.server_id, seq=number, identification=number, tos=0x28)
        there = peer.receive()
        peer.send(PEER, PUBLIC, tunnel.client_id, seq=number, ack=number, identification=number)
        return there, client.receive()

    return exchange


def plain_esp(house: Home) -> Exchange:
    client, peer = house.raw(house.client, ESP), house.raw(house.peer, ESP)

    def exchange(number: int) -> tuple[bytes, bytes]:
        esp(client, CLIENT, PEER, 0x1001, number, identification=number, tos=0x28)
        there = peer.receive(protocol=ESP)
        esp(peer, PEER, PUBLIC, 0x2001, number, bytes(range(200)), identification=number)
        return there, client.receive(protocol=ESP)

    return exchange


def begin(daemon: Daemon, exchange: Exchange) -> None:
    """Both ways become the kernel's."""
    for number in FIRST:
        exchange(number)
    until(functools.partial(carries, daemon, 2))


def counted(daemon: Daemon) -> list[Any]:
    return [one["packets"] for one in sessions(daemon)]


@pytest.mark.parametrize("begun", [pptp, plain_esp])
def test_drivers_carry_both_ways_what_leaves_as_from_user_space(
    house: Home, begun: Callable[[Home], Exchange]
) -> None:
    daemon = house.run(RULES, *XDP)
    assert say(daemon, USED)
    exchange = begun(house)
    begin(daemon, exchange)
    before, seen = handed_on(house), read(daemon)
    by_drivers = [exchange(number) for number in SOME]
    assert handed_on(house) - before == 2 * len(SOME)
    assert read(daemon) == seen
    until(lambda: counted(daemon) == [{"outbound": 25, "inbound": 25}], within=1.5)
    changes(house, daemon, KEPT_OUT)
    assert daemon.command("reload").returncode == 0
    until(functools.partial(carries, daemon, 0))
    before = handed_on(house)
    assert [exchange(number) for number in SOME] == by_drivers
    assert handed_on(house) == before
    assert read(daemon) - seen == 2 * len(SOME)
    assert counted(daemon) == [{"outbound": 45, "inbound": 45}]


def test_status_says_which_drivers_carry_and_switched_off_none_does(house: Home) -> None:
    daemon = house.run(RULES, *XDP)
    said = daemon.command("status").stdout
    assert "eth0: carries flows" in said
    assert "eth1: carries flows" in said
    assert programs(house) == 2
    assert daemon.stop() == 0
    assert programs(house) == 0
    daemon = house.run(RULES)
    assert say(daemon, {})
    assert "carries flows" not in daemon.command("status").stdout
    assert programs(house) == 0


def test_what_is_unusual_in_a_packet_is_user_spaces(house: Home) -> None:
    daemon = house.run(RULES, *XDP)
    tunnel = call(house, house.client, PEER, house.peer)
    until(functools.partial(carries, daemon, 2))
    client, errors = house.raw(house.client), house.raw(house.client, ICMP)
    before, seen = handed_on(house), read(daemon, "gre")
    client.send(CLIENT, PEER, tunnel.server_id, ttl=1)
    source, error = error_at(errors)
    assert (source, error.type) == (GATEWAY, icmp.TIME_EXCEEDED)
    assert (handed_on(house), read(daemon, "gre")) == (before, seen + 1)


def test_what_only_tc_can_be_sure_of_is_tcs(house: Home) -> None:
    """Checksums that another namespace has left unfinished, and protocols of which nothing is known."""
    daemon = house.run(RULES, *XDP)
    caller, server = house.raw(house.caller, FWZ), house.raw(house.server, FWZ)
    with udp(house.caller, 5000) as asking, udp(house.server, 5353) as answering:

        def exchange(number: int) -> None:
            asking.sendto(bytes([number]) * 20, (PUBLIC, 53))
            heard, shown = answering.recvfrom(2048)
            answering.sendto(heard, shown)
            assert asking.recvfrom(2048) == (bytes([number]) * 20, (PUBLIC, 53))
            caller.sock.sendto(bytes([number]) * 20, (PUBLIC, 0))
            assert data(server, FWZ) == (CALLER, SERVER, bytes([number]) * 20)
            server.sock.sendto(bytes([number]) * 30, (CALLER, 0))
            assert data(caller, FWZ) == (PUBLIC, CALLER, bytes([number]) * 30)

        exchange(1)
        until(functools.partial(carries, daemon, 4))
        before, seen = handed_on(house), read(daemon)
        for number in range(2, 12):
            exchange(number)
    assert (handed_on(house), read(daemon)) == (before, seen)
    until(lambda: counted(daemon) == [{"outbound": 11, "inbound": 11}] * 2, within=1.5)


def test_interfaces_without_such_a_driver_have_tc(house: Home) -> None:
    annex = house.net.namespace("annex")
    house.net.link(house.gateway, "eth2", annex, "eth0")
    for line in (
        "link add br1 type bridge",
        "link set eth2 master br1",
        "tuntap add dev tun1 mode tun",
        "addr add 10.0.2.1/24 dev tun1",
        "link set tun1 up",
    ):
        house.gateway.sh(f"ip {line}")
    house.gateway.address("br1", "10.0.1.1/24")
    annex.address("eth0", "10.0.1.2/24")
    annex.sh("ip route add default via 10.0.1.1")
    try:
        daemon = house.run(RULES, *XDP, "--set", "lan.interfaces=eth0,br1,tun1")
        assert drivers(daemon) == {
            "br1": "its driver knows no XDP",
            "tun1": "it is not Ethernet",
            **USED,
        }
        assert "Driver" in daemon.command("status").stdout
        tunnel = call(house, annex, PEER, house.peer)
        until(functools.partial(carries, daemon, 2))
        before, seen = handed_on(house), read(daemon, "gre")
        here, peer = house.raw(annex), house.raw(house.peer)
        for number in range(20):
            here.send("10.0.1.2", PEER, tunnel.server_id, seq=number)
            peer.receive()
            peer.send(PEER, PUBLIC, tunnel.client_id, seq=number)
            here.receive()
        assert (handed_on(house), read(daemon, "gre")) == (before, seen)
        assert daemon.stop() == 0
    finally:
        for name in ("eth2", "br1", "tun1"):
            house.gateway.sh(f"ip link del {name}")


def test_what_comes_to_stand_on_an_interface_has_it_left_to_tc(house: Home) -> None:
    daemon = house.run(RULES, *XDP)
    exchange = pptp(house)
    begin(daemon, exchange)
    for line, said, driven in (
        ("ip link add near link eth1 type macvlan", "near stands on it", 1),
        ("ip link del near", "", 2),
    ):
        house.gateway.sh(line)
        until(functools.partial(say, daemon, {"eth0": "", "eth1": said}), within=SOON)
        assert programs(house) == driven
        before, seen = handed_on(house), read(daemon)
        for number in SOME:
            exchange(number)
        # Out it is eth0's driver that hands packets on, and back eth1's.
        assert handed_on(house) - before == driven * len(SOME)
        assert read(daemon) == seen


def test_somebody_elses_program_is_left_alone_and_its_place_taken_when_it_is_gone(house: Home) -> None:
    """Also by a service, which may load no program by then."""
    with occupied(house.gateway, "eth1"):
        there = house.gateway.sh("ip link show eth1")
        assert "prog/xdp" in there
        daemon = house.run(RULES, *XDP, under=SERVICE)
        assert drivers(daemon) == {"eth0": "", "eth1": "its driver runs another program"}
        exchange = pptp(house)
        begin(daemon, exchange)
        before, seen = handed_on(house), read(daemon)
        for number in SOME:
            exchange(number)
        assert handed_on(house) - before == len(SOME)
        assert read(daemon) == seen
        assert house.gateway.sh("ip link show eth1") == there
    until(functools.partial(say, daemon, USED), within=SOON)
    before = handed_on(house)
    for number in SOME:
        exchange(number)
    assert handed_on(house) - before == 2 * len(SOME)


def test_a_daemon_that_is_killed_leaves_no_program_and_the_next_one_has_the_drivers(house: Home) -> None:
    daemon = house.run(RULES, *XDP)
    tunnel = call(house, house.client, PEER, house.peer)
    until(functools.partial(carries, daemon, 2))
    daemon.stop(signal.SIGKILL)
    assert programs(house) == 0
    client, peer = house.raw(house.client), house.raw(house.peer)
    client.send(CLIENT, PEER, tunnel.server_id)
    assert peer.nothing()
    daemon = house.run(RULES, *XDP)
    assert say(daemon, USED)


def test_takeovers_hand_drivers_on_and_lose_nothing(house: Home) -> None:
    daemon = house.run(RULES, *XDP)
    with house.listen(house.peer) as listening:
        tunnel = house.tunnel(house.client, PEER, listening)
    until(functools.partial(carries, daemon, 2))
    same, end, fewest = identity(daemon), threading.Event(), [2]

    def watch() -> None:
        while not end.wait(0.02):
            fewest.append(programs(house))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with Traffic(house, tunnel) as traffic:
            for _ in range(2):
                traffic.passes(50)
                daemon = takeover(house, daemon, *XDP, under=SERVICE)
                assert identity(daemon) == same
                until(functools.partial(say, daemon, USED), within=SOON)
            before = handed_on(house)
            traffic.passes(50)
            assert handed_on(house) - before > 50
    finally:
        end.set()
        watching.join()
    assert min(fewest) == 2
    assert sorted(traffic.outbound) == sorted(traffic.inbound) == list(range(traffic.sent))
    until(lambda: counted(daemon) == [{"outbound": traffic.sent, "inbound": traffic.sent}], within=1.5)


def test_a_takeover_that_fails_leaves_programs_in_their_place(house: Home) -> None:
    daemon = house.run(RULES, *XDP)
    exchange = pptp(house)
    begin(daemon, exchange)
    before = running(house)
    with contextlib.closing(meet(daemon.socket, "vpnmasq")) as new:
        estate = new.estate()
        assert len(estate.drivers) == 2
        for sock in (*estate.sockets.values(), *(part.sock for part in estate.streams)):
            sock.close()
        for number in (new.lock, new.name, *estate.drivers.values()):
            os.close(number)
    until(lambda: "takeover failed" in daemon.log())
    assert running(house) == before
    assert say(daemon, USED)
    carried = handed_on(house)
    for number in SOME:
        exchange(number)
    assert handed_on(house) - carried == 2 * len(SOME)


def test_who_takes_over_without_the_setting_takes_programs_away(house: Home) -> None:
    daemon = house.run(RULES, *XDP)
    daemon = takeover(house, daemon)
    assert say(daemon, {})
    assert programs(house) == 0
