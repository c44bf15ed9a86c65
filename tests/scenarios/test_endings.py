"""However a connection or a call ends, its data flows end with it and nothing is left behind."""

from collections.abc import Callable

import pytest

from protocols.actions import Side
from protocols.addr import Ip4
from protocols.admission import Addresses
from protocols.drops import Reason
from protocols.policy import PptpTimers
from protocols.pptp import messages
from protocols.sessions import State
from tests.scenarios.arrangements import (
    KEEP,
    ROUTER,
    Arrangement,
    Call,
    in_every_arrangement,
    incoming,
    outgoing,
)
from tests.scenarios.world import (
    LAN,
    PEER,
    SERVER,
    WAN,
    World,
    assert_nothing_left,
    expose,
    policy,
)

BYE = messages.StopRequest(reason=3)
NEW_WAN = Ip4(WAN + 1)


def other_address(call: Call) -> None:
    addresses = Addresses(NEW_WAN, frozenset({NEW_WAN, LAN}))
    call.world.perform(call.world.gateway.address_changed(addresses, now=call.world.now))


def no_address(call: Call) -> None:
    addresses = Addresses(None, frozenset({LAN}))
    call.world.perform(call.world.gateway.address_changed(addresses, now=call.world.now))


def forbidden(call: Call) -> None:
    call.world.perform(call.world.gateway.reload(policy(), now=call.world.now))


def killed(call: Call) -> None:
    ids = [session.id for session in call.world.sessions()]
    call.world.perform(call.world.gateway.kill([*ids, "p0000"], now=call.world.now))


def closed(call: Call) -> None:
    call.world.perform(call.world.gateway.close("the gateway stops", now=call.world.now))


#: What happens, and what each end hears and sees of its connection.
ENDINGS = [
    pytest.param(lambda c: c.pns.hangs_up(), [], "fin", id="fin-from-the-pns"),
    pytest.param(lambda c: c.pac.hangs_up(), [], "fin", id="fin-from-the-pac"),
    pytest.param(lambda c: c.pns.resets(), [], "rst", id="rst-from-the-pns"),
    pytest.param(lambda c: c.pac.resets(), [], "rst", id="rst-from-the-pac"),
    pytest.param(forbidden, [BYE], "fin", id="no-longer-allowed"),
    pytest.param(killed, [BYE], "fin", id="killed"),
    pytest.param(closed, [BYE], "fin", id="the-gateway-stops"),
]


@in_every_arrangement
@pytest.mark.parametrize("kind", [outgoing, incoming])
@pytest.mark.parametrize(("end", "heard", "seen"), ENDINGS)
def test_the_end_of_a_connection_ends_its_data(
    arrangement: Arrangement,
    kind: Callable[..., Call],
    end: Callable[[Call], object],
    heard: list[messages.Message],
    seen: str,
) -> None:
    call = kind(*arrangement.connect())
    assert call.flows()
    end(call)
    assert not call.flows()
    for line in (call.pns, call.pac):
        assert line.hears() == heard
        assert line.closed in (seen, "lost")
    (end_of_session,) = call.world.closed
    assert end_of_session.session.state is State.CLOSING
    assert end_of_session.why
    assert_nothing_left(call.world)


@in_every_arrangement
@pytest.mark.parametrize("kind", [outgoing, incoming])
@pytest.mark.parametrize("change", [other_address, no_address])
def test_a_lost_address_ends_the_connection_and_whoever_can_be_told_is(
    arrangement: Arrangement, kind: Callable[..., Call], change: Callable[[Call], None]
) -> None:
    call = kind(*arrangement.connect())
    change(call)
    assert not call.flows()
    for line in (call.pns, call.pac):
        # Nothing leaves from an address that is gone; a connection left to itself would linger.
        lost = line.side is Side.WAN
        assert line.hears() == ([] if lost else [BYE])
        assert line.closed == ("rst" if lost else "fin")
    (end,) = call.world.closed
    assert end.why.startswith("the public address")
    assert_nothing_left(call.world)


# -- Stop-Control ------------------------------------------------------------------------------------------


@in_every_arrangement
@pytest.mark.parametrize("dialler_stops", [True, False], ids=["dialler", "answerer"])
def test_stop_control_ends_the_data_at_once_and_the_connection_politely(
    arrangement: Arrangement, dialler_stops: bool
) -> None:
    call = outgoing(*arrangement.connect())
    further = outgoing(call.pns, call.pac, pns_id=2, pac_id=101)
    stopper, other = (call.pns, call.pac) if dialler_stops else (call.pac, call.pns)
    stopper.says(messages.StopRequest(reason=1))
    assert not call.flows()
    assert not further.flows()
    assert {s.state for s in call.world.sessions()} == {State.CLOSING}
    assert other.hears() == [messages.StopRequest(reason=1)]
    other.says(messages.StopReply())
    assert stopper.hears() == [messages.StopReply()]
    assert len(call.world.sessions()) == 2
    stopper.hangs_up()
    assert (stopper.closed, other.closed) == ("fin", "fin")
    assert_nothing_left(call.world)


def test_stop_control_that_nobody_follows_up_is_bounded_in_time() -> None:
    call = outgoing(*ROUTER.connect(ROUTER.world(pptp=PptpTimers(closing=10.0))))
    call.pns.says(messages.StopRequest())
    call.world.wait(5.0)
    call.pns.says(messages.StopRequest())  # saying it again does not put off the end
    call.world.wait(4.9)
    assert len(call.world.sessions()) == 1
    call.world.wait(0.1)
    assert (call.pns.closed, call.pac.closed) == ("fin", "fin")
    assert call.world.closed[0].why == "closing took too long"
    assert_nothing_left(call.world)


def test_looking_at_a_closing_connection_early_does_no_harm() -> None:
    call = outgoing(*ROUTER.connect())
    call.world.wait(55.0)
    call.pns.says(messages.StopRequest())
    call.world.wait(5.0)  # when the Echo would have been due
    assert len(call.world.sessions()) == 1
    call.world.wait(5.0)
    assert call.pns.closed == "fin"
    assert_nothing_left(call.world)


@pytest.mark.parametrize("kind", [outgoing, incoming])
def test_no_call_begins_on_a_connection_that_is_closing(kind: Callable[..., Call]) -> None:
    call = kind(*ROUTER.connect())
    call.pns.says(messages.StopRequest())
    call.pac.receives()
    call.pns.says(messages.OutgoingCallRequest(call_id=5))
    (no,) = call.pns.hears()
    assert isinstance(no, messages.OutgoingCallReply)
    assert (no.peer_call_id, no.result) == (5, 2)
    call.pac.says(messages.IncomingCallRequest(call_id=105))
    (sorry,) = call.pac.hears()
    assert isinstance(sorry, messages.IncomingCallReply)
    assert (sorry.peer_call_id, sorry.result) == (105, 2)
    # Nor does the old one come to life again.
    call.pns.says(messages.OutgoingCallRequest(call_id=1))
    call.pac.says(messages.IncomingCallRequest(call_id=100))
    assert len(call.world.gateway._flows) == 0
    assert call.world.drops[-1].reason is Reason.PPTP_STATE
    assert {s.state for s in call.world.sessions()} == {State.CLOSING}
    call.pns.hangs_up()
    assert_nothing_left(call.world)


@pytest.mark.parametrize("speaker", ["pns", "pac"])
def test_call_messages_on_a_closing_connection_do_no_harm(speaker: str) -> None:
    call = outgoing(*ROUTER.connect())
    further = outgoing(call.pns, call.pac, pns_id=2, pac_id=101)
    call.pns.says(messages.StopRequest())
    if speaker == "pns":
        call.pns.says(messages.CallClearRequest(call_id=1), messages.CallClearRequest(call_id=2))
    else:
        call.pac.says(messages.CallDisconnectNotify(call_id=100), messages.CallDisconnectNotify(call_id=101))
    assert not call.flows()
    assert not further.flows()
    call.pns.hangs_up()
    assert_nothing_left(call.world)


@in_every_arrangement
def test_stop_control_before_the_far_end_is_reached_is_answered_by_us(arrangement: Arrangement) -> None:
    world = arrangement.world()
    line = arrangement.dial(world)
    line.says(messages.StartRequest(), messages.StopRequest())
    assert line.hears() == [messages.StopReply()]
    assert line.closed == "fin"
    assert_nothing_left(world)


@in_every_arrangement
def test_a_refused_start_is_passed_on_and_closes(arrangement: Arrangement) -> None:
    world = arrangement.world()
    client = arrangement.dial(world)
    server = world.answer()
    client.says(messages.StartRequest(protocol_version=0x0200))
    server.hears()
    no = messages.StartReply(result=5)
    server.says(no)
    assert client.hears() == [no]
    assert world.sessions()[0].state is State.CLOSING
    world.wait(10.0)
    assert_nothing_left(world)


# -- one call ----------------------------------------------------------------------------------------------


@in_every_arrangement
@pytest.mark.parametrize("kind", [outgoing, incoming])
def test_clearing_a_call_stops_its_data_before_the_answer(
    arrangement: Arrangement, kind: Callable[..., Call]
) -> None:
    call = kind(*arrangement.connect())
    call.pns.says(messages.CallClearRequest(call_id=1))
    assert not call.flows()
    assert call.world.sessions()[0].state is State.CLOSING
    assert call.pac.hears() == [messages.CallClearRequest(call_id=call.pns_shown)]
    call.pac.says(messages.CallDisconnectNotify(call_id=100))
    assert call.pns.hears() == [messages.CallDisconnectNotify(call_id=call.pac_shown)]
    assert call.world.sessions()[0].state is State.CONTROL
    call.pac.hangs_up()
    assert_nothing_left(call.world)


def test_a_cleared_call_that_is_never_disconnected_is_forgotten() -> None:
    call = outgoing(*ROUTER.connect())
    call.pns.says(messages.CallClearRequest(call_id=1))
    call.pns.says(messages.CallClearRequest(call_id=1))
    assert call.pac.hears() == [messages.CallClearRequest(call_id=call.pns_shown)] * 2
    call.world.wait(10.0)
    assert call.world.sessions()[0].state is State.CONTROL
    call.pac.says(messages.CallDisconnectNotify(call_id=100))
    assert call.world.drops[-1].reason is Reason.PPTP_UNKNOWN_CALL
    assert outgoing(call.pns, call.pac).flows()


def test_a_request_can_be_taken_back_before_its_answer() -> None:
    pns, pac = ROUTER.connect()
    pns.says(messages.OutgoingCallRequest(call_id=1), messages.CallClearRequest(call_id=1))
    request, clear = pac.hears()
    assert isinstance(request, messages.OutgoingCallRequest)
    assert clear == messages.CallClearRequest(call_id=request.call_id)
    # The answer has crossed it; the PAC's ID is learnt from neither.
    pac.says(messages.OutgoingCallReply(call_id=100, peer_call_id=request.call_id))
    notify = messages.CallDisconnectNotify(call_id=100)
    pac.says(notify)
    assert pns.hears() == [notify]
    assert len(pns.world.gateway._flows) == 0
    pns.hangs_up()
    assert_nothing_left(pns.world)


def test_a_disconnect_notify_that_names_the_wrong_id_ends_the_one_call_that_is_being_cleared() -> None:
    call = outgoing(*ROUTER.connect())
    further = outgoing(call.pns, call.pac, pns_id=2, pac_id=101)
    wrong = messages.CallDisconnectNotify(call_id=call.pns_shown)
    call.pac.says(wrong)
    assert call.flows()
    call.pns.says(messages.CallClearRequest(call_id=1))
    call.pac.says(wrong)
    assert call.pns.hears() == [wrong]
    assert call.world.sessions()[0].state is State.CONTROL
    assert further.flows()
    call.pac.receives()
    again = outgoing(call.pns, call.pac, pns_id=3, pac_id=103)
    call.pns.says(messages.CallClearRequest(call_id=2), messages.CallClearRequest(call_id=3))
    call.pac.says(messages.CallDisconnectNotify(call_id=999))  # which of the two?
    assert call.pns.hears() == []
    assert not again.flows()


def test_an_incoming_call_can_be_taken_back_before_its_answer() -> None:
    pns, pac = KEEP.connect()
    pac.says(messages.IncomingCallRequest(call_id=100), messages.CallDisconnectNotify(call_id=100))
    request, notify = pns.hears()
    assert isinstance(request, messages.IncomingCallRequest)
    assert notify == messages.CallDisconnectNotify(call_id=request.call_id)
    pns.says(messages.IncomingCallReply(call_id=1, peer_call_id=request.call_id))
    assert pns.world.drops[-1].reason is Reason.PPTP_UNKNOWN_CALL
    pns.hangs_up()
    assert_nothing_left(pns.world)


# -- Echo --------------------------------------------------------------------------------------------------


@in_every_arrangement
def test_silence_is_answered_with_our_echo_and_the_answer_stays_with_us(arrangement: Arrangement) -> None:
    call = outgoing(*arrangement.connect())
    call.world.wait(59.9)
    assert (call.pns.hears(), call.pac.hears()) == ([], [])
    call.world.wait(0.1)
    probes = [(line, line.hears()[0]) for line in (call.pns, call.pac)]
    for line, probe in probes:
        assert isinstance(probe, messages.EchoRequest)
        line.says(messages.EchoReply(identifier=probe.identifier))
    call.world.wait(59.9)
    assert (call.pns.hears(), call.pac.hears()) == ([], [])
    call.world.wait(0.1)
    assert len(call.pns.hears()) == 1
    assert call.flows()


@in_every_arrangement
@pytest.mark.parametrize("silent", ["pns", "pac"])
def test_an_echo_without_answer_ends_the_connection(arrangement: Arrangement, silent: str) -> None:
    call = outgoing(*arrangement.connect())
    mute, alive = (call.pns, call.pac) if silent == "pns" else (call.pac, call.pns)
    call.world.wait(60.0)
    (probe,) = alive.hears()
    assert isinstance(probe, messages.EchoRequest)
    alive.says(messages.EchoReply(identifier=probe.identifier))
    call.world.wait(59.9)
    assert call.flows()
    call.world.wait(0.1)
    assert call.world.drops[-1].reason is Reason.PPTP_SILENT
    assert alive.hears()[-1] == messages.StopRequest(reason=1)
    assert (mute.closed, alive.closed) == ("fin", "fin")
    assert_nothing_left(call.world)


def test_echoes_of_the_ends_are_relayed_and_count_as_signs_of_life() -> None:
    call = outgoing(*ROUTER.connect())
    for number in range(10):
        call.world.wait(50.0)
        call.pns.says(messages.EchoRequest(identifier=number))
        assert call.pac.hears() == [messages.EchoRequest(identifier=number)]
        call.pac.says(messages.EchoReply(identifier=number))
        assert call.pns.hears() == [messages.EchoReply(identifier=number)]
    assert call.flows()


def test_data_is_no_sign_of_life_of_the_control_connection() -> None:
    call = outgoing(*ROUTER.connect())
    for _ in range(12):
        call.world.wait(9.9)
        assert call.flows()
    call.world.wait(2.0)
    assert not call.flows()
    assert_nothing_left(call.world)


def test_an_answer_to_somebody_elses_echo_is_not_taken_for_ours() -> None:
    call = outgoing(*ROUTER.connect())
    call.world.wait(60.0)
    (probe,) = call.pac.hears()
    assert isinstance(probe, messages.EchoRequest)
    stray = messages.EchoReply(identifier=probe.identifier ^ 1)
    call.pac.says(stray)
    assert call.pns.hears()[-1] == stray
    call.world.wait(60.0)
    assert call.pac.closed == "fin"


# -- events of the past ------------------------------------------------------------------------------------


def test_events_of_a_stream_that_is_gone_are_of_no_interest() -> None:
    call = outgoing(*ROUTER.connect())
    call.pns.hangs_up()
    assert call.pns.says(messages.StopRequest()) == []
    assert call.pac.hangs_up() == []
    assert call.pac.resets() == []


def test_what_follows_the_end_in_one_segment_is_not_looked_at() -> None:
    world = World(policy(expose(SERVER)))
    line = world.dial(PEER, WAN, side=Side.WAN)
    line.says(messages.StopRequest(), b"anything at all, such as nonsense")
    assert line.hears() == [messages.StopReply()]
    assert [d.reason for d in world.drops] == []
    assert_nothing_left(world)
