"""Our ICMP errors against scapy's."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, IPerror
from scapy.layers.l2 import GRE_PPTP
from scapy.packet import Raw

from protocols import icmp, ipv4
from protocols.addr import parse_ip

CLIENT = parse_ip("10.0.0.2")
PEER = parse_ip("199.0.0.1")


@given(st.integers(0, 255), st.binary(max_size=64))
def test_scapy_writes_the_same_unreachable(code: int, quote: bytes) -> None:
    theirs = bytes(ICMP(type=3, code=code, nexthopmtu=0) / Raw(quote))
    assert icmp.IcmpError(3, code, 0, quote).to_bytes() == theirs
    assert icmp.IcmpError.from_bytes(theirs) == icmp.IcmpError(3, code, 0, quote)


@given(st.integers(68, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=1500))
def test_scapy_reads_the_mtu_and_the_packet_quoted(mtu: int, call_id: int, payload: bytes) -> None:
    gre = GRE_PPTP(seqnum_present=1, sequence_number=1, call_id=call_id) / Raw(payload)
    packet = ipv4.build(src=CLIENT, dst=PEER, protocol=ipv4.GRE, payload=bytes(gre))
    error = icmp.fragmentation_needed(mtu, packet)
    whole = ipv4.build(src=PEER, dst=CLIENT, protocol=ipv4.ICMP, payload=error.to_bytes())
    theirs = IP(whole)[ICMP]
    assert (theirs.type, theirs.code, theirs.nexthopmtu) == (3, 4, mtu)
    assert (theirs[IPerror].src, theirs[IPerror].dst) == ("10.0.0.2", "199.0.0.1")
    assert theirs[IPerror].len == len(packet)
    assert theirs[GRE_PPTP].call_id == call_id


@given(st.binary(max_size=1500))
def test_scapy_computes_the_same_checksum(payload: bytes) -> None:
    packet = ipv4.build(src=CLIENT, dst=PEER, protocol=ipv4.GRE, payload=payload)
    ours = icmp.time_exceeded(packet).to_bytes()
    theirs = ICMP(ours)
    del theirs.chksum
    assert bytes(theirs) == ours
