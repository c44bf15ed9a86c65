"""recvmmsg and sendmmsg through ctypes: nothing lost, nothing mixed up, refusals reported one by one."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols.addr import parse_ip
from relay.sockets.burst import LARGEST, Inbox, Outbox

LOOPBACK = parse_ip("127.0.0.1")
UNUSED_PROTOCOL = 253  # RFC 3692: for experiments

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets need root")


def resident() -> int:
    """Octets of memory that this process takes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0)
        sender.connect(receiver.getsockname())
        yield receiver, sender


@pytest.fixture
def raw() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, UNUSED_PROTOCOL) as sock:
        sock.settimeout(5)
        yield sock


def test_packets_come_in_order_each_in_its_slot(pair: tuple[socket.socket, socket.socket]) -> None:
    receiver, sender = pair
    inbox = Inbox(receiver, 4)
    for number in range(6):
        sender.send(bytes([number]) * (number + 1))
    assert inbox.receive() == 4
    assert [bytes(inbox.buffers[slot][: inbox.lengths[slot]]) for slot in range(4)] == [
        bytes([number]) * (number + 1) for number in range(4)
    ]
    assert inbox.receive() == 2
    assert [inbox.lengths[slot] for slot in range(2)] == [5, 6]


def test_where_no_packet_came_there_is_no_memory_taken(pair: tuple[socket.socket, socket.socket]) -> None:
    before = resident()
    inbox = Inbox(pair[0], 64)
    assert resident() - before < 64 * LARGEST // 4
    assert not any(map(any, inbox.buffers))


def test_nothing_there_is_said_and_does_not_block(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(BlockingIOError):
        Inbox(pair[0], 4).receive()


def test_the_largest_packet_fits(pair: tuple[socket.socket, socket.socket]) -> None:
    receiver, sender = pair
    inbox = Inbox(receiver, 1)
    sender.send(bytes(65507))
    assert inbox.receive() == 1
    assert inbox.lengths[0] == 65507


def test_what_was_received_is_sent_from_where_it_lies(
    pair: tuple[socket.socket, socket.socket], raw: socket.socket
) -> None:
    receiver, sender = pair
    inbox, outbox = Inbox(receiver, 4), Outbox(raw, 4)
    for word in (b"one", b"skipped", b"three"):
        sender.send(word)
    assert inbox.receive() == 3
    for slot in (0, 2):
        outbox.add(inbox.addresses[slot], inbox.lengths[slot], LOOPBACK)
    outbox.flush(_nothing_refused)
    assert [raw.recv(100)[20:] for _ in range(2)] == [b"one", b"three"]
    outbox.flush(_nothing_refused)  # an empty one sends nothing twice


def test_a_refused_packet_is_reported_and_the_others_go(
    pair: tuple[socket.socket, socket.socket], raw: socket.socket
) -> None:
    receiver, sender = pair
    inbox, outbox = Inbox(receiver, 4), Outbox(raw, 4)
    broadcast = parse_ip("255.255.255.255")  # refused: the socket has no SO_BROADCAST
    for word in (b"one", b"two", b"three", b"four"):
        sender.send(word)
    assert inbox.receive() == 4
    for slot, destination in enumerate((broadcast, LOOPBACK, broadcast, LOOPBACK)):
        outbox.add(inbox.addresses[slot], inbox.lengths[slot], destination)
    refused: list[tuple[int, int]] = []
    outbox.flush(lambda number, code: refused.append((number, code)))
    assert refused == [(0, errno.EACCES), (2, errno.EACCES)]
    assert [outbox.destination(number) for number, _ in refused] == [broadcast, broadcast]
    assert [raw.recv(100)[20:] for _ in range(2)] == [b"two", b"four"]


def _nothing_refused(number: int, code: int) -> None:
    raise AssertionError(f"message {number} was refused: {os.strerror(code)}")
