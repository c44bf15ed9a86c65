"""GRE and ESP that are forwarded whole, by their addresses alone, beside calls of PPTP and pairs of ESP."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest

from protocols import ipv4
from protocols.actions import Shortcut, Side
from protocols.gre.codec import is_pptp
from tests.bpf.flows import ESP_DATA, GRE_DATA, IP, SHORTCUTS
from tests.bpf.kernel import PASS, REDIRECT, Program

WHOLE: Final = {"gre": replace(IP, protocol=47), "esp": replace(IP, protocol=50), "other": IP}


def packet(one: Shortcut, payload: str | bytes) -> bytes:
    """A packet of the flow as it arrives; ``payload`` may be in hexadecimal."""
    data = bytes.fromhex(payload) if isinstance(payload, str) else payload
    return ipv4.build(src=one.sender, dst=one.addressed, protocol=one.protocol, payload=data)


def left(one: Shortcut, payload: str) -> str:
    """The same as it leaves."""
    data = bytes.fromhex(payload)
    return ipv4.build(src=one.source, dst=one.target, protocol=one.protocol, payload=data, ttl=63).hex()


CARRIED = [
    pytest.param("gre", "0000 0800 45000014 00000000", id="gre"),
    pytest.param("gre", "2000 0800 0000002a 45000014", id="gre-with-a-key"),
    pytest.param("gre", "b000 6558 12340000 0000002a 00000007", id="gre-with-everything"),
    pytest.param("gre", "1000 88be 00000007 10000000", id="gre-of-a-mirror"),
    pytest.param("gre", "2000 880b 0004 0064 c0210101", id="gre-version-0-with-ppp"),
    pytest.param("gre", "3001 0800 0004 0064 00000007", id="gre-version-1-without-ppp"),
    pytest.param("gre", "2002 880b 0004 0064 c0210101", id="gre-version-2"),
    pytest.param("esp", "0a0b0c0d 00000100" + "00" * 40, id="esp"),
    pytest.param("esp", "0a0b0c0d 00000001" + "00" * 40, id="esp-first-of-all"),
    pytest.param("esp", "ffffffff 00000000" + "00" * 40, id="esp-without-a-number"),
    pytest.param("esp", "00000000 00000007", id="esp-without-an-spi"),
    pytest.param("other", "3001 880b 0004 0064 c0210101", id="other"),
]

#: Carried only where no rule is for PPTP.
OF_PPTPS_KIND = [
    pytest.param("gre", "2001 880b 0004 0064 c0210101", id="no-numbers"),
    pytest.param("gre", "3001 880b 0004 0064 00000007 c0210101", id="sequence"),
    pytest.param("gre", "3081 880b 0004 0064 00000007 00000001 c0210101", id="both-numbers"),
    pytest.param("gre", "3001 880b 0004 0000 00000007 c0210101", id="call-id-0"),
    pytest.param("gre", "1001 880b 0004 0064 00000007 c0210101", id="no-key"),
    pytest.param("gre", "b001 880b 0004 0064 00000007 c0210101", id="checksum"),
    pytest.param("gre", "3009 880b 0004 0064 00000007 c0210101", id="flags"),
    pytest.param("gre", "3001 880b ffff 0064 00000007 c0210101", id="payload-beyond-the-end"),
]


@pytest.mark.parametrize(("kind", "payload"), CARRIED)
def test_what_is_forwarded_whole_keeps_all_but_its_addresses(
    program: Program, kind: str, payload: str
) -> None:
    one = WHOLE[kind]
    number = program.knows(one)
    sent = packet(one, payload)
    ran = program.run(Side.LAN, sent)
    assert (ran.verdict, ran.packet.hex()) == (REDIRECT, left(one, payload))
    packets, octets, _, sequence = program.fastpath.carried(number) or (0, 0, 0.0, 1)
    assert (packets, octets, sequence) == (1, len(sent), 0)
    assert program.run(Side.WAN, sent).verdict == PASS


@pytest.fixture
def without_pptp(program: Program) -> Iterator[None]:
    program.fastpath.pptp_served(served=False)
    yield
    program.fastpath.pptp_served(served=True)


@pytest.mark.parametrize(("kind", "payload"), OF_PPTPS_KIND)
def test_gre_of_pptps_kind_is_of_calls_alone(program: Program, kind: str, payload: str) -> None:
    """Its call may be one that is not sure yet."""
    assert is_pptp(bytes.fromhex(payload), 0)
    program.knows(WHOLE[kind])
    sent = packet(WHOLE[kind], payload)
    ran = program.run(Side.LAN, sent)
    assert (ran.verdict, ran.packet) == (PASS, sent)


@pytest.mark.usefixtures("without_pptp")
@pytest.mark.parametrize(("kind", "payload"), [*OF_PPTPS_KIND, *CARRIED])
def test_without_rules_for_pptp_all_gre_is_carried(program: Program, kind: str, payload: str) -> None:
    """As the HOWTO's ipfwd --masq 47 has it; whatever the rest of the header says."""
    number = program.knows(WHOLE[kind])
    sent = packet(WHOLE[kind], payload)
    assert program.run(Side.LAN, sent).packet.hex() == left(WHOLE[kind], payload)
    assert (program.fastpath.carried(number) or (0,))[0] == 1
    program.fastpath.unload(number)
    assert program.run(Side.LAN, sent).verdict == PASS


@pytest.mark.usefixtures("without_pptp")
def test_a_call_that_still_is_there_goes_first(program: Program) -> None:
    """For the moment in which the last rule for PPTP goes."""
    program.knows(WHOLE["gre"])
    program.knows(SHORTCUTS["gre"])
    assert program.run(Side.LAN, packet(WHOLE["gre"], GRE_DATA)).packet[26:28] == bytes.fromhex("c001")


@pytest.mark.parametrize("payload", ["0000 0000", "0000 0800 4500"], ids=["header-alone", "two-octets"])
@pytest.mark.parametrize("filling", [0, 22], ids=["bare", "filled-up"])
def test_gre_without_room_for_a_call_id_is_user_spaces(program: Program, payload: str, filling: int) -> None:
    program.knows(WHOLE["gre"])
    sent = packet(WHOLE["gre"], payload)
    ran = program.run(Side.LAN, sent + bytes(filling))
    assert (ran.verdict, ran.packet[: len(sent)]) == (PASS, sent)


@pytest.mark.parametrize("call_id", [0x64, 0])
def test_a_call_and_other_gre_between_the_same_hosts_are_two_flows(program: Program, call_id: int) -> None:
    call = replace(SHORTCUTS["gre"], label=call_id)
    numbers = [program.knows(WHOLE["gre"]), program.knows(call)]
    of_the_call = GRE_DATA[:6] + call_id.to_bytes(2) + GRE_DATA[8:]
    of_none = GRE_DATA[:6] + bytes.fromhex("0065") + GRE_DATA[8:]
    ran = program.run(Side.LAN, packet(call, of_the_call))
    assert (ran.verdict, ran.packet[16:20]) == (REDIRECT, call.target.to_bytes(4))
    assert ran.packet[26:28] == call.new_label.to_bytes(2)
    assert program.run(Side.LAN, packet(call, of_none)).verdict == PASS
    plain = "0000 0800 45000014 00000000"
    assert program.run(Side.LAN, packet(call, plain)).packet.hex() == left(WHOLE["gre"], plain)
    assert [(program.fastpath.carried(number) or (0,))[0] for number in numbers] == [1, 1]
    program.fastpath.unload(numbers[0])
    assert program.run(Side.LAN, packet(call, plain)).verdict == PASS
    assert program.run(Side.LAN, packet(call, of_the_call)).verdict == REDIRECT


@pytest.mark.parametrize("label", [0, 0x64])
def test_a_call_is_none_of_other_gre(program: Program, label: int) -> None:
    program.knows(replace(SHORTCUTS["gre"], label=label))
    for plain in ("0000 0800 0004 0064 00000007", "2000 880b 0004 0000 00000007"):
        assert program.run(Side.LAN, packet(WHOLE["gre"], plain)).verdict == PASS


@pytest.mark.parametrize("spi", [0x0A0B0C0D, 0])
def test_an_spi_that_nobody_knows_finds_what_is_forwarded_whole_and_no_pair(
    program: Program, spi: int
) -> None:
    number = program.knows(replace(SHORTCUTS["esp"], label=spi, new_label=spi))
    unknown = packet(WHOLE["esp"], bytes.fromhex("0a0b0c0e") + ESP_DATA[4:])
    assert program.run(Side.LAN, unknown).verdict == PASS
    program.knows(WHOLE["esp"])
    assert program.run(Side.LAN, unknown).packet[16:20] == WHOLE["esp"].target.to_bytes(4)
    known = packet(WHOLE["esp"], spi.to_bytes(4) + ESP_DATA[4:])
    assert program.run(Side.LAN, known).packet[16:20] == SHORTCUTS["esp"].target.to_bytes(4)
    assert (program.fastpath.carried(number) or (0,))[0] == 1
