"""From request to ghost: what becomes of a call and its Call ID."""

import pytest

from protocols.drops import Reason
from protocols.policy import PptpTimers
from protocols.pptp import messages
from protocols.pptp.codes import GeneralError, OutgoingCallResult
from tests.scenarios.arrangements import (
    KEEP,
    ROUTER,
    Arrangement,
    in_every_arrangement,
    incoming,
    outgoing,
)
from tests.scenarios.world import CLIENT, CLIENT_2, PEER, STAFF, World, assert_nothing_left, policy

OCRQ = messages.OutgoingCallRequest(call_id=1)
ICRQ = messages.IncomingCallRequest(call_id=100)
NO_OUTGOING = messages.OutgoingCallReply(
    peer_call_id=1, result=OutgoingCallResult.GENERAL_ERROR, error=GeneralError.NO_RESOURCE
)
NO_INCOMING = messages.IncomingCallReply(peer_call_id=100, result=2, error=GeneralError.NO_RESOURCE)


def ids_in_use(world: World) -> int:
    return len(world.gateway._pptp.ids)


# -- the same thing said twice -----------------------------------------------------------------------------


@in_every_arrangement
def test_a_repeated_request_keeps_its_id(arrangement: Arrangement) -> None:
    pns, pac = arrangement.connect()
    pns.says(OCRQ)
    first = pac.hears()
    in_use = ids_in_use(pns.world)
    pns.says(OCRQ, OCRQ)
    assert pac.hears() == first * 2
    assert ids_in_use(pns.world) == in_use
    assert len(pns.world.gateway._flows) == 1


@in_every_arrangement
def test_a_repeated_reply_is_passed_on_and_changes_nothing(arrangement: Arrangement) -> None:
    call = outgoing(*arrangement.connect())
    in_use, log = ids_in_use(call.world), list(call.world.log)
    again = messages.OutgoingCallReply(call_id=100, peer_call_id=call.pns_shown)
    call.pac.says(again)
    assert call.pns.hears() == [messages.OutgoingCallReply(call_id=call.pac_shown, peer_call_id=1)]
    assert ids_in_use(call.world) == in_use
    assert call.world.log == log
    assert call.flows()


@in_every_arrangement
def test_repeated_messages_of_an_incoming_call_change_nothing(arrangement: Arrangement) -> None:
    call = incoming(*arrangement.connect())
    in_use, log = ids_in_use(call.world), list(call.world.log)
    call.pac.says(ICRQ)
    assert call.pns.hears() == [messages.IncomingCallRequest(call_id=call.pac_shown)]
    call.pns.says(messages.IncomingCallReply(call_id=1, peer_call_id=call.pac_shown))
    assert call.pac.hears() == [messages.IncomingCallReply(call_id=call.pns_shown, peer_call_id=100)]
    call.pac.says(messages.IncomingCallConnected(peer_call_id=call.pns_shown))
    assert call.pns.hears() == [messages.IncomingCallConnected(peer_call_id=1)]
    assert ids_in_use(call.world) == in_use
    assert call.world.log == log
    assert call.flows()


@in_every_arrangement
def test_a_reply_with_another_call_id_moves_the_flow(arrangement: Arrangement) -> None:
    call = outgoing(*arrangement.connect())
    call.pac.says(messages.OutgoingCallReply(call_id=177, peer_call_id=call.pns_shown))
    (reply,) = call.pns.hears()
    assert isinstance(reply, messages.OutgoingCallReply)
    assert call.pac.got(call.pns.sends(reply.call_id), 177)
    assert isinstance(call.pns.sends(call.pac_shown), Reason)
    call.pns.hangs_up()
    assert_nothing_left(call.world)


@in_every_arrangement
def test_an_incoming_reply_with_another_call_id_moves_the_flow(arrangement: Arrangement) -> None:
    call = incoming(*arrangement.connect())
    call.pns.says(messages.IncomingCallReply(call_id=77, peer_call_id=call.pac_shown))
    (reply,) = call.pac.hears()
    assert isinstance(reply, messages.IncomingCallReply)
    assert call.pns.got(call.pac.sends(reply.call_id), 77)
    assert isinstance(call.pac.sends(call.pns_shown), Reason)
    call.pns.hangs_up()
    assert_nothing_left(call.world)


def test_two_requests_at_once_get_replies_in_any_order() -> None:
    pns, pac = ROUTER.connect()
    pns.says(messages.OutgoingCallRequest(call_id=1), messages.OutgoingCallRequest(call_id=2))
    first, second = (m.call_id for m in pac.hears() if isinstance(m, messages.OutgoingCallRequest))
    assert first != second
    pac.says(
        messages.OutgoingCallReply(call_id=102, peer_call_id=second),
        messages.OutgoingCallReply(call_id=101, peer_call_id=first),
    )
    replies = [(m.peer_call_id, m.call_id) for m in pns.hears() if isinstance(m, messages.OutgoingCallReply)]
    assert replies == [(2, 102), (1, 101)]
    assert pns.got(pac.sends(first), 1)
    assert pns.got(pac.sends(second), 2)


def test_two_clients_request_at_once() -> None:
    world = World(policy(STAFF))
    lines = []
    for host in (CLIENT, CLIENT_2):
        client = world.dial(host, PEER)
        server = world.answer()
        world.start(client, server)
        lines.append((client, server))
    for client, _ in lines:
        client.says(OCRQ)
    shown = []
    for _, server in lines:
        (request,) = server.hears()
        assert isinstance(request, messages.OutgoingCallRequest)
        shown.append(request.call_id)
    for number, (_, server) in enumerate(lines):
        server.says(messages.OutgoingCallReply(call_id=100 + number, peer_call_id=shown[number]))
    for number, (client, server) in enumerate(lines):
        assert client.hears() == [messages.OutgoingCallReply(call_id=100 + number, peer_call_id=1)]
        assert client.got(server.sends(shown[number]), 1)


# -- data before the reply ---------------------------------------------------------------------------------


@in_every_arrangement
def test_the_pac_may_send_data_before_its_reply(arrangement: Arrangement) -> None:
    pns, pac = arrangement.connect()
    pns.says(OCRQ)
    (request,) = pac.hears()
    assert isinstance(request, messages.OutgoingCallRequest)
    assert pns.got(pac.sends(request.call_id), 1)
    assert isinstance(pns.sends(100), Reason)


@in_every_arrangement
def test_the_pns_may_send_data_before_its_reply_to_an_incoming_call(arrangement: Arrangement) -> None:
    pns, pac = arrangement.connect()
    pac.says(ICRQ)
    (request,) = pns.hears()
    assert isinstance(request, messages.IncomingCallRequest)
    assert pac.got(pns.sends(request.call_id), 100)


# -- messages about no call --------------------------------------------------------------------------------

ABOUT_NOTHING = [
    pytest.param(True, messages.OutgoingCallReply(call_id=5, peer_call_id=999), id="8"),
    pytest.param(False, messages.IncomingCallReply(call_id=5, peer_call_id=999), id="10"),
    pytest.param(True, messages.IncomingCallConnected(peer_call_id=999), id="11"),
    pytest.param(False, messages.CallClearRequest(call_id=999), id="12"),
    pytest.param(True, messages.CallDisconnectNotify(call_id=999), id="13"),
    pytest.param(True, messages.WanErrorNotify(peer_call_id=999), id="14"),
    pytest.param(False, messages.SetLinkInfo(peer_call_id=999), id="15"),
]


@in_every_arrangement
@pytest.mark.parametrize(("from_pac", "message"), ABOUT_NOTHING)
def test_a_message_about_an_unknown_call_goes_no_further_and_disturbs_nobody(
    arrangement: Arrangement, from_pac: bool, message: messages.Message
) -> None:
    call = outgoing(*arrangement.connect())
    speaker, listener = (call.pac, call.pns) if from_pac else (call.pns, call.pac)
    speaker.says(message)
    assert (speaker.receives(), listener.receives()) == (b"", b"")
    assert call.world.drops[-1].reason is Reason.PPTP_UNKNOWN_CALL
    assert call.flows()


def test_roles_hold_for_the_call_and_nobody_may_speak_for_the_other() -> None:
    """A PNS cannot disconnect, and a PAC cannot clear, the call of which it is the other end."""
    call = outgoing(*ROUTER.connect())
    call.pns.says(messages.CallDisconnectNotify(call_id=1))
    call.pac.says(messages.CallClearRequest(call_id=100))
    assert (call.pns.receives(), call.pac.receives()) == (b"", b"")
    assert call.flows()


def test_one_client_cannot_speak_for_the_other() -> None:
    world = World(policy(STAFF))
    client, server, *_ = world.tunnel(CLIENT, PEER)
    other, other_server, shown, _ = world.tunnel(CLIENT_2, PEER, pac_id=101)
    client.says(messages.CallClearRequest(call_id=shown))
    server.says(messages.CallDisconnectNotify(call_id=101))
    assert [d.reason for d in world.drops] == [Reason.PPTP_UNKNOWN_CALL] * 2
    assert other.got(other_server.sends(shown), 1)


# -- ghosts ------------------------------------------------------------------------------------------------


def test_the_id_of_an_ended_call_rests_for_four_minutes() -> None:
    world = World(policy(STAFF))
    client, server, shown, _ = world.tunnel(CLIENT, PEER)
    world.gateway._pptp.ids._random = lambda n: shown - 1
    client.hangs_up()
    world.wait(239.0)
    *_, second, _ = world.tunnel(CLIENT, PEER)
    assert second == shown + 1
    assert world.gre(server.side, PEER, server.correspondent, shown) is Reason.CALL_ENDED
    world.wait(2.0)
    assert world.gre(server.side, PEER, server.correspondent, shown) is Reason.UNKNOWN_CALL
    *_, third, _ = world.tunnel(CLIENT_2, PEER)
    assert third == shown


@in_every_arrangement
def test_late_data_of_an_ended_call_is_known_as_such(arrangement: Arrangement) -> None:
    call = outgoing(*arrangement.connect())
    session = call.world.sessions()[0]
    call.pns.hangs_up()
    late = (call.pac.sends(call.pns_shown), call.pns.sends(call.pac_shown))
    assert late == (
        Reason.CALL_ENDED if arrangement.dialler_hidden else Reason.STRANGER,
        Reason.CALL_ENDED if arrangement.answerer_hidden else Reason.STRANGER,
    )
    assert (session.outbound.packets, session.inbound.packets) == (0, 0)


def test_a_cleared_call_may_be_called_again_before_it_is_disconnected() -> None:
    call = outgoing(*ROUTER.connect())
    call.pns.says(messages.CallClearRequest(call_id=1))
    assert call.pac.hears() == [messages.CallClearRequest(call_id=call.pns_shown)]
    call.pns.says(OCRQ)
    (request,) = call.pac.hears()
    assert isinstance(request, messages.OutgoingCallRequest)
    assert request.call_id != call.pns_shown
    call.pac.says(messages.CallDisconnectNotify(call_id=100))
    call.pac.says(messages.OutgoingCallReply(call_id=101, peer_call_id=request.call_id))
    assert call.pns.hears() == [messages.OutgoingCallReply(call_id=101, peer_call_id=1)]
    assert call.pns.got(call.pac.sends(request.call_id), 1)


def test_a_cleared_incoming_call_may_be_called_again() -> None:
    call = incoming(*KEEP.connect())
    call.pns.says(messages.CallClearRequest(call_id=1))
    call.pac.receives()
    call.pac.says(ICRQ)
    (request,) = call.pns.hears()
    assert isinstance(request, messages.IncomingCallRequest)
    assert request.call_id != call.pac_shown
    assert call.pac.got(call.pns.sends(request.call_id), 100)


# -- nobody answers ----------------------------------------------------------------------------------------


@in_every_arrangement
def test_a_call_that_is_never_answered_is_given_up(arrangement: Arrangement) -> None:
    world = arrangement.world(pptp=PptpTimers(call_setup=40.0))
    pns, pac = arrangement.connect(world)
    pns.says(OCRQ)
    (request,) = pac.hears()
    assert isinstance(request, messages.OutgoingCallRequest)
    world.wait(39.9)
    assert pns.hears() == []
    world.wait(0.1)
    assert pns.hears() == [NO_OUTGOING]
    assert pac.hears() == [messages.CallClearRequest(call_id=request.call_id)]
    assert len(world.gateway._flows) == 0
    pac.says(messages.OutgoingCallReply(call_id=100, peer_call_id=request.call_id))
    assert world.drops[-1].reason is Reason.PPTP_UNKNOWN_CALL


@in_every_arrangement
def test_an_incoming_call_that_is_never_answered_is_given_up(arrangement: Arrangement) -> None:
    world = arrangement.world(pptp=PptpTimers(call_setup=40.0))
    pns, pac = arrangement.connect(world)
    pac.says(ICRQ)
    (request,) = pns.hears()
    assert isinstance(request, messages.IncomingCallRequest)
    world.wait(40.0)
    assert pac.hears() == [NO_INCOMING]
    assert pns.hears() == [messages.CallDisconnectNotify(call_id=request.call_id, result=3)]
    assert len(world.gateway._flows) == 0


def test_an_incoming_call_that_is_never_connected_is_given_up() -> None:
    world = ROUTER.world(pptp=PptpTimers(call_setup=40.0))
    pns, pac = ROUTER.connect(world)
    pac.says(ICRQ)
    pns.says(messages.IncomingCallReply(call_id=1, peer_call_id=100))
    pns.receives()
    (reply,) = pac.hears()
    assert isinstance(reply, messages.IncomingCallReply)
    world.wait(40.0)
    assert pac.hears() == [messages.CallClearRequest(call_id=reply.call_id)]
    assert pns.hears() == [messages.CallDisconnectNotify(call_id=100, result=3)]
    assert len(world.gateway._flows) == 0
