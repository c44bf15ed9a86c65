"""Our ESP against scapy's."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.ipsec import ESP

from protocols.esp.codec import Esp

packets = st.builds(Esp, st.integers(1, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.binary(max_size=64))


@given(packets)
def test_scapy_writes_the_same_packet(packet: Esp) -> None:
    theirs = ESP(spi=packet.spi, seq=packet.sequence, data=packet.payload)
    assert bytes(theirs) == packet.to_bytes()


@given(packets)
def test_scapy_reads_what_we_wrote(packet: Esp) -> None:
    theirs = ESP(packet.to_bytes())
    assert (theirs.spi, theirs.seq, bytes(theirs.data)) == (packet.spi, packet.sequence, packet.payload)
