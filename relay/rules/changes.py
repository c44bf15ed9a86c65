"""Hears when anybody changes routing rules or nftables: what is taken of ours shall be put back.

A firewall that is loaded anew flushes all tables, and systemd-networkd removes the rules of others when
it starts again. The kernel tells of every such change (rtnetlink(7), linux/netfilter/nfnetlink.h); what is
told is not read, for whoever wants to know looks at the kernel anyway.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, Self

from relay.kernel import refused

# linux/netlink.h, linux/rtnetlink.h, linux/netfilter/nfnetlink.h
_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_NETLINK_ROUTE: Final = 0
_RTNLGRP_IPV4_RULE: Final = 8
_NETLINK_NETFILTER: Final = 12
_NFNLGRP_NFTABLES: Final = 7

#: Seconds after the first change of several, which mostly come together.
SETTLE: Final = 0.2
#: Seconds between two reports: a program that works against us is not to keep us busy.
PAUSE: Final = 1.0

#: Larger than any message; a longer one would be cut, and is thrown away all the same.
_READ: Final = 65536


class Changes:
    """Calls ``report`` soon after routing rules or nftables have changed. A context manager on the loop.

    Raises:
        KernelError: the kernel does not tell us: CAP_NET_ADMIN is missing, or it has no nftables.
    """

    def __init__(self, report: Callable[[], None], *, settle: float = SETTLE, pause: float = PAUSE) -> None:
        self._report = report
        self._settle = settle
        self._pause = pause
        self._timer: asyncio.TimerHandle | None = None
        self._quiet_until = 0.0

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            stack.callback(self._stop)
            for family, group in (
                (_NETLINK_ROUTE, _RTNLGRP_IPV4_RULE),
                (_NETLINK_NETFILTER, _NFNLGRP_NFTABLES),
            ):
                sock = stack.enter_context(_subscribed(family, group))
                self._loop.add_reader(sock.fileno(), self._heard, sock)
                stack.callback(self._loop.remove_reader, sock.fileno())
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _heard(self, sock: socket.socket) -> None:
        try:
            while sock.recv(_READ):
                pass
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # there was more than fits: changes all the same
                raise
        if self._timer is None:
            due = max(self._loop.time() + self._settle, self._quiet_until)
            self._timer = self._loop.call_at(due, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._quiet_until = self._loop.time() + self._pause
        self._report()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _subscribed(family: int, group: int) -> socket.socket:
    try:
        sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, family
        )
        try:
            sock.bind((0, 0))
            sock.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise refused("watch routing rules and nftables", error.errno) from error
    return sock
