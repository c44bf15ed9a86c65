"""Whether an interface's clsact qdisc has filters: only an empty one is to be removed (rtnetlink(7))."""

import socket
import struct
from typing import Final

from relay.fastpath.netlink import HEADER

# linux/rtnetlink.h, linux/netlink.h
_RTM_NEWTFILTER: Final = 44
_RTM_GETTFILTER: Final = 46
_NLM_F_REQUEST_DUMP: Final = 0x1 | 0x300

#: linux/pkt_sched.h: TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), and the same for egress.
_INGRESS: Final = 0xFFFFFFF2
EGRESS: Final = 0xFFFFFFF3

#: struct tcmsg: family, interface, handle, parent, info.
_TCMSG: Final = struct.Struct("=BxxxiIII")


def any_filter(interface: int, *hooks: int) -> bool:
    """Whether anybody's filter is there, at some hooks or any; also True when the kernel does not answer."""
    try:
        return any(_has_filter(interface, parent) for parent in hooks or (_INGRESS, EGRESS))
    except OSError:
        return True


def _has_filter(interface: int, parent: int) -> bool:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        sock.settimeout(1.0)
        length = HEADER.size + _TCMSG.size
        header = HEADER.pack(length, _RTM_GETTFILTER, _NLM_F_REQUEST_DUMP, 1, 0)
        sock.send(header + _TCMSG.pack(socket.AF_UNSPEC, interface, 0, parent, 0))
        # Where there is none, the first answer is already the last.
        return bool(HEADER.unpack_from(sock.recv(65536))[1] == _RTM_NEWTFILTER)
