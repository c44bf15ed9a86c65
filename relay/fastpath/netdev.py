"""What drivers can do with frames (generic netlink's family "netdev", Linux 6.3), and who else has them."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from relay.fastpath.netlink import INDEX, Questions, attribute, attributes

# linux/netlink.h, linux/genetlink.h
_NETLINK_GENERIC: Final = 16
_GENL_ID_CTRL: Final = 16
_CTRL_CMD_GETFAMILY: Final = 3
_CTRL_ATTR_FAMILY_ID: Final = 1
_CTRL_ATTR_FAMILY_NAME: Final = 2
#: struct genlmsghdr: command, version.
_GENERIC: Final = struct.Struct("=BBxx")
_ID: Final = struct.Struct("=H")

# linux/netdev.h
_FAMILY: Final = b"netdev\0"
_NETDEV_CMD_DEV_GET: Final = 1
_NETDEV_A_DEV_IFINDEX: Final = 1
_NETDEV_A_DEV_XDP_FEATURES: Final = 3
#: NETDEV_XDP_ACT_BASIC, NETDEV_XDP_ACT_REDIRECT: a program may run, and send frames to other drivers …
_RUNS: Final = 1 | 2
#: … and NETDEV_XDP_ACT_NDO_XMIT: it takes such frames.
_TAKES: Final = 4
_FEATURES: Final = struct.Struct("=Q")

# linux/rtnetlink.h, linux/if_link.h
_RTM_GETLINK: Final = 18
_LINK: Final = struct.Struct("=BxHiII")
_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_LINK: Final = 5
_IFLA_MASTER: Final = 10
_IFLA_LINKINFO: Final = 18
_IFLA_EXT_MASK: Final = 29
_IFLA_LINK_NETNSID: Final = 37
_IFLA_INFO_KIND: Final = 1
_RTEXT_FILTER_SKIP_STATS: Final = 8
#: Kinds that have part of the frames of the interface that they stand on.
_PARTS: Final = frozenset({b"vlan", b"macvlan", b"macvtap", b"ipvlan", b"ipvtap"})

_ETHERNET_SIZE: Final = 6


@dataclass(frozen=True, slots=True)
class Station:
    """An interface as far as its driver matters; ``problem`` says why that is not to run a program."""

    address: bytes
    mtu: int
    problem: str = ""


class Netdev:
    """Questions to the kernel, on sockets of their own. ``problem`` says why none can be asked."""

    def __init__(self) -> None:
        self._links = Questions()
        self._generic = Questions(_NETLINK_GENERIC)
        self._family = self._ask_family()
        self.problem = "" if self._family else "the kernel does not say what drivers can (before Linux 6.3)"

    def _ask_family(self) -> int:
        question = _GENERIC.pack(_CTRL_CMD_GETFAMILY, 1) + attribute(_CTRL_ATTR_FAMILY_NAME, _FAMILY)
        answer = self._generic.ask(_GENL_ID_CTRL, question)
        found = {} if answer is None else attributes(answer, _GENERIC.size)
        return int(_ID.unpack(found[_CTRL_ATTR_FAMILY_ID])[0]) if _CTRL_ATTR_FAMILY_ID in found else 0

    def _features(self, interface: int) -> int:
        question = _GENERIC.pack(_NETDEV_CMD_DEV_GET, 1)
        question += attribute(_NETDEV_A_DEV_IFINDEX, INDEX.pack(interface))
        answer = self._generic.ask(self._family, question) if self._family else None
        found = {} if answer is None else attributes(answer, _GENERIC.size)
        raw = found.get(_NETDEV_A_DEV_XDP_FEATURES)
        return 0 if raw is None else int(_FEATURES.unpack(raw)[0])

    def takes_frames(self, interface: int) -> bool:
        """Whether an interface's driver transmits frames that others' hand to it."""
        return bool(self._features(interface) & _TAKES)

    def stations(self, interfaces: set[int]) -> dict[int, Station]:
        """What there is to know of these interfaces; those that are gone are left out.

        Raises:
            OSError: the kernel does not say; or EINTR: not for sure, ask again.
        """
        links = {number: found for number, found in self._dump() if number}
        return {number: self._station(number, links) for number in interfaces & links.keys()}

    def _dump(self) -> Iterator[tuple[int, dict[int, bytes]]]:
        question = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFLA_EXT_MASK, INDEX.pack(_RTEXT_FILTER_SKIP_STATS))
        for answer in self._links.ask_all(_RTM_GETLINK, question):
            yield _LINK.unpack_from(answer)[2], attributes(answer, _LINK.size)

    def _station(self, number: int, links: dict[int, dict[int, bytes]]) -> Station:
        about = links[number]
        address, mtu = about.get(_IFLA_ADDRESS, b""), INDEX.unpack(about[_IFLA_MTU])[0]
        return Station(address, mtu, self._problem(number, address, links))

    def _problem(self, number: int, address: bytes, links: dict[int, dict[int, bytes]]) -> str:
        if self.problem:
            return self.problem
        if len(address) != _ETHERNET_SIZE:
            return "it is not Ethernet"
        if _IFLA_MASTER in links[number]:
            master = links.get(INDEX.unpack(links[number][_IFLA_MASTER])[0], {})
            return f"it is a part of {_name(master)}"
        for upper in links.values():
            if _stands_on(upper, number):
                return f"{_name(upper)} stands on it"
        if self._features(number) & _RUNS != _RUNS:
            return "its driver knows no XDP"
        return ""

    def close(self) -> None:
        """Close the sockets."""
        self._links.close()
        self._generic.close()


def _name(link: dict[int, bytes]) -> str:
    return link.get(_IFLA_IFNAME, b"another").rstrip(b"\0").decode(errors="replace")


def _stands_on(link: dict[int, bytes], number: int) -> bool:
    kind = attributes(link.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_KIND, b"").rstrip(b"\0")
    return kind in _PARTS and _IFLA_LINK_NETNSID not in link and link.get(_IFLA_LINK) == INDEX.pack(number)
