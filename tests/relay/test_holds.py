"""Ports that stand for ports of inside hosts are held as long as a session uses them."""

import errno
import socket
from collections.abc import Iterator

import pytest

from protocols.actions import SessionChanged, SessionClosed, SessionOpened
from protocols.addr import parse_ip
from protocols.natt.mapping import NattSession
from protocols.sessions import Role, Session, State
from relay.holds import PortHolds
from relay.sockets import datagrams
from tests.netns import Namespace, network, requires_netns

pytestmark = [pytest.mark.netns, pytest.mark.skipif(bool(requires_netns()), reason=requires_netns())]

PORT = 61000


@pytest.fixture(scope="module")
def host() -> Iterator[Namespace]:
    with network() as net:
        yield net.namespace("host")


@pytest.fixture
def holds(host: Namespace) -> Iterator[PortHolds]:
    made = PortHolds()
    with host.entered():
        yield made
    made.close()


def session(port: int) -> NattSession:
    inside, gateway, peer = (parse_ip(a) for a in ("10.0.0.2", "200.200.200.200", "199.0.0.1"))
    parties = (Role.MASQUERADE, "staff", State.CONNECTING, inside, gateway, peer)
    return NattSession("n1", "natt", *parties, 0.0, 0.0, public_port=port)


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        try:
            other.bind(("0.0.0.0", port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def test_a_port_is_held_from_its_first_session_to_its_last(holds: PortHolds) -> None:
    one, two = session(PORT), session(PORT)
    for event in (SessionOpened(one), SessionChanged(one), SessionOpened(two), SessionClosed(one, "idle")):
        holds.follow(event)
        assert not is_free(PORT)
    holds.follow(SessionClosed(two, "idle"))
    assert is_free(PORT)
    assert len(holds) == 0


def test_the_port_of_another_program_stays_its_own(holds: PortHolds) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", PORT))
        holds.follow(SessionOpened(session(PORT)))
        assert len(holds) == 0
        holds.follow(SessionClosed(session(PORT), "idle"))


@pytest.mark.parametrize("port", datagrams.PORTS)
def test_ipsecs_own_ports_are_not_held_here(holds: PortHolds, port: int) -> None:
    holds.follow(SessionOpened(session(port)))
    assert len(holds) == 0


def test_sessions_of_other_protocols_hold_nothing(holds: PortHolds) -> None:
    a = parse_ip("10.0.0.2")
    holds.follow(SessionOpened(Session("p1", "pptp", Role.MASQUERADE, "r", State.CONTROL, a, a, a, 0.0, 0.0)))
    assert len(holds) == 0


def test_a_held_port_takes_nothing_in_and_sends_no_error(host: Namespace) -> None:
    with host.entered(), datagrams.hold(PORT) as held:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.connect(("127.0.0.1", PORT))
            for _ in range(3):  # an error of the first would be reported by the next
                other.send(b"hello")
        with pytest.raises(BlockingIOError):
            held.recv(1)
