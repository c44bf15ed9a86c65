"""Which two bytes of which message change (RFC 2637 §2.1-2.15), and that no others do.

A Call ID is translated wherever the address of its owner is: in the table below, ``owner`` is whose ID
stands at which offset of the message.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from protocols.pptp import messages
from protocols.pptp.messages import Message
from tests.scenarios.arrangements import ROUTER, Arrangement, in_every_arrangement, incoming, outgoing
from tests.scenarios.world import Line, assert_nothing_left

PNS_ID, PAC_ID = 1, 100


@dataclass
class Ends:
    """Both ends of a call in the making, with what each knows."""

    pns: Line
    pac: Line
    #: The other's Call ID, as learnt from the last message that held it.
    pac_as_known: int = 0
    pns_as_known: int = 0
    #: Per message: what was sent and what arrived.
    seen: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)


#: message: (who sends it, {owner: offset of the owner's Call ID}, the message as its sender knows the IDs)
ROWS: dict[str, tuple[str, dict[str, int], Callable[[Ends], Message]]] = {
    "7-outgoing-call-request": ("pns", {"pns": 12}, lambda e: messages.OutgoingCallRequest(
        call_id=PNS_ID, call_serial_number=0x0101, phone_number_length=3, phone_number=b"123",
        subaddress=b"x")),
    "8-outgoing-call-reply": ("pac", {"pac": 12, "pns": 14}, lambda e: messages.OutgoingCallReply(
        call_id=PAC_ID, peer_call_id=e.pns_as_known, result=1, cause_code=0x0164)),
    "9-incoming-call-request": ("pac", {"pac": 12}, lambda e: messages.IncomingCallRequest(
        call_id=PAC_ID, call_serial_number=0x6401, dialed_number_length=2, dialed_number=b"99")),
    "10-incoming-call-reply": ("pns", {"pns": 12, "pac": 14}, lambda e: messages.IncomingCallReply(
        call_id=PNS_ID, peer_call_id=e.pac_as_known, result=1, receive_window=PAC_ID)),
    "11-incoming-call-connected": ("pac", {"pns": 12}, lambda e: messages.IncomingCallConnected(
        peer_call_id=e.pns_as_known, receive_window=1, framing_type=2)),
    "12-call-clear-request": ("pns", {"pns": 12}, lambda e: messages.CallClearRequest(call_id=PNS_ID)),
    "13-call-disconnect-notify": ("pac", {"pac": 12}, lambda e: messages.CallDisconnectNotify(
        call_id=PAC_ID, result=4, cause_code=1, call_statistics=b"statistics")),
    "14-wan-error-notify": ("pac", {"pns": 12}, lambda e: messages.WanErrorNotify(
        peer_call_id=e.pns_as_known, crc_errors=1, alignment_errors=100)),
    "15-set-link-info": ("pns", {"pac": 12}, lambda e: messages.SetLinkInfo(
        peer_call_id=e.pac_as_known, send_accm=0x00010064)),
}  # fmt: skip

OUTGOING = ("7-outgoing-call-request", "8-outgoing-call-reply")
INCOMING = ("9-incoming-call-request", "10-incoming-call-reply", "11-incoming-call-connected")
LATER = ("14-wan-error-notify", "15-set-link-info", "12-call-clear-request", "13-call-disconnect-notify")


def play(ends: Ends, name: str) -> None:
    """Send one message of the table, and note what arrived."""
    sender_role, _, make = ROWS[name]
    sender, receiver = (ends.pns, ends.pac) if sender_role == "pns" else (ends.pac, ends.pns)
    before = make(ends).to_bytes()
    sender.says(before)
    after = receiver.receives()
    assert sender.receives() == b""
    ends.seen[name] = (before, after)
    word = int.from_bytes(after[12:14])
    if name.startswith(("7", "10")):
        ends.pns_as_known = word
    elif name.startswith(("8", "9")):
        ends.pac_as_known = word


def changed(before: bytes, after: bytes) -> set[int]:
    """Offsets of the 16-bit words that differ."""
    assert len(before) == len(after)
    return {at & ~1 for at in range(len(before)) if before[at] != after[at]}


@in_every_arrangement
@pytest.mark.parametrize("pns_dials", [True, False], ids=["pns-dials", "pac-dials"])
@pytest.mark.parametrize("beginning", [OUTGOING, INCOMING], ids=["outgoing", "incoming"])
def test_only_the_ids_of_hidden_hosts_change(
    arrangement: Arrangement, pns_dials: bool, beginning: tuple[str, ...]
) -> None:
    dialler, answerer = arrangement.connect()
    pns, pac = (dialler, answerer) if pns_dials else (answerer, dialler)
    hidden = {
        "pns": arrangement.dialler_hidden if pns_dials else arrangement.answerer_hidden,
        "pac": arrangement.answerer_hidden if pns_dials else arrangement.dialler_hidden,
    }
    ends = Ends(pns, pac)
    for name in (*beginning, *LATER):
        play(ends, name)

    real = {"pns": PNS_ID, "pac": PAC_ID}
    known = {"pns": ends.pns_as_known, "pac": ends.pac_as_known}
    for name, (before, after) in ends.seen.items():
        sender, owners, _ = ROWS[name]
        assert changed(before, after) == {at for owner, at in owners.items() if hidden[owner]}, name
        for owner, at in owners.items():
            ours = known[owner] if owner == sender else real[owner]
            assert int.from_bytes(after[at : at + 2]) == ours, name

    assert ends.pns.sends(ends.pac_as_known) != b""
    dialler.hangs_up()
    assert_nothing_left(dialler.world)


UNTOUCHED = [
    pytest.param(messages.EchoRequest(identifier=0x00010064), id="5-echo-request"),
    pytest.param(messages.EchoReply(identifier=0x00010064, result=1), id="6-echo-reply"),
    pytest.param(messages.StopReply(result=1), id="4-stop-reply"),
    pytest.param(messages.StopRequest(reason=3), id="3-stop-request"),
]


@in_every_arrangement
@pytest.mark.parametrize("dialler_speaks", [True, False], ids=["from-the-dialler", "from-the-answerer"])
@pytest.mark.parametrize("message", UNTOUCHED)
def test_messages_without_ids_pass_as_they_are(
    arrangement: Arrangement, dialler_speaks: bool, message: Message
) -> None:
    dialler, answerer = arrangement.connect()
    outgoing(dialler, answerer, pns_id=1, pac_id=100)
    speaker, listener = (dialler, answerer) if dialler_speaks else (answerer, dialler)
    speaker.says(message)
    assert listener.receives() == message.to_bytes()
    assert speaker.receives() == b""


@in_every_arrangement
def test_the_start_of_a_connection_passes_as_it_is(arrangement: Arrangement) -> None:
    world = arrangement.world()
    dialler = arrangement.dial(world)
    request = messages.StartRequest(host_name=b"client", maximum_channels=100, firmware_revision=1)
    reply = messages.StartReply(host_name=b"server", vendor_string=b"\x01\x00\x64")
    dialler.says(request)
    answerer = world.answer()
    assert answerer.receives() == request.to_bytes()
    answerer.says(reply)
    assert dialler.receives() == reply.to_bytes()


@in_every_arrangement
def test_a_disconnect_notify_ends_the_call(arrangement: Arrangement) -> None:
    call = outgoing(*arrangement.connect())
    assert call.flows()
    call.pac.says(messages.CallDisconnectNotify(call_id=100, result=1))
    assert call.pns.hears() == [messages.CallDisconnectNotify(call_id=call.pac_shown, result=1)]
    assert not call.flows()
    (session,) = call.world.sessions()
    assert session.state.value == "control"
    assert session.call_ids == {}


@in_every_arrangement
def test_several_calls_share_a_control_connection_with_mixed_roles(arrangement: Arrangement) -> None:
    dialler, answerer = arrangement.connect()
    calls = [
        outgoing(dialler, answerer, pns_id=1, pac_id=100),
        outgoing(dialler, answerer, pns_id=2, pac_id=101),
        incoming(dialler, answerer, pns_id=3, pac_id=102),
        outgoing(answerer, dialler, pns_id=200, pac_id=50),
        incoming(answerer, dialler, pns_id=201, pac_id=51),
    ]
    assert all(call.flows() for call in calls)
    world = dialler.world
    assert len(world.sessions()) == 5
    assert {s.state.value for s in world.sessions()} == {"established"}

    calls[1].pac.says(messages.CallDisconnectNotify(call_id=calls[1].pac_id))
    calls[3].pac.says(messages.CallDisconnectNotify(call_id=calls[3].pac_id))
    assert [call.flows() for call in calls] == [True, False, True, False, True]
    assert len(world.sessions()) == 3

    dialler.hangs_up()
    assert [call.flows() for call in calls] == [False] * 5
    assert len(world.closed) == 5
    assert_nothing_left(world)


def test_the_first_session_stays_with_the_connection_when_its_call_ends_first() -> None:
    dialler, answerer = ROUTER.connect()
    first = outgoing(dialler, answerer, pns_id=1, pac_id=100)
    second = outgoing(dialler, answerer, pns_id=2, pac_id=101)
    world = dialler.world
    owner, further = world.sessions()
    first.pac.says(messages.CallDisconnectNotify(call_id=100))
    assert first.pns.hears() == [messages.CallDisconnectNotify(call_id=100)]
    assert (owner.state.value, further.state.value) == ("control", "established")
    third = outgoing(dialler, answerer, pns_id=3, pac_id=102)
    assert world.sessions() == [owner, further]
    assert owner.call_ids["client"] == 3
    assert second.flows()
    assert third.flows()
    second.pac.says(messages.CallDisconnectNotify(call_id=101))
    assert world.sessions() == [owner]
    assert world.drops == []
