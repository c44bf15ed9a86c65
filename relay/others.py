"""Other programs of this host that use what we serve (HOWTO §3.14): who has a port, who reads a protocol.

All of it is read from /proc and asked of the kernel when we start or are reloaded; it blocks for some
milliseconds. To find out who has a socket takes privileges over that program; without them its user is named.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from relay.aside import aside
from relay.kernel import KernelError
from relay.plan import Plan

_log = structlog.get_logger("vpnmasq")

#: Another instance, which has interfaces of its own.
_OURS: Final = "vpnmasq"
_GRE: Final = 47
_ESP: Final = 50
_PROC: Final = Path("/proc")
#: The state of a listening TCP socket in /proc/net/tcp.
_LISTENING: Final = "0A"
#: Columns of /proc/net/{tcp,udp,raw}.
_LOCAL, _STATE, _USER, _INODE = 1, 3, 7, 9

# linux/netlink.h, linux/xfrm.h
_NETLINK_XFRM: Final = 6
_XFRM_MSG_NEWSA: Final = 0x10
_XFRM_MSG_GETSA: Final = 0x12
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_REQUEST_DUMP: Final = 0x301
_header = struct.Struct("=IHHII")
#: struct xfrm_usersa_id.
_NO_ID: Final = bytes(24)


@dataclass(slots=True)
class Others:
    """What an operator should know of others that read what we serve.

    Packets for such a program reach us as well, and ours reach it; one of the two is not meant.
    """

    remarks: list[str] = field(default_factory=list)
    #: Who has a socket, by inode: later we may have no privilege to see it.
    _known: dict[int, str] = field(default_factory=dict)

    async def look(self, plan: Plan) -> None:
        """Look around, and log what is new."""
        pptp = plan.pptp and bool(plan.lan_openings or plan.wan_openings)
        found = await aside(self.found, pptp=pptp, ipsec=plan.ipsec is not None)
        for text in found:
            if text not in self.remarks:
                _log.warning("another program", about=text)
        self.remarks = found

    def found(self, *, pptp: bool, ipsec: bool) -> list[str]:
        """Look around; what is to be said while these are served."""
        texts = []
        if pptp:
            texts += [_reader(who, "GRE", "PPTP", "pptp") for who in self._readers(_GRE)]
        if ipsec:
            texts += [_reader(who, "ESP", "IPsec", "ipsec") for who in self._readers(_ESP)]
            count = security_associations()
            if count:
                texts.append(_kernel(count))
        return texts

    def _readers(self, protocol: int) -> list[str]:
        """The programs that read an IP protocol; none of them is ours."""
        sockets = _sockets("raw", protocol)
        self._known |= _owners(sockets)
        named = {self._known.get(inode, f"a program of user {user}") for inode, user in sockets.items()}
        return sorted(named - {_OURS})


def port_taken(kind: str, port: int, interface: str) -> KernelError:
    """What to say when somebody else has a port that we need; ``kind`` is tcp or udp."""
    sockets = _sockets(kind, port)
    owner = next(iter(_owners(sockets).values()), None)
    who = "another program" if owner is None else f"another program, {owner}"
    options = "-ltnp" if kind == "tcp" else "-lunp"
    advice = f"see which with `ss {options} sport = :{port}`; stop it, or let it listen elsewhere"
    vpn = {("tcp", 1723): "pptp", ("udp", 500): "ipsec", ("udp", 4500): "ipsec"}.get((kind, port))
    if vpn is not None:
        advice += f' (HOWTO §3.14), or leave "{vpn}" out of the rules'
    return KernelError(f"{kind}/{port} on {interface} is taken by {who}", advice)


def _kernel(count: int) -> str:
    return (
        f"this host has {count} IPsec SA{'s' if count > 1 else ''} of its own (ip xfrm state): what their "
        'peers send comes here too, and is dropped here. Leave "ipsec" out of the rules, or move that IPsec '
        "gateway to an inside host and expose it (HOWTO §3.14)"
    )


def _reader(who: str, protocol: str, vpn: str, rule: str) -> str:
    return (
        f"{who} on this host reads {protocol} too, most likely for {vpn} of its own, whose packets we drop "
        f'and count. Leave "{rule}" out of the rules, or run it on an inside host (HOWTO §3.14)'
    )


def security_associations() -> int:
    """How many IPsec SAs the kernel has in this network namespace; 0 also where it has no IPsec."""
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_XFRM) as ask,
    ):
        ask.settimeout(1.0)
        ask.bind((0, 0))
        ask.send(_header.pack(_header.size + len(_NO_ID), _XFRM_MSG_GETSA, _REQUEST_DUMP, 1, 0) + _NO_ID)
        return sum(kind == _XFRM_MSG_NEWSA for kind in _answers(ask))
    return 0


def _answers(ask: socket.socket) -> Iterator[int]:
    """The types of the messages of a netlink dump."""
    while data := ask.recv(1 << 16):
        while len(data) >= _header.size:
            length, kind, *_ = _header.unpack_from(data)
            if kind in (_NLMSG_DONE, _NLMSG_ERROR) or length < _header.size:
                return
            yield kind
            data = data[length + 3 & ~3 :]


def _sockets(kind: str, number: int) -> dict[int, int]:
    """Inodes and users of the sockets with this local port, or for raw ones this protocol."""
    found = {}
    with contextlib.suppress(OSError):
        for line in (_PROC / "net" / kind).read_text().splitlines()[1:]:
            columns = line.split()
            port = int(columns[_LOCAL].rpartition(":")[2], 16)
            if port == number and (kind != "tcp" or columns[_STATE] == _LISTENING):
                found[int(columns[_INODE])] = int(columns[_USER])
    return found


def _owners(sockets: Iterable[int]) -> dict[int, str]:
    """The programs that have these sockets open, by inode, as far as we may know; ours have one name."""
    wanted = {f"socket:[{inode}]": inode for inode in sockets}
    found: dict[int, str] = {}
    if not wanted:
        return found
    for process in _PROC.iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            name = (process / "comm").read_text().strip()
            ours = name == _OURS or int(process.name) == os.getpid()
            who = _OURS if ours else f"{name} (process {process.name})"
            found |= {wanted[target]: who for target in _open_files(process) if target in wanted}
    return found


def _open_files(process: Path) -> Iterator[str]:
    for link in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield str(link.readlink())
