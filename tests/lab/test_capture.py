"""What counts as lost in a gateway, by what tcpdump tells of its interfaces."""

import io

import pytest

from tests.lab.capture import Capture, lost_esp, lost_gre, sources

OUT_IN = "eth0  In  IP 10.0.0.2 > 199.0.0.1: ESP(spi=0x0000c001,seq=0x1), length 132"
OUT_OUT = "eth1  Out IP 200.200.200.9 > 199.0.0.1: ESP(spi=0x0000c001,seq=0x1), length 132"
IN_IN = "eth1  In  IP 199.0.0.1 > 200.200.200.9: ESP(spi=0x0000d001,seq=0x1), length 132"
IN_TWO = "eth0  Out IP 199.0.0.1 > 10.0.0.2: ESP(spi=0x0000d001,seq=0x1), length 132"
IN_THREE = "eth0  Out IP 199.0.0.1 > 10.0.0.3: ESP(spi=0x0000d001,seq=0x1), length 132"
UDP_IN = "eth0  In  IP 10.0.0.2.4500 > 199.0.0.1.4500: UDP-encap: ESP(spi=0x0000c001,seq=0x1), length 132"
UDP_OUT = (
    "eth1  Out IP 200.200.200.9.61001 > 199.0.0.1.4500: UDP-encap: ESP(spi=0x0000c001,seq=0x1), length 132"
)
CALL_IN = "eth0  In  IP 10.0.0.2 > 199.0.0.1: GREv1, call 7, seq 1, ack 0, length 60: PPP"
CALL_OUT = "eth1  Out IP 200.200.200.9 > 199.0.0.1: GREv1, call 7, seq 1, ack 0, length 60: PPP"
ANSWER_IN = "eth1  In  IP 199.0.0.1 > 200.200.200.9: GREv1, call 40001, seq 1, ack 1, length 60: PPP"
ANSWER_OUT = "eth0  Out IP 199.0.0.1 > 10.0.0.2: GREv1, call 1, seq 1, ack 1, length 60: PPP"
ACKED = "eth0  In  IP 10.0.0.2 > 199.0.0.1: GREv1, call 7, ack 1, no-payload, length 12"


def later(line: str) -> str:
    """Return the next packet of the same SA."""
    return line.replace("seq=0x1", "seq=0x2")


@pytest.mark.parametrize(
    ("lines", "lost"),
    [
        ([OUT_IN, OUT_OUT, IN_IN, IN_TWO], {}),
        ([OUT_IN], {"0x0000c001 from a client": 1}),
        ([OUT_IN, later(OUT_IN), OUT_OUT], {"0x0000c001 from a client": 1}),
        ([IN_IN], {"0x0000d001 to a client": 1}),
        ([IN_IN, IN_TWO, IN_THREE, later(IN_IN), later(IN_TWO)], {}),
        ([IN_IN, IN_THREE, later(IN_IN), later(IN_TWO)], {"0x0000d001 to a client": 1}),
        ([OUT_IN, OUT_OUT, IN_TWO], {}),
        ([UDP_IN, UDP_OUT], {}),
        ([UDP_IN, later(UDP_IN), UDP_OUT], {"0x0000c001 from a client": 1}),
    ],
    ids=[
        "all",
        "outbound",
        "one of two",
        "inbound",
        "a copy",
        "to different clients",
        "nothing came",
        "in UDP",
        "one of two in UDP",
    ],
)
def test_a_packet_crosses_when_it_comes_in_and_goes_out(lines: list[str], lost: dict[str, int]) -> None:
    assert lost_esp(Capture(io.StringIO("\n".join(lines))), "200.200.200.9") == lost


@pytest.mark.parametrize(
    ("lines", "lost"),
    [
        ([CALL_IN, CALL_OUT, ANSWER_IN, ANSWER_OUT], {}),
        ([CALL_IN], {"GRE from clients": 1}),
        ([CALL_IN, CALL_IN, CALL_OUT], {"GRE from clients": 1}),
        ([ANSWER_IN, ANSWER_OUT, ANSWER_IN], {"GRE to clients": 1}),
        ([ACKED], {}),
    ],
    ids=["all", "outbound", "one of two calls", "inbound", "no data"],
)
def test_a_packet_of_a_call_crosses_likewise(lines: list[str], lost: dict[str, int]) -> None:
    assert lost_gre(Capture(io.StringIO("\n".join(lines))), "200.200.200.9") == lost


def test_sources() -> None:
    lines = [OUT_IN, "IP 199.0.0.1.500 > 200.200.200.9.500: isakmp: phase 2/others ? inf[E]"]
    assert sources(Capture(io.StringIO("\n".join(lines)))) == {"10.0.0.2", "199.0.0.1"}
