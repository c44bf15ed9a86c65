"""The gateway's surface: what it counts, when it wants to be woken, what it makes of any bytes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.actions import Connect, Drop, Send, SessionOpened, Side
from protocols.addr import Network, parse_ip
from protocols.admission import Addresses
from protocols.drops import Reason
from protocols.events import StreamAccepted
from protocols.gateway import Gateway
from protocols.policy import Expose, Limits, Masquerade, Policy

WAN, CLIENT, SERVER, PEER = (parse_ip(a) for a in ("200.200.200.200", "10.0.0.2", "10.0.0.9", "199.0.0.1"))
ANY = (Network.parse("any"),)
POLICY = Policy(
    (Network.parse("10.0.0.0/8"),), (Masquerade("staff", ANY, ANY),), (Expose("office", SERVER, ANY),)
)


def gateway(policy: Policy = POLICY) -> Gateway:
    return Gateway(policy, Addresses(WAN, frozenset({WAN})), random=random.Random(1).randrange)


def test_streams_are_numbered_from_one_on() -> None:
    made = gateway()
    assert [made.new_stream() for _ in range(3)] == [1, 2, 3]


def test_an_idle_gateway_wants_nothing() -> None:
    made = gateway()
    assert made.next_deadline() is None
    assert made.expire(now=1000.0) == []
    assert list(made.sessions()) == []
    assert sum(made.drops.values()) == 0


def test_a_connection_takes_two_stream_numbers_and_a_deadline() -> None:
    made = gateway()
    stream = made.new_stream()
    opened, connect = made.stream_event(StreamAccepted(stream, Side.LAN, PEER, CLIENT), now=1000.0)
    assert isinstance(opened, SessionOpened)
    assert isinstance(connect, Connect)
    assert (stream, connect.stream) == (1, 2)
    assert made.next_deadline() == 1030.0
    assert made.registry.get(opened.session.id) is opened.session


def test_what_the_tracker_drops_is_counted() -> None:
    made = gateway(Policy())
    for _ in range(3):
        made.stream_event(StreamAccepted(made.new_stream(), Side.WAN, WAN, PEER), now=1000.0)
    assert made.drops[Reason.NO_RULE] == 3
    made = gateway()
    made.stream_event(StreamAccepted(made.new_stream(), Side.LAN, PEER, CLIENT), now=1000.0)
    made.expire(now=1030.0)
    assert made.drops[Reason.PPTP_SILENT] == 1


def test_a_limit_that_refuses_is_counted_for_its_rule() -> None:
    made = gateway(Policy(POLICY.lan_networks, POLICY.masquerade, POLICY.expose, limits=Limits(sessions=0)))
    made.stream_event(StreamAccepted(made.new_stream(), Side.LAN, PEER, CLIENT), now=1000.0)
    made.stream_event(StreamAccepted(made.new_stream(), Side.WAN, WAN, PEER), now=1000.0)
    assert (made.refused("staff"), made.refused("office"), made.refused("another")) == (1, 1, 0)


@given(data=st.binary(max_size=120), side=st.sampled_from(Side))
def test_any_bytes_are_refused_and_counted_once(data: bytes, side: Side) -> None:
    made = gateway()
    entry = made.from_lan if side is Side.LAN else made.from_wan
    verdict = entry(bytearray(data) + bytearray(20), len(data), now=1000.0)
    drops = verdict if isinstance(verdict, list) else [verdict]
    assert isinstance(drops[0], Drop)
    assert sum(made.drops.values()) == 1
    assert made.drops[drops[0].reason] == 1


HEADERS = st.builds(
    lambda first, total, fragment, ttl, protocol, rest: (
        bytes([first, 0]) + total.to_bytes(2) + b"\0\0" + fragment.to_bytes(2) + bytes([ttl, protocol]) + rest
    ),
    st.sampled_from([0x45, 0x46, 0x4F]),
    st.integers(0, 120),
    st.sampled_from([0, 0x4000, 0x2000, 1]),
    st.sampled_from([0, 1, 64]),
    st.sampled_from([1, 6, 17, 47, 50, 51, 94]),
    st.binary(min_size=10, max_size=110),
)


@given(packet=HEADERS, side=st.sampled_from(Side))
def test_bytes_that_look_like_packets_are_refused_without_an_exception(packet: bytes, side: Side) -> None:
    made = gateway()
    entry = made.from_lan if side is Side.LAN else made.from_wan
    verdict = entry(bytearray(packet), len(packet), now=1000.0)
    assert not isinstance(verdict, int)
    actions = verdict if isinstance(verdict, list) else [verdict]
    assert isinstance(actions[0], Drop)
    assert all(isinstance(action, Send) for action in actions[1:])


@pytest.mark.parametrize("session_ids", [[], ["p0000"], ["p0000", "p0001"]], ids=len)
def test_killing_what_is_not_there_does_nothing(session_ids: list[str]) -> None:
    assert gateway().kill(session_ids, now=1000.0) == []
