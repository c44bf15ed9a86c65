"""Generic forwards between real sockets, with the real daemon between them."""

import contextlib
import functools
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from protocols.gre.codec import EnhancedGre
from tests.bpf.kernel import built
from tests.system.carried import carries, read
from tests.system.forwards import RULES, connect, data, joined, listening, sessions, udp
from tests.system.home import CALLER, CLIENT, PATIENCE, PEER, PUBLIC, SERVER, Daemon, Home, until


@pytest.fixture(scope="module")
def daemon(house: Home) -> Daemon:
    return house.run(RULES)


@pytest.fixture(autouse=True)
def nothing_left(daemon: Daemon) -> Iterator[None]:
    yield
    until(lambda: not [one for one in sessions(daemon) if one["protocol"] == "tcp"])
    left = [str(one["id"]) for one in sessions(daemon)]
    if left:
        daemon.command("sessions", "kill", *left)


WAYS = [
    pytest.param("caller", 80, 8080, CALLER, id="source-kept"),
    pytest.param("caller", 25, 25, "10.0.0.1", id="source-ours"),
    pytest.param("client", 80, 8080, PUBLIC, id="neighbour"),
]


@pytest.mark.parametrize(("who", "port", "server_port", "seen"), WAYS)
def test_bytes_go_both_ways_and_the_server_sees_whom_it_should(
    house: Home, daemon: Daemon, who: str, port: int, server_port: int, seen: str
) -> None:
    with joined(house, getattr(house, who), port, server_port) as (near, far):
        assert far.getpeername()[0] == seen
        near.sendall(b"question")
        assert far.recv(100) == b"question"
        far.sendall(b"answer")
        assert near.recv(100) == b"answer"
        (row,) = sessions(daemon)
        assert (row["protocol"], row["role"], row["server"]) == ("tcp", "forward", SERVER)
        assert (row["listen"], row["state"]) == (f"tcp/{port}", "established")
        assert row["octets"] == {"outbound": 6, "inbound": 8}
        assert row["ports"] == {"server": server_port, "peer": near.getsockname()[1]}


def test_a_half_closed_connection_still_carries_the_answer(house: Home, daemon: Daemon) -> None:
    with joined(house, house.caller, 80, 8080) as (near, far):
        near.sendall(b"all of it")
        near.shutdown(socket.SHUT_WR)
        assert far.recv(100) == b"all of it"
        assert far.recv(100) == b""
        until(lambda: sessions(daemon)[0]["state"] == "closing")
        far.sendall(b"late answer")
        assert near.recv(100) == b"late answer"
        far.close()
        assert near.recv(100) == b""


@pytest.mark.parametrize("by_server", [False, True])
def test_a_reset_arrives_as_a_reset(house: Home, daemon: Daemon, by_server: bool) -> None:
    with joined(house, house.caller, 80, 8080) as ends:
        one, other = reversed(ends) if by_server else ends
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
        with pytest.raises(ConnectionResetError):
            other.recv(100)


def test_a_server_that_does_not_listen_is_told_as_a_reset(house: Home, daemon: Daemon) -> None:
    # It may come before connect(2) has returned, or after.
    with pytest.raises(ConnectionResetError), connect(house.caller, PUBLIC, 80) as near:
        near.recv(100)
    assert daemon.drops()["unreachable"] >= 1


def test_who_is_not_allowed_gets_no_connection(house: Home, daemon: Daemon) -> None:
    with pytest.raises(ConnectionRefusedError):
        connect(house.peer, PUBLIC, 80)
    until(lambda: daemon.drops().get("no-rule", 0) >= 1)


def test_a_sender_is_held_up_by_a_receiver_that_does_not_read(house: Home, daemon: Daemon) -> None:
    """What piles up stays within the kernel's buffers, and nothing is lost when reading begins."""
    total, piece = 64 << 20, bytes(range(256)) * 256
    with joined(house, house.caller, 80, 8080) as (near, far):
        near.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < total:
                sent += near.send(piece)
                if sent % (1 << 20) < len(piece):
                    until(lambda: True)
        near.setblocking(True)
        near.settimeout(1.0)
        with contextlib.suppress(TimeoutError):
            while sent < total:
                sent += near.send(piece)
        assert sent < 32 << 20
        received = 0
        while received < sent:
            received += len(far.recv(1 << 20))
        assert received == sent


def test_bulk_arrives_whole_in_both_directions(house: Home, daemon: Daemon) -> None:
    size = 16 << 20
    payload = bytes(range(256)) * (size // 256)
    with joined(house, house.caller, 80, 8080) as (near, far):
        writers = [threading.Thread(target=end.sendall, args=(payload,)) for end in (near, far)]
        for writer in writers:
            writer.start()
        got = {near: bytearray(), far: bytearray()}

        def read(end: socket.socket) -> None:
            while len(got[end]) < size:
                got[end] += end.recv(1 << 20)

        readers = [threading.Thread(target=read, args=(end,)) for end in (near, far)]
        for reader in readers:
            reader.start()
        for thread in (*writers, *readers):
            thread.join(PATIENCE)
        assert got[near] == payload
        assert got[far] == payload
        (row,) = sessions(daemon)
        assert row["octets"] == {"outbound": size, "inbound": size}


def test_a_killed_session_resets_both_ends(house: Home, daemon: Daemon) -> None:
    with joined(house, house.caller, 80, 8080) as (near, far):
        until(lambda: sessions(daemon)[0]["state"] == "established")
        assert daemon.command("sessions", "kill", str(sessions(daemon)[0]["id"])).returncode == 0
        for end in (near, far):
            with pytest.raises(ConnectionResetError):
                end.recv(100)


def test_the_routers_own_program_keeps_the_port_at_its_other_address(house: Home, daemon: Daemon) -> None:
    with house.gateway.entered():
        sock = socket.create_server(("10.0.0.1", 80))
    with sock, connect(house.client, "10.0.0.1", 80):
        sock.settimeout(PATIENCE)
        sock.accept()[0].close()


def test_a_port_that_somebody_has_is_said_with_what_to_do(house: Home, daemon: Daemon) -> None:
    with house.gateway.entered():
        sock = socket.create_server(("0.0.0.0", 8443))
    with sock:
        config = daemon.directory / "vpnmasq.toml"
        old = config.read_text()
        config.write_text(
            f'{old}\n[[forward]]\nlisten = "tcp/8443"\nserver = "{SERVER}"\nallow = ["{PEER}"]\n'
        )
        done = daemon.command("reload")
        assert "tcp/8443 on eth1 is taken by another program" in done.stderr
        assert "ss -ltnp sport = :8443" in done.stderr
    assert daemon.command("reload").returncode == 0
    with listening(house.server, 8443) as at_server, connect(house.peer, PUBLIC, 8443):
        at_server.accept()[0].close()
    config.write_text(old)
    assert daemon.command("reload").returncode == 0
    with pytest.raises(ConnectionRefusedError):
        connect(house.peer, PUBLIC, 8443)


def test_status_shows_the_rules(house: Home, daemon: Daemon) -> None:
    rules = daemon.document("status")["rules"]
    assert [(rule["name"], rule["role"], rule["protocols"]) for rule in rules] == [
        ("web", "forward", ["tcp/80"]),
        ("mail", "forward", ["tcp/25"]),
        ("dns", "forward", ["udp/53"]),
        ("echo", "forward", ["udp/7"]),
        ("fwz", "forward", ["ip/94"]),
        ("gre", "forward", ["ip/47"]),
        ("esp", "forward", ["ip/50"]),
    ]


# -- UDP --------------------------------------------------------------------------------------------------


UDP_WAYS = [
    pytest.param("caller", 53, 5353, CALLER, id="source-kept"),
    pytest.param("caller", 7, 7, "10.0.0.1", id="source-ours"),
    pytest.param("client", 53, 5353, PUBLIC, id="neighbour"),
]


@pytest.mark.parametrize("size", [20, 1400, 4000])
@pytest.mark.parametrize(("who", "port", "server_port", "seen"), UDP_WAYS)
def test_datagrams_go_both_ways_on_every_lane_in_fragments_too(
    house: Home, daemon: Daemon, who: str, port: int, server_port: int, seen: str, size: int
) -> None:
    with udp(house.server, server_port) as server, udp(getattr(house, who)) as asker:
        for round_ in range(3):
            question = bytes([round_]) * size
            asker.sendto(question, (PUBLIC, port))
            heard, source = server.recvfrom(65536)
            assert (heard, source[0]) == (question, seen)
            server.sendto(question[::-1] + b"!", source)
            # Nothing has been called unreachable: the next send would fail with it.
            assert asker.recvfrom(65536) == (question[::-1] + b"!", (PUBLIC, port))
        (row,) = sessions(daemon)
        assert (row["protocol"], row["state"], row["listen"]) == ("udp", "established", f"udp/{port}")
        assert row["packets"] == {"outbound": 3, "inbound": 3}


def test_a_server_is_not_told_that_the_peers_it_answers_are_unreachable(house: Home, daemon: Daemon) -> None:
    with udp(house.server, 5353) as server, udp(house.caller) as asker:
        asker.sendto(b"question", (PUBLIC, 53))
        _, source = server.recvfrom(100)
        server.connect(source)  # a connected socket is told of ICMP errors
        for _ in range(3):
            server.send(b"answer")
            assert asker.recv(100) == b"answer"


def test_an_asker_is_told_that_the_server_does_not_listen(house: Home, daemon: Daemon) -> None:
    with udp(house.caller) as asker:
        asker.connect((PUBLIC, 53))
        asker.send(b"question")
        with pytest.raises(ConnectionRefusedError):
            asker.recv(100)


def test_what_else_the_server_sends_stays_the_kernels(house: Home, daemon: Daemon) -> None:
    """To a peer that the rule does not name; here nobody masquerades it, so it leaves as it is."""
    with udp(house.server, 7) as server:
        server.sendto(b"elsewhere", (PEER, 7))
    assert sessions(daemon) == []


def test_datagrams_of_strangers_are_counted(house: Home, daemon: Daemon) -> None:
    before = daemon.drops().get("no-rule", 0)
    with udp(house.peer) as asker:
        asker.sendto(b"question", (PUBLIC, 7))
    until(lambda: daemon.drops().get("no-rule", 0) > before)


# -- whole protocols ---------------------------------------------------------------------------------------

#: Version 0 with IPv4 inside (RFC 2784).
PLAIN_GRE = bytes.fromhex("00000800")
PROTOCOLS = [
    pytest.param(94, b"", id="fwz"),
    pytest.param(47, PLAIN_GRE, id="plain-gre"),
    pytest.param(50, bytes.fromhex("00001001 00000001"), id="esp"),
]


@pytest.mark.parametrize("size", [20, 3000])
@pytest.mark.parametrize(("protocol", "head"), PROTOCOLS)
def test_a_protocol_goes_both_ways_and_the_server_sees_the_peer(
    house: Home, daemon: Daemon, protocol: int, head: bytes, size: int
) -> None:
    caller, server = house.raw(house.caller, protocol), house.raw(house.server, protocol)
    for number in range(3):
        there, back = head + bytes([number]) * size, head + bytes([100 + number]) * size
        caller.sock.sendto(there, (PUBLIC, 0))
        assert data(server, protocol) == (CALLER, SERVER, there)
        server.sock.sendto(back, (CALLER, 0))
        assert data(caller, protocol) == (PUBLIC, CALLER, back)
    (row,) = sessions(daemon)
    assert (row["protocol"], row["state"], row["listen"]) == ("ip", "established", f"ip/{protocol}")
    assert row["packets"] == {"outbound": 3, "inbound": 3}
    assert "ports" not in row


@pytest.mark.skipif(bool(built()), reason=built())
@pytest.mark.parametrize(("protocol", "head"), PROTOCOLS)
def test_a_protocol_is_the_kernels_both_ways(house: Home, daemon: Daemon, protocol: int, head: bytes) -> None:
    caller, server = house.raw(house.caller, protocol), house.raw(house.server, protocol)

    def talk(number: int) -> None:
        there, back = head + bytes([number]) * 20, head + bytes([number]) * 30
        caller.sock.sendto(there, (PUBLIC, 0))
        assert data(server, protocol) == (CALLER, SERVER, there)
        server.sock.sendto(back, (CALLER, 0))
        assert data(caller, protocol) == (PUBLIC, CALLER, back)

    talk(0)
    until(functools.partial(carries, daemon, 2))
    before = read(daemon)
    for number in range(1, 51):
        talk(number)
    assert read(daemon) == before
    (row,) = sessions(daemon)
    assert (row["fastpath"], row["packets"]) == (True, {"outbound": 51, "inbound": 51})


@pytest.mark.skipif(bool(built()), reason=built())
def test_gre_of_pptps_kind_is_forwarded_until_a_rule_is_for_pptp(house: Home, daemon: Daemon) -> None:
    """The HOWTO's ipfwd --masq 47, by the kernel as well; and then there are calls, or nobody's it is."""
    caller, server = house.raw(house.caller), house.raw(house.server)
    numbers = iter(range(1000))

    def arrives() -> None:
        number = next(numbers)
        caller.send(CALLER, PUBLIC, 7, seq=number)
        assert EnhancedGre.from_bytes(server.receive()[20:]) == EnhancedGre(7, number, payload=b"data")

    def carried() -> None:
        arrives()
        until(functools.partial(carries, daemon, 1))
        before = read(daemon)
        for _ in range(10):
            arrives()
        assert read(daemon) == before

    carried()
    config = daemon.directory / "vpnmasq.toml"
    old = config.read_text()
    config.write_text(f'{old}\n[[masquerade]]\nclients = ["{CLIENT}"]\nservers = ["any"]\nproto = ["pptp"]\n')
    assert daemon.command("reload").returncode == 0
    assert carries(daemon, 1)
    before = daemon.drops().get("stranger", 0)
    for number in range(10):
        caller.send(CALLER, PUBLIC, 7, seq=number)
    until(lambda: daemon.drops().get("stranger", 0) == before + 10)
    assert server.nothing()
    config.write_text(old)
    assert daemon.command("reload").returncode == 0
    carried()


def test_a_neighbour_reaches_a_protocol_by_the_public_address(house: Home, daemon: Daemon) -> None:
    client, server = house.raw(house.client, 94), house.raw(house.server, 94)
    for _ in range(2):
        client.sock.sendto(b"there", (PUBLIC, 0))
        assert data(server, 94) == (PUBLIC, SERVER, b"there")
        server.sock.sendto(b"back", (PUBLIC, 0))
        assert data(client, 94) == (PUBLIC, CLIENT, b"back")


def test_rules_come_and_go_by_reload_and_another_program_has_a_udp_port(house: Home, daemon: Daemon) -> None:
    config = daemon.directory / "vpnmasq.toml"
    old = config.read_text()
    with house.gateway.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.bind(("0.0.0.0", 123))
        config.write_text(f'{old}\n[[forward]]\nlisten = "udp/123"\nserver = "{SERVER}"\nallow = ["any"]\n')
        done = daemon.command("reload")
        assert "udp/123 on eth" in done.stderr
        assert "ss -lunp sport = :123" in done.stderr
    assert daemon.command("reload").returncode == 0
    with udp(house.server, 123) as server, udp(house.peer) as asker:
        asker.sendto(b"question", (PUBLIC, 123))
        assert server.recv(100) == b"question"
    config.write_text(old)
    assert daemon.command("reload").returncode == 0
    assert not [one for one in sessions(daemon) if one["listen"] == "udp/123"]
    with udp(house.peer) as asker:
        asker.connect((PUBLIC, 123))
        asker.send(b"question")
        with pytest.raises(ConnectionRefusedError):
            asker.recv(100)
