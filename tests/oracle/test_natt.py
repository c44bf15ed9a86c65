"""What goes over UDP 500 and 4500, whole datagrams with payloads that mean something, against scapy's."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib import ikev2
from scapy.layers import isakmp
from scapy.layers.inet import IP, UDP
from scapy.layers.ipsec import ESP, NAT_KEEPALIVE, NON_ESP
from scapy.packet import Packet, Raw

from protocols import ipv4
from protocols.ike.header import LENGTH, IkeHeader
from protocols.ike.natt import EspInUdp, Keepalive, MarkedIke, decode
from protocols.udp import Datagram

cookies = st.integers(1, 2**64 - 1)
numbers = st.integers(0, 2**32 - 1)
nonces = st.binary(min_size=16, max_size=256)


def carried(content: Packet, port: int = 4500) -> bytes:
    """The payload of a datagram that scapy wrote, as our codecs find it."""
    packet = bytes(IP(src="10.0.0.2", dst="199.0.0.1") / UDP(sport=port, dport=port) / content)
    datagram = Datagram.from_packet(ipv4.Header.from_bytes(packet), packet)
    assert (datagram.source[1], datagram.target[1]) == (port, port)
    return bytes(datagram.payload)


@given(cookies, cookies, numbers, nonces)
def test_we_read_ikev2_with_payloads_as_scapy_writes_it(
    initiator: int, responder: int, number: int, nonce: bytes
) -> None:
    message = ikev2.IKEv2(
        init_SPI=initiator.to_bytes(8), resp_SPI=responder.to_bytes(8), exch_type=34, flags=0x28, id=number
    ) / ikev2.IKEv2_Nonce(nonce=nonce)
    wire = bytes(message)
    expected = IkeHeader(
        initiator, responder, 34, number, LENGTH + 4 + len(nonce), next_payload=40, flags=0x28
    )
    assert IkeHeader.from_bytes(carried(message, 500)) == expected
    assert decode(carried(NON_ESP() / Raw(wire))) == MarkedIke(expected)


@given(cookies, cookies, nonces)
def test_we_read_ikev1_with_payloads_as_scapy_writes_it(initiator: int, responder: int, nonce: bytes) -> None:
    message = isakmp.ISAKMP(
        init_cookie=initiator.to_bytes(8), resp_cookie=responder.to_bytes(8), exch_type=2
    ) / isakmp.ISAKMP_payload_Nonce(nonce=nonce)
    wire = bytes(message)
    expected = IkeHeader(initiator, responder, 2, 0, len(wire), version=1, next_payload=10)
    assert IkeHeader.from_bytes(carried(message, 500)) == expected
    assert decode(carried(NON_ESP() / Raw(wire))) == MarkedIke(expected)


@given(st.integers(1, 2**32 - 1), numbers, st.binary(max_size=64))
def test_we_read_esp_in_udp_as_scapy_writes_it(spi: int, sequence: int, data: bytes) -> None:
    assert decode(carried(ESP(spi=spi, seq=sequence, data=data))) == EspInUdp(spi, sequence)


def test_we_read_a_keepalive_as_scapy_writes_it() -> None:
    assert decode(carried(NAT_KEEPALIVE())) == Keepalive()


@given(st.integers(1, 2**32 - 1), numbers, cookies, cookies)
def test_scapy_tells_the_contents_apart_as_we_do(spi: int, sequence: int, one: int, other: int) -> None:
    header = IkeHeader(one, other, 37, 1, LENGTH)
    for content, layer in (
        (EspInUdp(spi, sequence), ESP),
        (MarkedIke(header), NON_ESP),
        (Keepalive(), NAT_KEEPALIVE),
    ):
        datagram = UDP(sport=4500, dport=4500) / Raw(content.to_bytes())
        assert isinstance(UDP(bytes(datagram)).payload, layer)
