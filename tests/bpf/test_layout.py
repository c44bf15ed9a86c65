"""The structures that both sides share, as the compiler laid them out (BTF) and as abi.py packs them."""

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest

from protocols.actions import Kind, Shortcut, Side
from protocols.addr import Ip4
from relay.fastpath import abi, kernel
from relay.fastpath.kernel import KernelFastPath
from relay.kernel import KernelError

_STRUCT: Final = 4  # BTF_KIND_STRUCT


class _Type(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size", ctypes.c_uint32))


class _Member(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("type", ctypes.c_uint32), ("bits", ctypes.c_uint32))


class Types:
    """The object's types."""

    def __init__(self) -> None:
        self._lib = lib = ctypes.CDLL("libbpf.so.1")
        lib.btf__parse.restype = lib.btf__type_by_id.restype = ctypes.c_void_p
        lib.btf__name_by_offset.restype = ctypes.c_char_p
        self._btf = ctypes.c_void_p(lib.btf__parse(bytes(kernel.OBJECT), None))

    def offsets(self, name: str) -> tuple[int, dict[str, int]]:
        """A structure's size, and its members with the octets before them."""
        number = self._lib.btf__find_by_name_kind(self._btf, name.encode(), _STRUCT)
        at = self._lib.btf__type_by_id(self._btf, number)
        found = _Type.from_address(at)
        members = (_Member * (found.info & 0xFFFF)).from_address(at + ctypes.sizeof(_Type))
        names = (self._lib.btf__name_by_offset(self._btf, member.name).decode() for member in members)
        return found.size, dict(zip(names, (member.bits // 8 for member in members), strict=True))

    def close(self) -> None:
        self._lib.btf__free(self._btf)


@pytest.fixture(scope="module")
def types() -> Iterator[Types]:
    opened = Types()
    yield opened
    opened.close()


SHORTCUT: Final = Shortcut(
    Kind.UDP, 17, Side.WAN, Ip4(0x01020304), Ip4(0x05060708), 0x11121314, Ip4(0x21), Ip4(0x31), 0x41424344
)


def test_a_key(types: Types) -> None:
    size, at = types.offsets("flow_key")
    key = abi.key(SHORTCUT)
    assert len(key) == abi.KEY.size == abi.KEY_WORDS.size == size
    assert key[at["source"] :][:4] == bytes.fromhex("01020304")
    assert key[at["target"] :][:4] == bytes.fromhex("05060708")
    assert key[at["label"] :][:4] == bytes.fromhex("11121314")
    assert key[at["protocol"]] == 17
    assert key[at["side"]] == 2
    assert key[at["whole"]] == 0
    assert key[at["zero"]] == 0
    whole = abi.key(replace(SHORTCUT, kind=Kind.IP))
    assert (whole[at["whole"]], whole[: at["whole"]]) == (1, key[: at["whole"]])


def test_a_flow(types: Types) -> None:
    size, at = types.offsets("flow")
    assert size == abi.FLOW_SIZE
    flow = bytes(abi.KEY.size) + abi.leaves(SHORTCUT, 7)
    assert at["key"] == 0
    assert flow[at["source"] :][:4] == bytes.fromhex("00000021")
    assert flow[at["target"] :][:4] == bytes.fromhex("00000031")
    assert flow[at["label"] :][:4] == bytes.fromhex("41424344")
    assert abi.HOP_INDEX.unpack_from(flow, at["hop"]) == (7,)
    assert at["hop"] == abi.HOP_AT
    assert flow[at["kind"]] == abi.KernelKind.UDP
    assert at["packets"] == abi.COUNTERS_AT
    assert at["reach"] == len(flow) == abi.REACH_AT
    assert at["reach"] + abi.REACH.size == size


def test_counters(types: Types) -> None:
    _, at = types.offsets("flow")
    memory = bytearray(abi.FLOW_SIZE)
    for name, value, width in (("packets", 1, 8), ("octets", 2, 8), ("last_seen", 3, 8), ("sequence", 4, 4)):
        memory[at[name] : at[name] + width] = value.to_bytes(width, "little")
    assert abi.COUNTERS.unpack_from(memory, abi.COUNTERS_AT) == (1, 2, 3, 4)


def test_what_holds_for_all(types: Types) -> None:
    size, at = types.offsets("control")
    control = abi.control(1, (2, 3), 4)
    assert len(control) == abi.CONTROL_SIZE == size
    assert abi.LEASE_END.unpack_from(control, at["until"]) == (1,)
    assert struct.unpack_from("=QQ", control, at["seed"]) == (2, 3)
    assert struct.unpack_from("=Q", control, at["homes"]) == (4,)
    assert abi.PPTP.unpack_from(control, at["pptp"]) == (1,)
    assert at["pptp"] == abi.PPTP_AT


def test_a_hop(types: Types) -> None:
    size, at = types.offsets("hop")
    hop = abi.hop(5, 0x0A000001, 1500, abi.Means.PEER, b"targetsource")
    assert len(hop) == abi.HOP_SIZE == size
    assert int.from_bytes(hop[at["interface"] :][:4], "little") == 5
    assert hop[at["gateway"] :][:4] == bytes.fromhex("0a000001")
    assert int.from_bytes(hop[at["mtu"] :][:4], "little") == 1500
    assert int.from_bytes(hop[at["means"] :][:4], "little") == abi.Means.PEER
    assert hop[at["header"] :][:12] == b"targetsource"


def test_a_station(types: Types) -> None:
    size, at = types.offsets("station")
    station = abi.station(bytes.fromhex("020304050607"))
    assert len(station) == size
    assert (at["first"], at["last"]) == (0, 4)
    assert station == bytes.fromhex("0203040506070000")


@pytest.mark.parametrize("more", [(4, 0), (0, 4)], ids=["key", "value"])
@pytest.mark.parametrize("name", abi.SHAPES)
def test_an_object_with_maps_of_other_sizes_is_refused_with_a_remedy(
    name: str, more: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one is that was compiled before the checkout was updated."""
    key, value = abi.SHAPES[name]
    ours = key + more[0], value + more[1]
    monkeypatch.setitem(abi.SHAPES, name, ours)
    said = f"'{name}' has keys and values of {key} and {value} octets, not {ours[0]} and {ours[1]}"
    with pytest.raises(KernelError, match=f"vpnmasq.bpf.o is another version's: its map {said}") as refused:
        KernelFastPath(64, instance="test")
    assert "run contrib/fastpath" in refused.value.remedy
