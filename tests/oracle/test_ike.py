"""Our IKE headers, of both versions, and our ESP in UDP against scapy's."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.ikev2 import IKEv2
from scapy.layers.ipsec import ESP
from scapy.layers.isakmp import ISAKMP

from protocols.ike.header import LENGTH, IkeHeader
from protocols.ike.natt import EspInUdp

cookies = st.integers(0, 2**64 - 1)
octets = st.integers(0, 255)


def headers(version: int) -> st.SearchStrategy[IkeHeader]:
    return st.builds(
        IkeHeader,
        initiator_cookie=cookies,
        responder_cookie=cookies,
        exchange=octets,
        message_id=st.integers(0, 2**32 - 1),
        length=st.just(LENGTH),
        version=st.just(version),
        minor=st.integers(0, 15),
        # Another next payload would have scapy look for it.
        next_payload=st.just(0),
        flags=octets,
    )


@given(headers(1))
def test_scapy_writes_the_same_isakmp_header(header: IkeHeader) -> None:
    theirs = ISAKMP(
        init_cookie=header.initiator_cookie.to_bytes(8),
        resp_cookie=header.responder_cookie.to_bytes(8),
        next_payload=0,
        version=header.version << 4 | header.minor,
        exch_type=header.exchange,
        flags=header.flags,
        id=header.message_id,
    )
    assert bytes(theirs) == header.to_bytes()


@given(headers(1))
def test_scapy_reads_our_isakmp_header(header: IkeHeader) -> None:
    theirs = ISAKMP(header.to_bytes())
    assert theirs.init_cookie == header.initiator_cookie.to_bytes(8)
    assert theirs.resp_cookie == header.responder_cookie.to_bytes(8)
    assert theirs.exch_type == header.exchange
    assert theirs.id == header.message_id
    assert theirs.length == LENGTH


@given(headers(2))
def test_scapy_reads_our_ikev2_header(header: IkeHeader) -> None:
    theirs = IKEv2(header.to_bytes())
    assert theirs.init_SPI == header.initiator_cookie.to_bytes(8)
    assert theirs.resp_SPI == header.responder_cookie.to_bytes(8)
    assert theirs.version == header.version << 4 | header.minor
    assert theirs.exch_type == header.exchange
    assert int(theirs.flags) == header.flags
    assert theirs.id == header.message_id
    assert IkeHeader.from_bytes(bytes(theirs)) == header


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_scapy_reads_our_esp(spi: int, sequence: int) -> None:
    theirs = ESP(EspInUdp(spi, sequence).to_bytes())
    assert (theirs.spi, theirs.seq) == (spi, sequence)
