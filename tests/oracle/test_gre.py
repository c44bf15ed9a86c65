"""Our enhanced GRE against scapy's."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import GRE_PPTP
from scapy.packet import Raw

from protocols.gre.codec import EnhancedGre

numbers = st.none() | st.integers(0, 0xFFFFFFFF)
packets = st.builds(EnhancedGre, st.integers(0, 0xFFFF), numbers, numbers, st.binary(max_size=64))


@given(packets)
def test_scapy_writes_the_same_packet(packet: EnhancedGre) -> None:
    theirs = GRE_PPTP(
        seqnum_present=packet.seq is not None,
        acknum_present=packet.ack is not None,
        call_id=packet.call_id,
        sequence_number=packet.seq,
        ack_number=packet.ack,
    ) / Raw(packet.payload)
    assert bytes(theirs) == packet.to_bytes()


@given(packets)
def test_scapy_reads_what_we_wrote(packet: EnhancedGre) -> None:
    theirs = GRE_PPTP(packet.to_bytes())
    assert theirs.proto == 0x880B
    assert theirs.version == 1
    assert theirs.payload_len == len(packet.payload)
    assert theirs.call_id == packet.call_id
    assert theirs.sequence_number == packet.seq
    assert theirs.ack_number == packet.ack
    assert bytes(theirs.payload) == packet.payload
