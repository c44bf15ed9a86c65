"""Our IPv4 headers, fragments and TCP resets against scapy's."""

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.packet import Raw

from protocols import ipv4, tcp
from protocols.addr import parse_ip, show_ip

CLIENT = parse_ip("10.0.0.2")
PEER = parse_ip("199.0.0.1")

octets = st.integers(0, 0xFF)
words = st.integers(0, 0xFFFF)
addresses = st.integers(0, 0xFFFFFFFF)


def as_theirs(header: ipv4.Header) -> IP:
    flags = header.reserved_flag << 2 | header.dont_fragment << 1 | header.more_fragments
    return IP(
        src=show_ip(header.src),
        dst=show_ip(header.dst),
        proto=header.protocol,
        len=header.total_length,
        tos=header.tos,
        id=header.identification,
        flags=flags,
        frag=header.fragment_offset // 8,
        ttl=header.ttl,
    )


@given(
    st.builds(
        ipv4.Header,
        src=addresses,
        dst=addresses,
        protocol=octets,
        total_length=st.integers(20, 0xFFFF),
        tos=octets,
        identification=words,
        reserved_flag=st.booleans(),
        dont_fragment=st.booleans(),
        more_fragments=st.booleans(),
        fragment_offset=st.integers(0, 0x1FFF).map(lambda units: units * 8),
        ttl=octets,
    )
)
def test_scapy_writes_the_same_header(header: ipv4.Header) -> None:
    assert bytes(as_theirs(header)) == header.to_bytes()
    assert ipv4.Header.from_bytes(bytes(as_theirs(header))) == header


@given(st.integers(1, 10).flatmap(lambda count: st.binary(min_size=4 * count, max_size=4 * count)))
def test_scapy_finds_the_payload_behind_options(options: bytes) -> None:
    header = ipv4.Header(
        src=CLIENT,
        dst=PEER,
        protocol=47,
        total_length=24 + len(options),
        options=b"\1" * len(options),
    )
    theirs = IP(header.to_bytes() + options[:4])
    assert theirs.ihl * 4 == header.length
    assert bytes(theirs.payload) == options[:4]


@settings(max_examples=30)  # scapy takes its time over fragments
@given(st.integers(1, 2000), st.integers(68, 1500), octets, words)
def test_scapy_cuts_the_same_pieces(excess: int, mtu: int, tos: int, identification: int) -> None:
    payload = bytes(i & 0xFF for i in range(mtu - 20 + excess))
    # Protocol 253 is for experiments (RFC 3692): scapy must not look inside.
    packet = ipv4.build(
        src=CLIENT,
        dst=PEER,
        protocol=253,
        payload=payload,
        tos=tos,
        identification=identification,
    )
    theirs = [bytes(piece) for piece in IP(packet).fragment(mtu - 20)]
    assert ipv4.fragment(packet, mtu) == theirs


@given(addresses, addresses, words, words, addresses, st.binary(max_size=20))
def test_scapy_finds_nothing_wrong_with_a_reset(
    src: int, dst: int, sport: int, dport: int, seq: int, data: bytes
) -> None:
    syn = (
        IP(src=show_ip(src), dst=show_ip(dst)) / TCP(sport=sport, dport=dport, seq=seq, flags="S") / Raw(data)
    )
    reset = IP(tcp.reset_for(bytes(syn)))
    assert (reset.src, reset.dst) == (show_ip(dst), show_ip(src))
    assert (reset[TCP].sport, reset[TCP].dport, str(reset[TCP].flags)) == (dport, sport, "RA")
    assert reset[TCP].ack == (seq + 1 + len(data)) & 0xFFFFFFFF
    again = reset.copy()
    del again.chksum, again[TCP].chksum
    assert bytes(again) == bytes(reset)
