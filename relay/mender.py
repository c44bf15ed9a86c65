"""Puts back at once what others take of ours in the kernel."""

from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, Self

import structlog

from relay.interceptor import Interceptor
from relay.kernel import KernelError
from relay.rules.changes import Changes
from relay.wakeup import Ticker

_log = structlog.get_logger("vpnmasq.kernel")

#: Seconds between looks that nothing asked for: routes are not watched, as large routers have a million.
_REGULARLY = 60.0


class Mender:
    """Has an Interceptor look after what it installed. Use as a context manager on the running loop.

    ``spawn`` starts a coroutine in the daemon's task group.
    """

    def __init__(
        self, interceptor: Interceptor, spawn: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        self._interceptor = interceptor
        self._spawn = spawn

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(Ticker(_REGULARLY, self._look))
            try:
                stack.enter_context(Changes(self._look))
            except KernelError as error:
                _log.info("what others take is noticed late", error=str(error))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _look(self) -> None:
        self._spawn(self._interceptor.mend())
