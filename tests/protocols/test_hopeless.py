"""AH and FWZ encapsulation: counted always, explained where somebody inside is concerned."""

import pytest

from protocols import ipv4
from protocols.actions import Drop, Side
from protocols.addr import Ip4, parse_ip
from protocols.drops import Reason
from protocols.hopeless import Hopeless

CLIENT, PEER, STRANGER, WAN = (
    parse_ip(text) for text in ("10.0.0.2", "199.0.0.1", "199.0.0.66", "200.200.200.200")
)


def header(source: Ip4, target: Ip4, protocol: int) -> ipv4.Header:
    return ipv4.Header.from_bytes(ipv4.build(src=source, dst=target, protocol=protocol, payload=b""))


@pytest.mark.parametrize(("protocol", "reason", "advice"), [(51, Reason.AH, "ESP"), (94, Reason.FWZ, "IKE")])
def test_a_client_and_a_peer_that_is_known_are_named(protocol: int, reason: Reason, advice: str) -> None:
    seen = Hopeless(lambda peer: peer == PEER)
    assert seen.take(Side.LAN, header(CLIENT, PEER, protocol)) == Drop(reason, "10.0.0.2 to 199.0.0.1")
    assert seen.take(Side.WAN, header(PEER, WAN, protocol)) == Drop(reason, "199.0.0.1 to 200.200.200.200")
    (text,) = seen.texts()
    assert advice in text
    assert text.endswith("seen from 10.0.0.2 to 199.0.0.1, 199.0.0.1 to 200.200.200.200")


def test_a_stranger_is_only_counted() -> None:
    seen = Hopeless(lambda peer: peer == PEER)
    assert seen.take(Side.WAN, header(STRANGER, WAN, 51)) == Drop(Reason.AH)
    assert seen.texts() == []


def test_many_pairs_take_no_more_than_a_line() -> None:
    seen = Hopeless(lambda _: True)
    for number in range(100):
        seen.take(Side.WAN, header(Ip4(STRANGER + number), WAN, 51))
    (text,) = seen.texts()
    assert text.endswith("199.0.0.68 to 200.200.200.200 and 61 more")
