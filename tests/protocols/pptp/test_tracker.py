"""Every message in every phase from every leg has a defined outcome."""

import random
from dataclasses import dataclass, field

import pytest

from protocols.actions import Action, Connect, Drop, SessionClosed, Side, StreamClose, StreamWrite
from protocols.addr import Network, parse_ip
from protocols.admission import Addresses, Admission
from protocols.drops import Reason
from protocols.events import StreamAccepted, StreamConnected, StreamData, StreamEvent
from protocols.gre.flows import FlowTable
from protocols.policy import Masquerade, Policy
from protocols.pptp import messages
from protocols.pptp.connection import Phase
from protocols.pptp.messages import Message
from protocols.pptp.tracker import PptpTracker
from protocols.registry import SessionRegistry

WAN, CLIENT, PEER = parse_ip("200.200.200.200"), parse_ip("10.0.0.2"), parse_ip("199.0.0.1")
ANY = (Network.parse("any"),)
POLICY = Policy((Network.parse("10.0.0.0/8"),), (Masquerade("staff", ANY, ANY),))

DIALLED, ONWARD = 1, 2
PNS_ID, PAC_ID = 1, 100


@dataclass
class Bench:
    """A tracker with one connection."""

    flows: FlowTable = field(default_factory=FlowTable)
    now: float = 1000.0

    def __post_init__(self) -> None:
        chance = random.Random(1).randrange
        self.registry = SessionRegistry(POLICY.limits, chance)
        self.admission = Admission(POLICY, Addresses(WAN, frozenset({WAN})))
        self.tracker = PptpTracker(
            self.admission, self.registry, self.flows, random=chance, new_stream=lambda: ONWARD
        )

    def event(self, event: StreamEvent) -> list[Action]:
        return self.tracker.stream_event(event, now=self.now)

    def says(self, stream: int, *spoken: Message) -> list[Action]:
        return self.event(StreamData(stream, b"".join(m.to_bytes() for m in spoken)))

    @property
    def phase(self) -> Phase | None:
        """The connection's phase; None when it is gone."""
        return next((c.phase for c in self.tracker.connections()), None)

    @property
    def pns_shown(self) -> int:
        return next((c.pns.shown_id or 0 for c in self.tracker.connections()[0].calls), 999)


def bench(phase: Phase, *, call: bool = False) -> Bench:
    """A connection in a phase, with or without an outgoing call that stands (or stood, when closing)."""
    made = Bench()
    made.event(StreamAccepted(DIALLED, Side.LAN, PEER, CLIENT))
    if phase is Phase.CONNECTING:
        return made
    made.event(StreamConnected(ONWARD, WAN))
    if phase is Phase.STARTING:
        return made
    made.says(DIALLED, messages.StartRequest())
    made.says(ONWARD, messages.StartReply())
    if call:
        made.says(DIALLED, messages.OutgoingCallRequest(call_id=PNS_ID))
        made.says(ONWARD, messages.OutgoingCallReply(call_id=PAC_ID, peer_call_id=made.pns_shown))
    if phase is Phase.CLOSING:
        made.says(DIALLED, messages.StopRequest())
    assert made.phase is phase
    return made


def about(call_id: int, peer_call_id: int) -> list[Message]:
    """One message of each type; those about a call carry these IDs."""
    return [
        messages.StartRequest(),
        messages.StartReply(),
        messages.StopRequest(),
        messages.StopReply(),
        messages.EchoRequest(identifier=1),
        messages.EchoReply(identifier=1),
        messages.OutgoingCallRequest(call_id=call_id),
        messages.OutgoingCallReply(call_id=call_id, peer_call_id=peer_call_id),
        messages.IncomingCallRequest(call_id=call_id),
        messages.IncomingCallReply(call_id=call_id, peer_call_id=peer_call_id),
        messages.IncomingCallConnected(peer_call_id=peer_call_id),
        messages.CallClearRequest(call_id=call_id),
        messages.CallDisconnectNotify(call_id=call_id),
        messages.WanErrorNotify(peer_call_id=peer_call_id),
        messages.SetLinkInfo(peer_call_id=peer_call_id),
    ]


#: Outcomes: passed to the other leg, held for it, refused (the connection ends), answered by us (it goes
#: on or ends), ignored with a reason.
PASSED, HELD, FAILED, ANSWERED, DROPPED = "passed", "held", "failed", "answered", "dropped"

#: Per (phase, leg): the outcome of messages 1 to 15, about an unknown call where they are about one.
WALK = {
    (Phase.CONNECTING, DIALLED): [HELD, FAILED, ANSWERED, ANSWERED, HELD, HELD] + [FAILED] * 9,
    (Phase.STARTING, DIALLED): [PASSED, FAILED, PASSED, PASSED, PASSED, PASSED] + [FAILED] * 9,
    (Phase.STARTING, ONWARD): [FAILED, FAILED, PASSED, PASSED, PASSED, PASSED] + [FAILED] * 9,
    (Phase.UP, DIALLED): [FAILED] * 2 + [PASSED] * 4 + [PASSED, DROPPED, PASSED] + [DROPPED] * 6,
    (Phase.UP, ONWARD): [FAILED] * 2 + [PASSED] * 4 + [PASSED, DROPPED, PASSED] + [DROPPED] * 6,
    (Phase.CLOSING, DIALLED): [FAILED] * 2 + [PASSED] * 4 + [ANSWERED, DROPPED, ANSWERED] + [DROPPED] * 6,
    (Phase.CLOSING, ONWARD): [FAILED] * 2 + [PASSED] * 4 + [ANSWERED, DROPPED, ANSWERED] + [DROPPED] * 6,
}


def outcome(made: Bench, stream: int, actions: list[Action]) -> str:
    written = [a.stream for a in actions if isinstance(a, StreamWrite)]
    dropped = [a for a in actions if isinstance(a, Drop)]
    if made.phase is None and dropped:
        return FAILED
    if stream in written:
        return ANSWERED
    if written:
        return PASSED
    return DROPPED if dropped else HELD


@pytest.mark.parametrize(
    ("phase", "stream", "number"),
    [
        pytest.param(
            phase, stream, number, id=f"{phase.value}-{'onward' if stream > 1 else 'dialled'}-{number}"
        )
        for phase, stream in WALK
        for number in range(1, 16)
    ],
)
def test_a_message_in_a_phase_has_its_outcome(phase: Phase, stream: int, number: int) -> None:
    made = bench(phase)
    actions = made.says(stream, about(555, 556)[number - 1])
    assert outcome(made, stream, actions) == WALK[phase, stream][number - 1]


@pytest.mark.parametrize("phase", [Phase.UP, Phase.CLOSING])
@pytest.mark.parametrize("stream", [DIALLED, ONWARD])
@pytest.mark.parametrize("first", range(1, 16))
def test_any_two_messages_about_a_call_leave_all_in_order(phase: Phase, stream: int, first: int) -> None:
    """Whatever is said, closing leaves no flow, session, stream or deadline, and data flows only when up."""
    for second in range(1, 16):
        made = bench(phase, call=True)
        shown = made.pns_shown
        own, other = (PNS_ID, PAC_ID) if stream == DIALLED else (PAC_ID, shown)
        made.says(stream, about(own, other)[first - 1])
        made.says(stream, about(own, other)[second - 1])
        if made.phase is not Phase.UP:
            assert len(made.flows) == 0
        made.tracker.hang_up("over", now=made.now)
        assert len(made.flows) == 0
        assert len(made.registry) == 0
        assert not made.tracker.streams()
        assert made.tracker.connections() == []
        made.tracker.expire(now=made.now + 240.0)
        assert len(made.tracker.ids) == 0
        assert made.tracker.next_deadline() is None


def test_accepting_opens_a_session_and_dials_on() -> None:
    made = Bench()
    opened, connect = made.event(StreamAccepted(DIALLED, Side.LAN, PEER, CLIENT))
    assert opened.session is next(iter(made.registry))  # type: ignore[union-attr]
    assert connect == Connect(ONWARD, Side.WAN, WAN, PEER, 1723, transparent=False, caller=DIALLED)
    assert made.phase is Phase.CONNECTING
    assert made.tracker.next_deadline() == made.now + 30.0


def test_a_refusal_says_who_wanted_what() -> None:
    made = Bench()
    drop, close = made.event(StreamAccepted(9, Side.WAN, WAN, PEER))
    assert drop == Drop(Reason.NO_RULE, "199.0.0.1 to 200.200.200.200 tcp/1723 from the wan")
    assert close == StreamClose(9, abort=True)
    assert made.tracker.next_deadline() is None


def test_expiring_early_or_twice_does_no_harm() -> None:
    made = bench(Phase.UP, call=True)
    assert made.tracker.expire(now=made.now + 59.0) == []
    probes = made.tracker.expire(now=made.now + 60.0)
    assert len(probes) == 2
    assert made.tracker.expire(now=made.now + 60.0) == []
    ended = made.tracker.expire(now=made.now + 120.0)
    assert isinstance(ended[-1], SessionClosed)
    assert made.tracker.expire(now=made.now + 120.0) == []
