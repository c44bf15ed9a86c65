"""Watches what the kernel says about interfaces, addresses and routes (rtnetlink(7)).

The subscription is read with ``add_reader``: pyroute2's IPRSocket is made for that, so it takes no thread
and works under uvloop. A message only tells *that* something changed, and then everything is looked at again:
so none is parsed. One is lost only while others wait to be read, and those make us look after that. So the
kernel need not tell us (NETLINK_NO_ENOBUFS), and must not: by an error on the socket, after which uvloop
never calls its reader again.

What has been gained is reported at once. What has been lost may be back in a moment, when a link is
configured anew: that is waited for.
"""

import asyncio
import contextlib
import errno
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final, Generic, Self, TypeVar

import structlog
from pyroute2 import IPRSocket
from pyroute2.netlink import NETLINK_NO_ENOBUFS, SOL_NETLINK
from pyroute2.netlink.rtnl import RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_LINK

from relay.aside import aside
from relay.kernel import KernelError, refused

_log = structlog.get_logger("vpnmasq.kernel")

T = TypeVar("T")

#: Seconds that what was lost has to come back before it is reported.
SETTLE: Final = 0.1
#: Seconds from a message to the look: one change is told in several messages.
_PROMPT: Final = 0.004
#: Looks in a row that find nothing new, after which they are taken less often.
_IN_VAIN: Final = 3
#: Seconds until it is tried again when looking failed.
_AGAIN: Final = 1.0


class Watcher(Generic[T]):
    """Reports what ``look`` finds when that has changed, on the running event loop.

    Use as an async context manager. ``look`` blocks and is called aside. ``report`` gets what was found, and
    when the first message about it came (loop's clock). ``whole`` says of what was found that nothing is
    missing: it is reported at once, and anything else after ``settle`` seconds if it is still so. ``current``
    is what was found last.

    Raises:
        KernelError: the kernel gives no netlink socket, or does not answer.
    """

    current: T

    def __init__(
        self,
        look: Callable[[], T],
        report: Callable[[T, float], None],
        *,
        whole: Callable[[T], bool] = lambda _: True,
        settle: float = SETTLE,
        routes: bool = False,
    ) -> None:
        self._look = look
        self._report = report
        self._whole = whole
        self._settle = settle
        self._groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | (RTMGRP_IPV4_ROUTE if routes else 0)
        self._since: float | None = None
        self._due = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            self._subscription = _subscribe(self._groups)
            stack.callback(self._subscription.close)
            # Only now, subscribed, is nothing missed between the first look and the first message.
            self.current = await aside(self._look)
            number = self._subscription.fileno()
            loop.add_reader(number, self._changed)
            stack.callback(loop.remove_reader, number)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            self._watching = tasks.create_task(self._watch())
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watching.cancel()
        await self._open.aclose()  # not told of the body's error, which a TaskGroup would wrap

    def hint(self) -> None:
        """Look now: somebody says that something has changed."""
        if self._since is None:
            self._since = self._loop.time()
        self._due.set()

    def _changed(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._subscription.recv(65536):
                pass
        self.hint()

    async def _watch(self) -> None:
        lost: float | None = None
        in_vain = 0
        while True:
            await self._message(until=None if lost is None else lost + self._settle)
            await asyncio.sleep(_PROMPT if in_vain < _IN_VAIN else max(_PROMPT, self._settle))
            self._due.clear()
            since = self._since if self._since is not None else self._loop.time()
            try:
                found = await aside(self._look)
            except KernelError as problem:  # no file descriptors left, for example
                _log.warning("interfaces not looked at", error=str(problem))
                await asyncio.sleep(_AGAIN)
                self._due.set()
                continue
            self._forget(since)
            if found == self.current:
                lost, in_vain = None, in_vain + 1
                continue
            if not self._whole(found):
                lost = since if lost is None else lost
                if self._loop.time() < lost + self._settle:
                    continue
                since = lost
            lost, in_vain, self.current = None, 0, found
            self._report(found, since)

    def _forget(self, since: float) -> None:
        """What began then has been dealt with; a message that came meanwhile begins anew."""
        self._since = self._loop.time() if self._due.is_set() and self._since == since else None

    async def _message(self, *, until: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._due.wait()


def _subscribe(groups: int) -> Any:
    subscription = IPRSocket()
    try:
        subscription.socket.settimeout(0)  # this opens it; ``bind`` would hide why that fails
        subscription.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
        subscription.bind(groups=groups)
    except (OSError, KeyError) as error:
        subscription.close()
        # KeyError: pyroute2 found all 180 addresses that it tries in use.
        code = error.errno if isinstance(error, OSError) else errno.EADDRINUSE
        raise refused("watch the interfaces", code) from error
    return subscription
