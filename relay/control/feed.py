"""Events on their way to followers: one bounded queue each.

The daemon publishes and never waits. A follower that reads too slowly overruns its own queue and is cut
off: it gets what was queued, one last line that says so, and nothing more; nobody else notices.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from protocols.sessions import Session
from relay.control import schema

#: Events a follower may be behind: some seconds of a busy gateway, about 1 MB.
QUEUE_LIMIT = 2000
#: Followers at a time; every one costs a queue and a share of each event.
FOLLOWER_LIMIT = 32

Event = dict[str, Any]


class Subscription:
    """One follower's queue. Iterate over it with ``async for``; close it when done.

    After the loop ``why`` tells what ended it: empty when the follower itself closed.
    """

    def __init__(self, feed: "Feed", limit: int) -> None:
        self._feed = feed
        self._limit = limit
        self._events: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._ended = False
        self.why = ""

    def offer(self, event: Event) -> None:
        """Queue the event, or cut the follower off when the queue is full."""
        if self._ended:
            return
        if len(self._events) >= self._limit:
            self.end(f"too slow: more than {self._limit} events behind")
            return
        self._events.append(event)
        self._wake.set()

    def end(self, why: str = "") -> None:
        """Take no more events; what is queued can still be read."""
        if not self._ended:
            self._ended = True
            self.why = why
        self._feed.forget(self)
        self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._events.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class TooManyFollowersError(Exception):
    """All places are taken."""


class Feed:
    """Where the daemon says what happens; the daemon's ``subscribe()`` returns ``feed.subscribe()``.

    Publishing costs nothing while nobody follows. Events that packets cause (``refused``) must be
    throttled by the caller.
    """

    def __init__(self, clock: Callable[[], float], *, limit: int = QUEUE_LIMIT) -> None:
        self._dates = schema.Dates(clock)
        self._limit = limit
        self._subscriptions: list[Subscription] = []

    def subscribe(self) -> Subscription:
        """Return a new subscription.

        Raises:
            TooManyFollowersError: FOLLOWER_LIMIT is reached.
        """
        if len(self._subscriptions) >= FOLLOWER_LIMIT:
            raise TooManyFollowersError(f"{FOLLOWER_LIMIT} followers are connected already; end one of them")
        subscription = Subscription(self, self._limit)
        self._subscriptions.append(subscription)
        return subscription

    def __len__(self) -> int:
        return len(self._subscriptions)

    def forget(self, subscription: Subscription) -> None:
        """Stop publishing to the subscription; harmless when it is unknown."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def close(self, why: str) -> None:
        """End every subscription, with a word why (the daemon stops)."""
        for subscription in tuple(self._subscriptions):
            subscription.end(why)

    def publish(self, event: str, /, **fields: Any) -> None:
        """Say that something happened: ``event`` is a slug, the fields are JSON values."""
        if not self._subscriptions:
            return
        line = schema.event(event, self._dates, **fields)
        for subscription in tuple(self._subscriptions):
            subscription.offer(line)

    def session_opened(self, session: Session) -> None:
        """A session entered the registry."""
        self._publish_session("session-opened", session)

    def session_changed(self, session: Session) -> None:
        """A session's state changed."""
        self._publish_session("session-changed", session)

    def session_closed(self, session: Session, why: str) -> None:
        """A session left the registry."""
        self._publish_session("session-closed", session, why=why)

    def address_changed(self, interface: str, old: str | None, new: str | None) -> None:
        """The WAN address changed; None stands for "no address"."""
        self.publish("address-changed", interface=interface, old=old, new=new)

    def refused(self, reason: str, **fields: Any) -> None:
        """Something was refused for a drop reason; throttle these."""
        self.publish("refused", reason=reason, **fields)

    def _publish_session(self, event: str, session: Session, **fields: Any) -> None:
        if self._subscriptions:
            self.publish(event, session=schema.session(session, self._dates), **fields)
