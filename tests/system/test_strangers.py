"""What strangers send, between real sockets: kept out by the kernel, seen now and then, and counted."""

from collections.abc import Callable, Iterator

import pytest

from protocols import ipv4
from protocols.addr import parse_ip
from protocols.esp.codec import Esp
from protocols.gre.codec import EnhancedGre
from tests.bpf.kernel import built
from tests.system.carried import read
from tests.system.home import CALLER, CLIENT, PEER, PUBLIC, SERVER, Daemon, Gre, Home, until

pytestmark = pytest.mark.skipif(bool(built()), reason=built())

STRANGER = "199.0.0.66"
MANY = 500

RULES = f"""
[[masquerade]]
name = "staff"
clients = ["10.0.0.0/24"]
servers = ["any"]
proto = ["pptp", "ipsec"]

[[expose]]
name = "office"
server = "{SERVER}"
proto = ["ipsec"]
allow = ["{CALLER}"]
"""


@pytest.fixture(scope="module")
def daemon(house: Home) -> Daemon:
    return house.run(RULES, "--set", "fastpath.mode=off")


@pytest.fixture
def far(house: Home) -> Iterator[Gre]:
    raw = house.raw(house.peer, ipv4.ESP)
    yield raw
    raw.sock.close()


def esp(source: str, target: str, spi: int, sequence: int) -> bytes:
    inner = Esp(spi, sequence, bytes(40)).to_bytes()
    return ipv4.build(src=parse_ip(source), dst=parse_ip(target), protocol=ipv4.ESP, payload=inner)


def gre(source: str, target: str, call_id: int, sequence: int) -> bytes:
    inner = EnhancedGre(call_id=call_id, payload=b"data", seq=sequence).to_bytes()
    return ipv4.build(src=parse_ip(source), dst=parse_ip(target), protocol=ipv4.GRE, payload=inner)


@pytest.mark.parametrize(
    ("name", "reason", "packet"), [("esp", "esp-stranger", esp), ("gre", "stranger", gre)]
)
def test_a_flood_is_counted_whole_and_hardly_read(
    daemon: Daemon, far: Gre, name: str, reason: str, packet: Callable[[str, str, int, int], bytes]
) -> None:
    before, already = daemon.drops().get(reason, 0), read(daemon, f"{name} wan")
    for number in range(MANY):
        far.send_packet(packet(STRANGER, PUBLIC, 0x100 + number, 1), PUBLIC)
    until(lambda: daemon.drops().get(reason, 0) == before + MANY)
    assert 1 <= read(daemon, f"{name} wan") - already < MANY / 2
    assert daemon.document("status")["strangers"] == {"kept_out": True, "reason": ""}


def test_a_peer_is_heard_from_the_clients_first_packet_to_the_end_of_its_session(
    house: Home, daemon: Daemon, far: Gre
) -> None:
    host = house.raw(house.client, ipv4.ESP)
    host.send_packet(esp(CLIENT, PEER, 0x1000, 1), PEER)
    far.receive(protocol=ipv4.ESP)
    for at in range(1, MANY, 50):  # as many as the host's buffer holds
        for sequence in range(at, at + 50):
            far.send_packet(esp(PEER, PUBLIC, 0x2000, sequence), PUBLIC)
        for _ in range(50):
            host.receive(protocol=ipv4.ESP)
    assert "esp-unknown" not in daemon.drops()
    (session,) = daemon.document("sessions")["sessions"]
    daemon.command("sessions", "kill", session["id"])
    already = read(daemon, "esp wan")
    before = daemon.drops().get("esp-stranger", 0)
    for sequence in range(MANY):
        far.send_packet(esp(PEER, PUBLIC, 0x2000, 2 * MANY + sequence), PUBLIC)
    until(lambda: daemon.drops().get("esp-stranger", 0) == before + MANY)
    assert read(daemon, "esp wan") - already < MANY / 2
    host.sock.close()


def test_a_peer_that_a_rule_names_may_begin_in_the_midst_of_a_flood(
    house: Home, daemon: Daemon, far: Gre
) -> None:
    server = house.raw(house.server, ipv4.ESP)
    for number in range(MANY):
        far.send_packet(esp(STRANGER, PUBLIC, 0x5000 + number, 1), PUBLIC)
        if number == MANY // 2:
            far.send_packet(esp(CALLER, PUBLIC, 0x3000, 1), PUBLIC)
    got = server.receive(protocol=ipv4.ESP)
    assert Esp.from_bytes(got[20:]).spi == 0x3000
    server.sock.close()


def test_where_everybody_may_come_the_first_packet_makes_a_peer_known(
    house: Home, daemon: Daemon, far: Gre
) -> None:
    daemon.stop()
    open_to_all = house.run(
        f"""
        [[expose]]
        name = "office"
        server = "{SERVER}"
        proto = ["ipsec"]
        allow = ["any"]
        """,
        "--set",
        "fastpath.mode=off",
    )
    server = house.raw(house.server, ipv4.ESP)
    far.send_packet(esp(PEER, PUBLIC, 0x4000, 1), PUBLIC)
    assert Esp.from_bytes(server.receive(protocol=ipv4.ESP)[20:]).sequence == 1
    for sequence in range(2, 52):
        far.send_packet(esp(PEER, PUBLIC, 0x4000, sequence), PUBLIC)
    got = [Esp.from_bytes(server.receive(protocol=ipv4.ESP)[20:]).sequence for _ in range(50)]
    assert got == list(range(2, 52))
    assert "esp-stranger" not in open_to_all.drops()
    server.sock.close()
