"""Malformed, misplaced, dripping and never-read control messages cost their sender, and nobody else."""

import struct
from collections.abc import Callable

import pytest

from protocols.actions import Connect
from protocols.drops import Reason
from protocols.events import StreamFailed
from protocols.policy import PptpTimers
from protocols.pptp import messages
from protocols.pptp.messages import LONGEST, Message
from protocols.sessions import State
from tests.scenarios.arrangements import ROUTER, Arrangement, in_every_arrangement, outgoing
from tests.scenarios.world import (
    CLIENT,
    CLIENT_2,
    PEER,
    STAFF,
    Line,
    World,
    assert_nothing_left,
    policy,
)

START, STARTED = messages.StartRequest(), messages.StartReply(result=1)
BAD_START = messages.StartReply(result=2, error=2)
STOP_PROTOCOL = messages.StopRequest(reason=2)
STOP = messages.StopRequest(reason=1)


def spoilt(message: Message, at: int, new: bytes) -> bytes:
    wire = message.to_bytes()
    return wire[:at] + new + wire[at + len(new) :]


ECHO = messages.EchoRequest(identifier=7)

#: What it is, the bytes, whether the culprit is answered (it cannot be when the stream is out of step),
#: and the reason.
MALFORMED: list[tuple[str, bytes, bool, Reason]] = [
    ("length 0", spoilt(ECHO, 0, b"\0\0"), False, Reason.PPTP_LENGTH),
    ("length too short for a header", spoilt(ECHO, 0, b"\0\x0b"), False, Reason.PPTP_LENGTH),
    ("length beyond the longest", struct.pack("!H", LONGEST + 1), False, Reason.PPTP_LENGTH),
    ("length of another message", spoilt(ECHO, 0, b"\0\x14") + b"\0\0\0\0", False, Reason.PPTP_LENGTH),
    ("management message", spoilt(ECHO, 2, b"\0\x02"), False, Reason.PPTP_TYPE),
    ("magic", spoilt(ECHO, 4, b"\x1a\x2b\x3c\x4e"), False, Reason.PPTP_MAGIC),
    ("not pptp at all", b"GET / HTTP/1.1\r\n\r\n", False, Reason.PPTP_LENGTH),
    ("control type 0", spoilt(ECHO, 8, b"\0\0"), True, Reason.PPTP_CONTROL_TYPE),
    ("control type 16", spoilt(ECHO, 8, b"\0\x10"), True, Reason.PPTP_CONTROL_TYPE),
    ("reserved0", spoilt(ECHO, 10, b"\0\x01"), True, Reason.PPTP_RESERVED),
    ("reserved1", spoilt(messages.StopReply(), 14, b"\0\x01"), True, Reason.PPTP_RESERVED),
    ("phone number length", messages.OutgoingCallRequest(phone_number_length=65).to_bytes(), True,
     Reason.PPTP_VALUE),
]  # fmt: skip
MALFORMED_CASES = [pytest.param(wire, answered, reason, id=n) for n, wire, answered, reason in MALFORMED]


@pytest.mark.parametrize("from_dialler", [True, False], ids=["from-the-dialler", "from-the-answerer"])
@pytest.mark.parametrize(("wire", "answered", "reason"), MALFORMED_CASES)
def test_a_malformed_message_closes_its_connection_and_no_other(
    wire: bytes, answered: bool, reason: Reason, from_dialler: bool
) -> None:
    world = World(policy(STAFF))
    other, other_server, shown, _ = world.tunnel(CLIENT_2, PEER, pac_id=7)
    call = outgoing(*ROUTER.connect(world))
    culprit, victim = (call.pns, call.pac) if from_dialler else (call.pac, call.pns)
    culprit.says(wire)

    assert culprit.hears() == ([STOP_PROTOCOL] if answered else [])
    assert victim.hears() == [STOP]
    assert (culprit.closed, victim.closed) == ("fin", "fin")
    (drop,) = world.drops
    assert drop.reason is reason
    assert ("10.0.0.2" if from_dialler else "199.0.0.1") in drop.detail
    assert world.closed[0].why.startswith(reason.value)
    assert world.gateway.drops[reason] == 1
    assert not call.flows()
    assert other.got(other_server.sends(shown), 1)
    other.hangs_up()
    assert_nothing_left(world)


@pytest.mark.parametrize(("wire", "answered", "reason"), MALFORMED_CASES)
def test_a_malformed_first_message_is_answered_as_a_start(
    wire: bytes, answered: bool, reason: Reason
) -> None:
    world = World(policy(STAFF))
    line = world.dial(CLIENT, PEER)
    line.says(wire)
    assert line.hears() == ([BAD_START] if answered else [])
    assert line.closed == "fin"
    assert [d.reason for d in world.drops] == [reason]
    assert_nothing_left(world)


def up(world: World) -> tuple[Line, Line]:
    return ROUTER.connect(world)


def starting(world: World) -> tuple[Line, Line]:
    client = world.dial(CLIENT, PEER)
    server = world.answer()
    client.says(START)
    server.hears()
    return client, server


def unasked(world: World) -> tuple[Line, Line]:
    return world.dial(CLIENT, PEER), world.answer()


#: When, who says what, what that one hears, what the other hears.
OUT_OF_TURN = [
    pytest.param(up, "dialler", START, [STOP_PROTOCOL], [STOP], id="second-start-request"),
    pytest.param(up, "answerer", START, [STOP_PROTOCOL], [STOP], id="start-request-from-the-answerer"),
    pytest.param(up, "dialler", STARTED, [STOP_PROTOCOL], [STOP], id="start-reply-from-the-dialler"),
    pytest.param(up, "answerer", STARTED, [STOP_PROTOCOL], [STOP], id="second-start-reply"),
    pytest.param(starting, "dialler", START, [BAD_START], [], id="start-request-twice"),
    pytest.param(starting, "answerer", START, [STOP_PROTOCOL], [], id="start-request-in-answer"),
    pytest.param(starting, "dialler", messages.OutgoingCallRequest(), [BAD_START], [], id="call-too-early"),
    pytest.param(starting, "answerer", messages.IncomingCallRequest(), [STOP_PROTOCOL], [], id="no-answer"),
    pytest.param(unasked, "answerer", STARTED, [STOP_PROTOCOL], [], id="start-reply-unasked"),
    pytest.param(unasked, "dialler", STARTED, [BAD_START], [], id="start-reply-for-a-request"),
]  # fmt: skip


@pytest.mark.parametrize(("situation", "who", "message", "culprit_hears", "other_hears"), OUT_OF_TURN)
def test_a_message_out_of_turn_closes_the_connection(
    situation: Callable[[World], tuple[Line, Line]],
    who: str,
    message: Message,
    culprit_hears: list[Message],
    other_hears: list[Message],
) -> None:
    world = World(policy(STAFF))
    dialler, answerer = situation(world)
    culprit, other = (dialler, answerer) if who == "dialler" else (answerer, dialler)
    culprit.says(message)
    assert culprit.hears() == culprit_hears
    assert other.hears() == other_hears
    assert [d.reason for d in world.drops] == [Reason.PPTP_STATE]
    assert (culprit.closed, other.closed) == ("fin", "fin")
    assert_nothing_left(world)


# -- cuts --------------------------------------------------------------------------------------------------

SPOKEN: list[Message] = [
    messages.OutgoingCallRequest(call_id=1, phone_number=b"123", phone_number_length=3),
    messages.EchoRequest(identifier=0x1A2B3C4D),
    messages.OutgoingCallRequest(call_id=2),
    messages.CallClearRequest(call_id=2),
    messages.StopRequest(),
]
STREAM = b"".join(m.to_bytes() for m in SPOKEN)


def said_in(pieces: list[bytes]) -> tuple[bytes, bytes, list[str]]:
    """What both ends have heard, and what has been logged, when the client's stream comes in these pieces."""
    client, server = ROUTER.connect()
    for piece in pieces:
        client.says(piece)
    return server.receives(), client.receives(), client.world.log


def test_a_stream_cut_at_any_byte_means_the_same() -> None:
    whole = said_in([STREAM])
    for at in range(1, len(STREAM)):
        assert said_in([STREAM[:at], STREAM[at:]]) == whole, at


@pytest.mark.parametrize("size", [1, 2, 3, 7, 12, 167, 168, 169])
def test_a_stream_in_pieces_of_any_size_means_the_same(size: int) -> None:
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert said_in(pieces) == said_in([STREAM])


def test_messages_before_a_malformed_one_count_and_those_after_do_not() -> None:
    client, server = ROUTER.connect()
    client.says(ECHO, MALFORMED[5][1], ECHO)
    assert server.hears() == [ECHO, STOP]
    assert client.closed == "fin"


def test_messages_after_one_that_ends_the_connection_do_not_count() -> None:
    client, server = ROUTER.connect()
    client.says(ECHO, START, ECHO)
    assert server.hears() == [ECHO, STOP]


# -- slow, silent, deaf ------------------------------------------------------------------------------------


@in_every_arrangement
def test_a_dialler_that_says_nothing_is_closed_in_time(arrangement: Arrangement) -> None:
    world = arrangement.world()
    line = arrangement.dial(world)
    server = world.answer()
    world.wait(29.9)
    assert len(world.sessions()) == 1
    world.wait(0.1)
    assert (line.closed, server.closed) == ("fin", "fin")
    assert world.drops[-1].reason is Reason.PPTP_SILENT
    assert world.drops[-1].detail.startswith(f"{'10.0.0.2' if line.host == CLIENT else '199.0.0.1'}: ")
    assert_nothing_left(world)


def test_an_answerer_that_says_nothing_is_named_as_the_silent_one() -> None:
    world = World(policy(STAFF))
    client = world.dial(CLIENT, PEER)
    client.says(START)
    world.wait(5.0)
    world.answer()
    world.wait(25.0)
    assert client.closed == "fin"
    assert world.drops[-1].detail.startswith("199.0.0.1: ")
    assert_nothing_left(world)


def test_a_dialler_that_says_nothing_while_the_far_end_is_sought_is_closed_in_time() -> None:
    world = World(policy(STAFF))
    client = world.dial(CLIENT, PEER)
    world.wait(30.0)
    assert client.closed == "fin"
    assert world.drops[-1].reason is Reason.PPTP_SILENT
    assert_nothing_left(world)


@pytest.mark.parametrize("who", ["dialler", "answerer"])
@pytest.mark.parametrize("pace", [60.0, 10.0, 1.0])
def test_one_byte_now_and_then_does_not_keep_a_connection(who: str, pace: float) -> None:
    client, server = ROUTER.connect()
    world = client.world
    drip, other = (client, server) if who == "dialler" else (server, client)
    began = world.now
    for byte in ECHO.to_bytes() * 20:
        if drip.closed is not None:
            break
        drip.says(bytes([byte]))
        if pace < 2:
            # A whole Echo-Request within 16 seconds is slow, and no offence.
            assert drip.closed is None
        world.wait(pace)
    if pace < 2:
        other.hears()
        return
    assert world.now - began <= 30.0 + pace
    assert (drip.closed, other.closed) == ("fin", "fin")
    assert world.drops[-1].reason is Reason.PPTP_SILENT
    assert other.hears() == [STOP]
    assert_nothing_left(world)


def test_a_message_that_is_finished_starts_the_clock_of_the_next_anew() -> None:
    client, _ = ROUTER.connect()
    wire = ECHO.to_bytes()
    client.says(wire[:5])
    for _ in range(4):
        client.world.wait(20.0)
        client.says(wire[5:] + wire[:5])
    assert client.closed is None
    client.world.wait(30.0)
    assert client.closed == "fin"


@pytest.mark.parametrize("phase", ["connecting", "starting", "closing"])
def test_a_drip_is_no_reason_to_wait_longer_in_any_phase(phase: str) -> None:
    world = World(policy(STAFF))
    client = world.dial(CLIENT, PEER)
    if phase != "connecting":
        world.answer()
    if phase == "closing":
        client.says(START)
        server = next(line for line in world.lines.values() if line is not client)
        server.says(STARTED)
        client.says(messages.StopRequest())
    for byte in START.to_bytes():
        if client.closed is not None:
            break
        client.says(bytes([byte]))
        world.wait(4.0)
    assert client.closed == "fin"
    assert_nothing_left(world)


def test_an_unfinished_message_is_noticed_before_the_handshake_is_overdue() -> None:
    world = World(policy(STAFF, pptp=PptpTimers(message=5.0)))
    client = world.dial(CLIENT, PEER)
    client.says(b"\0")
    world.wait(5.0)
    assert client.closed == "fin"
    assert world.drops[-1].detail == "10.0.0.2: a message was never finished"


@in_every_arrangement
@pytest.mark.parametrize("who", ["dialler", "answerer"])
def test_a_host_that_never_reads_is_closed(arrangement: Arrangement, who: str) -> None:
    call = outgoing(*arrangement.connect())
    deaf, other = (call.pns, call.pac) if who == "dialler" else (call.pac, call.pns)
    deaf.stalls()
    assert other.hears() == [STOP]
    assert (deaf.closed, other.closed) == ("fin", "fin")
    assert call.world.drops[-1].reason is Reason.PPTP_STALLED
    assert not call.flows()
    assert_nothing_left(call.world)


# -- before the far end is reached -------------------------------------------------------------------------


def test_what_is_said_early_is_held_and_then_passed_on_in_order() -> None:
    world = World(policy(STAFF))
    client = world.dial(CLIENT, PEER)
    client.says(START)
    client.says(ECHO, ECHO)
    server = world.answer()
    assert server.hears() == [START, ECHO, ECHO]
    assert client.hears() == []


def test_no_more_than_sixteen_messages_are_held() -> None:
    world = World(policy(STAFF))
    client = world.dial(CLIENT, PEER)
    client.says(START, *[ECHO] * 15)
    assert len(world.sessions()) == 1
    client.says(ECHO)
    assert client.closed == "fin"
    assert [d.reason for d in world.drops] == [Reason.PPTP_STATE]
    assert_nothing_left(world)


@in_every_arrangement
def test_a_far_end_that_refuses_refuses_the_dialler(arrangement: Arrangement) -> None:
    world = arrangement.world()
    line = arrangement.dial(world)
    line.says(START)
    world.refuse()
    assert line.hears() == []
    assert line.closed == "rst"
    assert world.drops[-1].reason is Reason.UNREACHABLE
    assert "connection refused" in world.closed[0].why
    assert_nothing_left(world)


def test_a_far_end_that_never_answers_is_given_up() -> None:
    world = World(policy(STAFF))
    client = world.dial(CLIENT, PEER)
    client.says(START)
    (session,) = world.sessions()
    assert session.state is State.CONNECTING
    world.wait(30.0)
    assert client.closed == "rst"
    assert world.drops[-1].reason is Reason.UNREACHABLE
    assert world.closed[0].why == "no connection to 199.0.0.1: no answer"
    assert_nothing_left(world)


@pytest.mark.parametrize("how", ["hangs_up", "resets"])
def test_a_dialler_that_leaves_early_stops_the_dialling(how: str) -> None:
    world = World(policy(STAFF))
    client = world.dial(CLIENT, PEER)
    (connect,) = world.dialled
    assert isinstance(connect, Connect)
    getattr(client, how)()
    assert world.event(StreamFailed(connect.stream, "too late")) == []
    assert_nothing_left(world)
