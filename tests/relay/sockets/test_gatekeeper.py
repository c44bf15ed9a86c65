"""A listener hears only whom the rules let in, and says why when the kernel takes no filter for it."""

import os
import socket

import pytest

from protocols.addr import Network, parse_ip
from relay.sockets.gatekeeper import Opening, admit, too_many

LOOPBACK = Network(parse_ip("127.0.0.1"), 0xFFFFFFFF)
ELSEWHERE = Network(parse_ip("192.0.2.1"), 0xFFFFFFFF)


@pytest.mark.skipif(os.geteuid() != 0, reason="recent kernels take filters of TCP from root only")
def test_who_is_not_let_in_is_not_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert admit(listening, [Opening(ELSEWHERE, LOOPBACK)])
        with pytest.raises(TimeoutError):
            socket.create_connection(listening.getsockname(), timeout=0.3)
        assert admit(listening, [Opening(LOOPBACK, LOOPBACK)])
        socket.create_connection(listening.getsockname(), timeout=5).close()


def test_more_openings_than_a_filter_holds_are_told_apart_from_a_lack_of_privilege() -> None:
    many = [Opening(Network(parse_ip("10.0.0.0") + host, 0xFFFFFFFF), LOOPBACK) for host in range(1000)]
    assert not too_many(many[:500])
    assert too_many(many)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert not admit(listening, many)
