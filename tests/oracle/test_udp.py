"""Our UDP, its checksum above all, against scapy's."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from protocols import ipv4
from protocols.addr import Ip4, show_ip
from protocols.udp import PROTOCOL, Datagram

endpoints = st.tuples(st.integers(0x01000000, 0xDFFFFFFF).map(Ip4), st.integers(0, 0xFFFF))
datagrams = st.builds(Datagram, endpoints, endpoints, st.binary(min_size=1, max_size=64))


def scapys(datagram: Datagram) -> bytes:
    (src, sport), (dst, dport) = datagram.source, datagram.target
    packet = IP(src=show_ip(src), dst=show_ip(dst), id=0) / UDP(sport=sport, dport=dport)
    return bytes(packet / Raw(datagram.payload))


@given(datagrams)
def test_scapy_writes_the_same_datagram(datagram: Datagram) -> None:
    assert scapys(datagram)[20:] == datagram.summed().to_bytes()


@given(datagrams, endpoints, endpoints)
def test_scapy_computes_what_we_translate(
    datagram: Datagram, source: tuple[Ip4, int], target: tuple[Ip4, int]
) -> None:
    packet = scapys(datagram)
    ours = Datagram.from_packet(ipv4.Header.from_bytes(packet), packet).between(source, target)
    theirs = scapys(Datagram(source, target, datagram.payload))
    assert ours.forwarded(ipv4.Header(0, 0, PROTOCOL, 0, ttl=65)).packet[20:] == theirs[20:]
