"""Another process takes over while calls are up and data flows, and nobody inside or outside notices."""

import hashlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final, Self

import pytest

from protocols.pptp import messages
from relay.cli.exits import Exit
from relay.takeover.taking import TakeoverError, meet
from tests.bpf.kernel import built
from tests.system.carried import read
from tests.system.control import Tunnel
from tests.system.home import CALLER, CLIENT, PEER, PUBLIC, RULES, SERVER, Daemon, Home, until

pytestmark = pytest.mark.usefixtures("nothing_stays")

BOTH_WAYS: Final = [
    pytest.param("fastpath.mode=off", id="user-space"),
    pytest.param("fastpath.mode=require", id="kernel"),
]

_SO_RCVBUFFORCE: Final = 33
_ROOM: Final = 1 << 22

#: Seconds between packets of one direction.
_PACE: Final = 0.002

FORWARD: Final = f"""
[[forward]]
name = "web"
listen = "tcp/80"
server = "{SERVER}:8080"
allow = ["{CALLER}"]
"""


def start(house: Home, *options: str, rules: str = RULES, **how: Any) -> Daemon:
    return house.run(rules, *options, **how)


def another(house: Home, daemon: Daemon, *options: str, **how: Any) -> Daemon:
    """A process that takes over from this one, by the same file."""
    config = str(daemon.directory / "vpnmasq.toml")
    return house.start(daemon.directory, "-c", config, "--takeover", *options, **how)


def takeover(house: Home, daemon: Daemon, *options: str, **how: Any) -> Daemon:
    """The process that has taken over; the old one has left."""
    new = another(house, daemon, *options, **how)
    assert daemon.ends() == Exit.DONE, daemon.log()
    assert "another process has taken over" in daemon.log()
    return new


@pytest.fixture
def listening(house: Home) -> Iterator[socket.socket]:
    with house.listen(house.peer) as sock:
        yield sock


class Traffic:
    """Numbered packets both ways at a steady pace, for as long as this is entered."""

    def __init__(self, house: Home, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._client, self._peer = house.raw(house.client), house.raw(house.peer)
        for raw in (self._client, self._peer):
            # What a busy gateway has let wait comes all at once.
            raw.sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0
        #: By direction, the numbers that came, in their order.
        self.outbound: list[int] = []
        self.inbound: list[int] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for raw in (self._client, self._peer):
            raw.sock.close()
            raw.out.close()

    def _run(self) -> None:
        tunnel = self._tunnel
        for raw in (self._client, self._peer):
            raw.sock.settimeout(0)
        while not self._stop.wait(_PACE):
            self._client.send(CLIENT, PEER, tunnel.server_id, seq=self.sent)
            self._peer.send(PEER, PUBLIC, tunnel.client_id, seq=self.sent)
            self.sent += 1
            self._collect()
        end = time.monotonic() + 2
        while time.monotonic() < end and min(len(self.outbound), len(self.inbound)) < self.sent:
            self._collect()
            time.sleep(_PACE)

    def _collect(self) -> None:
        for raw, got in ((self._peer, self.outbound), (self._client, self.inbound)):
            while True:
                try:
                    packet = raw.sock.recv(65536)
                except BlockingIOError:
                    break
                got.append(int.from_bytes(packet[28:32]))

    def passes(self, packets: int) -> None:
        """Wait until so many more have been sent."""
        until(lambda before=self.sent: self.sent >= before + packets)  # type: ignore[misc]


def answers(tunnel: Tunnel) -> None:
    """Both ends hear each other's Echo-Requests and their answers."""
    for end, other in ((tunnel.client, tunnel.server), (tunnel.server, tunnel.client)):
        end.says(messages.EchoRequest(identifier=7))
        assert other.hears(messages.EchoRequest).identifier == 7
        other.says(messages.EchoReply(identifier=7, result=1))
        assert end.hears(messages.EchoReply).identifier == 7


def hangs_up(tunnel: Tunnel) -> None:
    """The client clears the call, and is told that it is over."""
    tunnel.client.says(messages.CallClearRequest(call_id=tunnel.own_client_id))
    assert tunnel.server.hears(messages.CallClearRequest).call_id == tunnel.client_id
    tunnel.server.says(messages.CallDisconnectNotify(call_id=tunnel.own_server_id, result=4))
    assert tunnel.client.hears(messages.CallDisconnectNotify).call_id == tunnel.server_id


def identity(daemon: Daemon) -> list[tuple[object, ...]]:
    """What tells that sessions are the same ones."""
    rows = daemon.document("sessions")["sessions"]
    return [(row["id"], row["call_ids"], row["state"], row["opened_at"]) for row in rows]


@pytest.mark.parametrize("fastpath", BOTH_WAYS)
def test_a_call_with_traffic_loses_nothing_by_two_takeovers(
    house: Home, listening: socket.socket, fastpath: str
) -> None:
    daemon = start(house, "--set", fastpath)
    tunnel = house.tunnel(house.client, PEER, listening)
    carried = 2 if fastpath.endswith("require") else 0
    until(lambda: daemon.document("status")["fastpath"]["flows"] == carried)
    before = identity(daemon)
    with Traffic(house, tunnel) as traffic:
        for _ in range(2):
            traffic.passes(50)
            daemon = takeover(house, daemon, "--set", fastpath)
            assert identity(daemon) == before
        traffic.passes(50)
    everything = list(range(traffic.sent))
    assert sorted(traffic.outbound) == sorted(traffic.inbound) == everything
    (session,) = daemon.document("sessions")["sessions"]
    assert session["packets"] == {"outbound": traffic.sent, "inbound": traffic.sent}
    assert daemon.document("status")["fastpath"]["flows"] == carried
    assert daemon.document("status")["attention"] == []
    answers(tunnel)
    hangs_up(tunnel)
    until(lambda: daemon.document("sessions")["sessions"][0]["call_ids"] == {})


@pytest.mark.skipif(bool(built()), reason=built())
def test_filters_that_outlive_their_process_change_hands_in_their_place(
    house: Home, listening: socket.socket, tmp_path: Path
) -> None:
    """As on kernels without TCX, where there must be no moment without them, and none may be left."""
    program = tmp_path / "clsact.py"
    program.write_text(_BY_CLSACT)
    how: Any = {"under": (sys.executable, str(program))}
    daemon = start(house, *REQUIRED, **how)
    tunnel = house.tunnel(house.client, PEER, listening)
    until(lambda: daemon.document("status")["fastpath"]["flows"] == 2)
    said = tmp_path / "said"
    with said.open("w") as out:
        house.gateway.start("tc", "monitor", stdout=out)
    with Traffic(house, tunnel) as traffic:
        for _ in range(2):
            traffic.passes(50)
            daemon = takeover(house, daemon, *REQUIRED, **how)
        until(lambda: daemon.document("status")["fastpath"]["flows"] == 2)
        before = read(daemon, "gre")
        traffic.passes(50)
    assert sorted(traffic.outbound) == sorted(traffic.inbound) == list(range(traffic.sent))
    assert read(daemon, "gre") == before
    until(lambda: said.read_text().count("direct-action") >= 4)
    assert "deleted" not in said.read_text()
    assert [filters(house, name).count("direct-action") for name in ("eth0", "eth1")] == [1, 1]
    assert daemon.stop() == 0
    assert [filters(house, name) for name in ("eth0", "eth1")] == ["", ""]
    until(lambda: said.read_text().count("deleted filter") == 2)


REQUIRED: Final = ("--set", "fastpath.mode=require")

_BY_CLSACT: Final = """
import sys
from functools import partial
from relay.fastpath import handover
handover.KernelFastPath = partial(handover.KernelFastPath, tcx=False)
from relay.cli import main
main(sys.argv[2:], prog_name="vpnmasq")
"""


def filters(house: Home, name: str) -> str:
    """What there is at an interface of the gateway."""
    show = f"tc qdisc show dev {name} clsact", f"tc filter show dev {name} ingress"
    return "".join(map(house.gateway.sh, show))


def test_a_message_of_which_half_has_come_is_finished_by_the_next_process(
    house: Home, listening: socket.socket
) -> None:
    daemon = start(house)
    client = house.dial(house.client, PEER)
    server = house.accept(listening)
    request = messages.StartRequest().to_bytes()
    client.says(request[:70])
    until(lambda: daemon.document("sessions")["sessions"] != [])
    time.sleep(0.1)  # for the half to be read
    takeover(house, daemon)
    client.says(request[70:])
    server.hears(messages.StartRequest)
    server.says(messages.StartReply(result=1))
    client.hears(messages.StartReply)


def test_a_connection_that_nobody_has_answered_yet_is_made_by_the_next_process(house: Home) -> None:
    daemon = start(house)
    # Whom the client dials does not answer until the new process is there.
    house.peer.run("nft", "-f", "-", stdin=_SILENT)
    client = house.dial(house.client, PEER)
    client.says(messages.StartRequest())
    until(lambda: [row["state"] for row in daemon.document("sessions")["sessions"]] == ["connecting"])
    takeover(house, daemon)
    with house.listen(house.peer) as listening:
        house.peer.sh("nft delete table ip silent")
        house.accept(listening).hears(messages.StartRequest)


_SILENT = "table ip silent { chain input { type filter hook input priority 0; tcp dport 1723 drop; }; }"


def test_a_forwarded_connection_with_much_to_carry_goes_on(house: Home) -> None:
    daemon = start(house, rules=FORWARD)
    octets = os.urandom(1 << 20) * 24
    with ExitStack() as stack:
        at_server = stack.enter_context(house.listen(house.server, 8080))
        near = stack.enter_context(closing(house.dial(house.caller, PUBLIC, 80).sock))
        far = stack.enter_context(closing(house.accept(at_server).sock))
        sender = threading.Thread(target=near.sendall, args=(octets,))
        sender.start()
        got = hashlib.sha256()
        count = 0
        # A receiver that stops for a while: so there is something in the pipe between the two.
        while count < len(octets) // 3:
            part = far.recv(65536)
            count += len(part)
            got.update(part)
        daemon = takeover(house, daemon)
        while count < len(octets):
            part = far.recv(65536)
            assert part
            count += len(part)
            got.update(part)
        sender.join()
        assert got.digest() == hashlib.sha256(octets).digest()
        (session,) = daemon.document("sessions")["sessions"]
        assert session["octets"]["inbound"] == len(octets)
        far.sendall(b"thanks")
        near.shutdown(socket.SHUT_WR)
        assert near.recv(100) == b"thanks"
        assert far.recv(100) == b""
    until(lambda: daemon.document("sessions")["sessions"] == [])


def test_rules_of_the_new_configuration_hold_and_sessions_they_do_not_allow_end(
    house: Home, listening: socket.socket
) -> None:
    daemon = start(house)
    tunnel = house.tunnel(house.client, PEER, listening)
    config = daemon.directory / "vpnmasq.toml"
    config.write_text(house.configuration(RULES.replace("10.0.0.0/24", "10.0.0.3/32"), daemon.directory))
    daemon = takeover(house, daemon)
    tunnel.client.hears(messages.StopRequest)
    assert tunnel.client.is_closed()
    assert daemon.document("sessions")["sessions"] == []


# -- when it fails ---------------------------------------------------------------------------------------


def works(house: Home, daemon: Daemon, tunnel: Tunnel) -> None:
    """The gateway serves, old calls and new ones, in user space and beside it."""
    with Traffic(house, tunnel) as traffic:
        traffic.passes(20)
    assert sorted(traffic.outbound) == sorted(traffic.inbound) == list(range(traffic.sent))
    answers(tunnel)
    assert daemon.command("health").returncode == 0
    with house.listen(house.server) as at_server:
        house.dial(house.caller, PUBLIC)
        house.accept(at_server)


def test_a_wrong_configuration_leaves_the_old_process_serving(house: Home, listening: socket.socket) -> None:
    daemon = start(house)
    tunnel = house.tunnel(house.client, PEER, listening)
    before = house.kernel()
    new = another(house, daemon, "--set", "wan.interfaze=eth1", wait=False)
    assert new.ends() == Exit.BAD_CONFIGURATION
    # And one that is only found out when the port turns out to be taken.
    with house.listen(house.gateway, 81):
        config = daemon.directory / "vpnmasq.toml"
        config.write_text(house.configuration(RULES + FORWARD.replace("tcp/80", "tcp/81"), daemon.directory))
        new = another(house, daemon, wait=False)
        assert new.ends() == Exit.FAILED
        assert "tcp/81 on eth1 is taken by another program" in new.log()
    until(lambda: "takeover failed" in daemon.log())
    assert house.kernel() == before
    works(house, daemon, tunnel)


@pytest.mark.parametrize("fastpath", BOTH_WAYS)
def test_a_new_process_that_dies_half_way_leaves_the_old_one_serving(
    house: Home, listening: socket.socket, fastpath: str
) -> None:
    daemon = start(house, "--set", fastpath)
    tunnel = house.tunnel(house.client, PEER, listening)
    with Traffic(house, tunnel) as traffic, closing(meet(daemon.socket, "vpnmasq")) as new:
        estate = new.estate()
        assert len(estate.streams) == 2
        for sock in (*estate.sockets.values(), *(part.sock for part in estate.streams)):
            sock.close()
        os.close(new.lock)
        os.close(new.name)
        # Meanwhile everything is as it was, but changes have to wait.
        traffic.passes(50)
        answer = daemon.command("reload")
        assert (answer.returncode, "taking over" in answer.stderr) == (Exit.FAILED, True)
        with pytest.raises(TakeoverError, match="taking over"):
            meet(daemon.socket, "vpnmasq")
        tunnel.client.says(messages.EchoRequest(identifier=9))
        new.close()
        assert tunnel.server.hears(messages.EchoRequest).identifier == 9
        traffic.passes(50)
    assert sorted(traffic.outbound) == sorted(traffic.inbound) == list(range(traffic.sent))
    assert daemon.command("reload").returncode == 0
    works(house, daemon, tunnel)


def test_who_cannot_take_over_is_told_why(house: Home) -> None:
    daemon = start(house)
    other = another(house, daemon, "--set", "name=other", wait=False)
    assert other.ends() == Exit.FAILED
    assert 'the running gateway is "vpnmasq", and the new one "other"' in other.log()
    daemon.stop()
    nobody = another(house, daemon, wait=False)
    assert nobody.ends() == Exit.FAILED
    assert "there is nothing to take over" in nobody.log()
    assert "start without --takeover" in nobody.log()
