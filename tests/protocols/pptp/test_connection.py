"""Deadlines of a control connection are computed from its state."""

import pytest

from protocols.actions import Side
from protocols.addr import Ip4
from protocols.policy import PptpTimers
from protocols.pptp.call import Call, CallState, End
from protocols.pptp.connection import Connection, Phase
from protocols.pptp.leg import Leg
from protocols.sessions import Role, Session, State

TIMERS = PptpTimers(
    echo_after=60.0, echo_timeout=50.0, handshake=30.0, message=20.0, call_setup=40.0, closing=10.0
)
CLIENT, PEER, WAN = Ip4(1), Ip4(2), Ip4(3)


def connection(phase: Phase) -> Connection:
    """Since 100; last heard at 100."""
    dialled = Leg(1, Side.LAN, CLIENT, PEER, 100.0)
    onward = Leg(2, Side.WAN, PEER, WAN, 100.0)
    dialled.other, onward.other = onward, dialled
    session = Session("p1", "pptp", Role.MASQUERADE, "staff", State.CONTROL, CLIENT, WAN, PEER, 100.0, 100.0)
    return Connection(dialled, onward, session, "staff", 100.0, phase)


@pytest.mark.parametrize(
    ("phase", "deadline"),
    [
        pytest.param(Phase.CONNECTING, 130.0, id="handshake-while-connecting"),
        pytest.param(Phase.STARTING, 130.0, id="handshake-while-starting"),
        pytest.param(Phase.UP, 160.0, id="silence-while-up"),
        pytest.param(Phase.CLOSING, 110.0, id="the-end-while-closing"),
    ],
)
def test_each_phase_waits_for_its_own(phase: Phase, deadline: float) -> None:
    assert connection(phase).deadline(TIMERS) == deadline


@pytest.mark.parametrize(
    ("phase", "deadline"),
    [(Phase.CONNECTING, 125.0), (Phase.STARTING, 125.0), (Phase.UP, 125.0), (Phase.CLOSING, 110.0)],
)
def test_an_unfinished_message_is_waited_for(phase: Phase, deadline: float) -> None:
    waiting = connection(phase)
    waiting.onward.partial_since = 105.0
    assert waiting.deadline(TIMERS) == deadline


def test_the_quieter_leg_decides_and_an_echo_under_way_more_so() -> None:
    up = connection(Phase.UP)
    up.dialled.heard = 130.0
    assert up.deadline(TIMERS) == 160.0
    up.onward.heard = 140.0
    assert up.deadline(TIMERS) == 190.0
    up.onward.probe, up.onward.probed_at = 7, 120.0
    assert up.deadline(TIMERS) == 170.0


@pytest.mark.parametrize(
    ("state", "deadline"),
    [(CallState.REQUESTED, 145.0), (CallState.ESTABLISHED, None), (CallState.CLEARING, 115.0)],
    ids=lambda v: getattr(v, "value", None),
)
def test_a_call_is_waited_for_while_it_moves(state: CallState, deadline: float | None) -> None:
    up = connection(Phase.UP)
    call = Call(End(up.dialled), End(up.onward), up.session, 105.0, state)
    assert call.deadline(TIMERS) == deadline
    up.calls = [Call(End(up.dialled), End(up.onward), up.session, 199.0), call]
    assert up.deadline(TIMERS) == (deadline or 160.0)


def test_a_host_sees_real_call_ids_only_of_whom_it_sees() -> None:
    up = connection(Phase.UP)
    assert up.dialled.shows(up.onward)  # the client dialled the peer's own address
    assert not up.onward.shows(up.dialled)  # the peer sees the gateway
