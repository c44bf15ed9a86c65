import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.drops import Reason
from protocols.pptp import messages
from protocols.pptp.framing import Framer
from protocols.pptp.messages import LONGEST, Message
from tests.protocols.pptp import strategies

ECHO = messages.EchoRequest(identifier=7).to_bytes()
CALL = messages.OutgoingCallRequest(call_id=1).to_bytes()
INCOMING = messages.IncomingCallRequest(call_id=2).to_bytes()

STREAMS = [
    pytest.param([], id="nothing"),
    pytest.param([ECHO], id="shortest"),
    pytest.param([INCOMING], id="longest"),
    pytest.param([ECHO, CALL, INCOMING, ECHO], id="several"),
]


@pytest.mark.parametrize("stream", STREAMS)
def test_messages_that_come_at_once_are_told_apart(stream: list[bytes]) -> None:
    framer = Framer()
    assert framer.feed(b"".join(stream)) == stream
    assert framer.pending == 0


@pytest.mark.parametrize("stream", STREAMS)
def test_messages_that_come_byte_by_byte_are_put_together(stream: list[bytes]) -> None:
    framer = Framer()
    got = [message for octet in b"".join(stream) for message in framer.feed(bytes([octet]))]
    assert got == stream
    assert framer.pending == 0


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("trailing", [1, 2, 4, 8, len(CALL) - 1])
def test_the_start_of_a_further_message_waits(stream: list[bytes], trailing: int) -> None:
    framer = Framer()
    assert framer.feed(b"".join(stream) + CALL[:trailing]) == stream
    assert framer.pending == trailing
    assert framer.feed(CALL[trailing:]) == [CALL]
    assert framer.pending == 0


def test_nothing_comes_of_nothing() -> None:
    framer = Framer()
    assert framer.feed(b"") == []
    assert framer.error is None


IMPOSSIBLE = [
    pytest.param("000f", Reason.PPTP_LENGTH, id="too-short"),
    pytest.param("0000", Reason.PPTP_LENGTH, id="zero"),
    pytest.param("00dd", Reason.PPTP_LENGTH, id="too-long"),
    pytest.param("4745", Reason.PPTP_LENGTH, id="http-get"),
    pytest.param("0010 0002", Reason.PPTP_TYPE, id="management"),
    pytest.param("0010 0101", Reason.PPTP_TYPE, id="type-257"),
    pytest.param("0010 0001 1a2b3c4c", Reason.PPTP_MAGIC, id="magic"),
    pytest.param("0010 0001 00000000", Reason.PPTP_MAGIC, id="no-magic"),
]


@pytest.mark.parametrize(("start", "reason"), IMPOSSIBLE)
def test_the_first_octets_that_make_it_impossible_end_it(start: str, reason: Reason) -> None:
    framer = Framer()
    wire = bytes.fromhex(start)
    assert framer.feed(wire[:-1]) == []
    assert fault(framer) is None
    assert framer.feed(wire[-1:]) == []
    assert fault(framer) is reason


@pytest.mark.parametrize(("start", "reason"), IMPOSSIBLE)
def test_messages_before_the_error_are_not_lost(start: str, reason: Reason) -> None:
    framer = Framer()
    assert framer.feed(ECHO + CALL + bytes.fromhex(start)) == [ECHO, CALL]
    assert fault(framer) is reason
    assert framer.pending == 0


def test_nothing_comes_out_after_an_error() -> None:
    framer = Framer()
    framer.feed(b"GET / HTTP/1.1\r\n")
    first = framer.error
    assert framer.feed(ECHO) == []
    assert framer.error is first
    assert framer.pending == 0


def fault(framer: Framer) -> Reason | None:
    return framer.error.reason if framer.error is not None else None


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    bounds = [0, *sorted(at), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(bounds)]


@given(st.lists(strategies.messages(), max_size=6), st.lists(st.integers(0, 1400), max_size=12))
def test_cuts_change_nothing(sent: list[Message], at: list[int]) -> None:
    framer = Framer()
    got = []
    for piece in cut(b"".join(message.to_bytes() for message in sent), at):
        got += framer.feed(piece)
        assert framer.pending < LONGEST
    assert [messages.decode(frame) for frame in got] == sent
    assert framer.error is None
    assert framer.pending == 0


@given(
    st.lists(st.sampled_from([ECHO, CALL]), max_size=3),
    st.binary(max_size=500),
    st.lists(st.integers(0, 800)),
)
def test_cuts_change_nothing_about_errors_either(good: list[bytes], garbage: bytes, at: list[int]) -> None:
    stream = b"".join(good) + garbage
    whole, pieces = Framer(), Framer()
    expected = whole.feed(stream)
    assert [frame for piece in cut(stream, at) for frame in pieces.feed(piece)] == expected
    assert expected[: len(good)] == good
    assert pieces.pending == whole.pending < LONGEST
    assert str(pieces.error) == str(whole.error)


# -- after a crash, which may have taken what was just being read -----------------------------------------


@pytest.mark.parametrize("lost", [*range(1, len(CALL), 13), len(CALL) - 1, len(CALL)])
def test_a_stream_whose_message_was_cut_off_is_in_step_with_the_next_one(lost: int) -> None:
    framer = Framer()
    framer.feed(CALL[:lost])
    framer.resynchronise()
    assert framer.pending == 0
    assert framer.feed(CALL[lost:] + ECHO + CALL) == [ECHO, CALL]
    assert framer.feed(CALL[:10]) == []
    assert framer.feed(CALL[10:]) == [CALL]


def test_the_next_message_is_found_byte_by_byte() -> None:
    framer = Framer()
    framer.resynchronise()
    rest = CALL[20:]
    assert [m for octet in rest + ECHO + ECHO for m in framer.feed(bytes([octet]))] == [ECHO, ECHO]


def test_a_magic_cookie_within_a_message_begins_none() -> None:
    framer = Framer()
    framer.resynchronise()
    rest = b"\0\0" + ECHO[4:8] + b"\0" * 30
    assert framer.feed(rest + ECHO) == [ECHO]


def test_a_stream_in_which_no_message_begins_is_given_up() -> None:
    framer = Framer()
    framer.resynchronise()
    errors = []
    for octets in (LONGEST, 20):
        assert framer.feed(bytes(octets)) == []
        errors.append(framer.error and framer.error.reason)
    assert errors == [None, Reason.PPTP_MAGIC]
    assert framer.feed(ECHO) == []


def test_a_message_that_begins_too_late_is_none() -> None:
    framer = Framer()
    framer.resynchronise()
    assert framer.feed(bytes(LONGEST + 1) + ECHO) == []
    assert framer.error is not None
